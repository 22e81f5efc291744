"""`python -m ddjax` is the command `ddjax`."""

from ddjax.cli import main

main()
