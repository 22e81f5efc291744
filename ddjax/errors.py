"""What can go wrong without being a defect of the library; every other exception is one, and keeps its traceback."""


class InputError(ValueError):
    """Bad input from the user. Its message is one line that says what is wrong and what to do about it.

    The command line prints the message alone and exits with status 2. What input is quoted in it cannot move a terminal's
    cursor, nor fill it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_plain(str(message)))


class InterruptedRunError(Exception):
    """SIGINT, SIGTERM or SIGHUP arrived; what there was to save was saved. `signum` is its number, `step` that of the last
    outer step that was taken."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"interrupted at step {step}, saved")
        self.signum, self.step = signum, step


class NonFiniteError(ArithmeticError):
    """Loss or meta-gradient was not finite; the state before that step was saved."""


class LostProcessError(Exception):
    """Another process of the same run has ended; what was saved before is intact."""

    def __init__(self, why: str):
        super().__init__(f"another process of this run has ended ({why}); what was saved before is intact")


def _plain(text: str, limit: int = 2000) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception of others, for the end of a message: its type and text without line breaks, cut at `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
