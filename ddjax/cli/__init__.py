"""The command line: words on a terminal, no logic of its own."""
