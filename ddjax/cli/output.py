"""Standard output and error as a command has them: whatever becomes of them, it goes on."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Output:
    """A stream that falls silent where it cannot be written to: a reader that left (`| head -1`), a disk that is full.

    What its encoding lacks is written as an escape. Everything but writing is the stream's own.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        with contextlib.suppress(AttributeError, OSError, ValueError):  # of a stream that is no file of Python's own
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            _silence(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silence(stream: Any) -> None:
    """What is still in its buffer would be tried again at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _keep_for_python() -> None:
    """Standard output as Python has it stays; what libraries in other languages print there, as Gloo does, goes to nowhere."""
    kept = os.fdopen(os.dup(1), "w", buffering=1)
    _silence(sys.__stdout__)
    sys.stdout = Output(kept)


def begin(distributed: bool = False) -> None:
    """What a command that computes begins with: its devices; and of several processes the first one speaks."""
    from ddjax.storage.processes import first_process, several
    from ddjax.training import devices

    devices.use_devices(distributed)
    if several():
        if first_process():
            _keep_for_python()
        else:
            _silence(sys.stdout)


@contextlib.contextmanager
def unbreakable() -> Iterator[None]:
    """Standard output and error as `Output`, and as nothing where they were closed."""
    with contextlib.ExitStack() as stack:
        streams: list[Any] = [
            stream or stack.enter_context(open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr)
        ]
        stack.enter_context(contextlib.redirect_stdout(Output(streams[0])))
        stack.enter_context(contextlib.redirect_stderr(Output(streams[1])))
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
