"""Standard output and error as a command has them: whatever becomes of them, it goes on."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddjax.errors import LostProcessError


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


def _shorten_last_words() -> None:
    """Standard error as Python has it stays; what JAX's own threads write there goes through a program beside this one."""
    told = LostProcessError("JAX no longer hears of it")
    line = f"ddjax: {told}: give the same command to go on, with --resume where it has one\n"
    program = [sys.executable, "-S", "-E", str(Path(__file__).with_name("last_words.py")), line]
    # A signal to the terminal's processes must not end it before the one that it serves.
    beside = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
    assert beside.stdin is not None
    sys.stderr = Output(os.fdopen(os.dup(2), "w", buffering=1))
    os.dup2(beside.stdin.fileno(), 2)
    beside.stdin.close()
    beside.returncode = 0  # nobody waits for it: it ends when all who write to it have


def say_last(message: str) -> None:
    """The line in which a command says why it ends; of several processes through the program that knows whether JAX has."""
    if "jax" in sys.modules:  # else no other process knows of this one
        from ddjax.storage.processes import several

        if several():
            sys.stderr.flush()
            with contextlib.suppress(OSError):
                os.write(2, os.fsencode(f"{message}\n"))
            return
    print(message, file=sys.stderr)


def begin(distributed: bool = False) -> None:
    """What a command that computes begins with: its devices; and of several processes the first one speaks."""
    from ddjax.storage.processes import first_process, several
    from ddjax.training import devices

    devices.use_devices(distributed)
    if several():
        _shorten_last_words()
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
