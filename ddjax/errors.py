"""What can go wrong without being a defect of the library; every other exception is one, and keeps its traceback."""


class InputError(ValueError):
    """Bad input from the user. Its message is one line that says what is wrong and what to do about it.

    The command line prints the message alone and exits with status 2.
    """


class InterruptedRunError(Exception):
    """SIGINT or SIGTERM arrived; what there was to save was saved. `signum` is the signal's number, `step` that of the last
    outer step that was taken."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"interrupted at step {step}, saved")
        self.signum, self.step = signum, step


class NonFiniteError(ArithmeticError):
    """Loss or meta-gradient was not finite; the state before that step was saved."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception of others, for the end of a message: its type and text without line breaks, cut at `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
