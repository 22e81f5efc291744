"""The command line: one small file a command, words on a terminal, no logic of its own."""
