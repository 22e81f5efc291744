"""What can go wrong without being a defect of the library; every other exception is one, and keeps its traceback."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DdjaxError(Exception):
    """Any error that is meant for a person: what is wrong, and what to do about it, in one line.

    What is quoted in it cannot move a terminal's cursor, nor fill it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_plain(str(message)))


class InputError(DdjaxError, ValueError):
    """Bad input from the user: the command line prints its message alone, and exits with status 2."""


class StorageError(DdjaxError, OSError):
    """A file cannot be written, as on a disk that is full; what was saved before is intact, nothing is half-written."""


class InterruptedRunError(DdjaxError):
    """SIGINT, SIGTERM or SIGHUP arrived; what there was to save was saved. `signum` is its number, `step` that of the last
    outer step that was taken."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"interrupted at step {step}, saved")
        self.signum, self.step = signum, step


class NonFiniteError(DdjaxError, ArithmeticError):
    """Loss or meta-gradient was not finite, and the state before that step was saved; or scores are not finite."""


class LostProcessError(DdjaxError):
    """Another process of the same run has ended; what was saved before is intact."""

    def __init__(self, why: str):
        super().__init__(f"another process of this run has ended ({why}); what was saved before is intact")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python's, NumPy's or JAX's is want of memory, on the host or a device."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _plain(text: str, limit: int = 2000) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    # What is long is what was quoted; what to do about it stands at the end.
    return shown if len(shown) <= limit else f"{shown[: limit // 2]}...{shown[3 - limit // 2 :]}"


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception of others, for the end of a message: its type and text without line breaks, cut at `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@contextmanager
def unlogged(told: Callable[[str], bool]) -> Iterator[None]:
    """While it lasts, libraries that log through absl keep to themselves each message that is `told` otherwise, with its
    traceback."""

    def keep(record: logging.LogRecord) -> bool:
        return not told(record.getMessage())

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
