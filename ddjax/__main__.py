"""`python -m ddjax` is the command `ddjax`."""

from ddjax.cli.main import main

main()
