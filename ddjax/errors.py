"""The one exception that means "what you gave is wrong", as opposed to a defect of the library."""


class InputError(ValueError):
    """Bad input from the user. Its message is one line that says what is wrong and what to do about it.

    The command line prints the message alone and exits with status 2; every other exception is a defect and keeps its
    traceback.
    """
