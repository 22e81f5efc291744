"""SIGINT, SIGTERM and SIGHUP: noted while there is something to save first, the end of the process at once while there is not.

Python runs its handlers between two of its own instructions, and so not while XLA compiles or computes, which may be
minutes. What the operating system calls, though, writes a byte into a pipe there and then (`signal.set_wakeup_fd`), and
another thread may read it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_HANG_UP = getattr(signal, "SIGHUP", None)  # which Windows lacks
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if _HANG_UP is None else [_HANG_UP]))


@contextmanager
def noted() -> Iterator[list[int]]:
    """Collects the signals instead of obeying them, where this is the main thread.

    Whoever leaves it without an exception has obeyed none: the first is sent again then, to what it would have met before.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    with _handled_by(lambda signum, frame: seen.append(signum), -1):
        yield seen
    if seen:
        signal.raise_signal(seen[0])


@contextmanager
def end_at_once(last_words: str) -> Iterator[None]:
    """While it lasts, and but for what is inside `noted`, a signal ends the process within an instant, whatever it is at.

    Nothing is cleaned up: it is for a command whose files appear whole or not at all. The process says `last_words` on
    standard error and leaves with status 128 + signal. Without effect where this is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)  # as set_wakeup_fd demands

    def watch() -> None:
        while signum := os.read(told, 1)[0]:
            if signum in SIGNALS:
                os.write(2, ("\n" * os.isatty(2) + last_words + "\n").encode())
                os._exit(128 + signum)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with _handled_by(lambda signum, frame: None, tell):
            yield
    finally:
        os.write(tell, b"\0")
        watcher.join()
        os.close(told)
        os.close(tell)


@contextmanager
def _handled_by(handler: Callable[[int, Any], None], wakeup: int) -> Iterator[None]:
    """`handler` and the file descriptor `wakeup` in place of those before; a hang-up that is ignored (`nohup`) stays so."""
    obeyed = [s for s in SIGNALS if s != _HANG_UP or signal.getsignal(s) != signal.SIG_IGN]
    handlers = {s: signal.signal(s, handler) for s in obeyed}
    before = signal.set_wakeup_fd(wakeup)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for s, previous in handlers.items():
            signal.signal(s, previous)
