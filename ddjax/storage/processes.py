"""One run, several processes: which of them writes, what all of them know, and when they agree on what each has seen.

Each process runs the same program on JAX's own engine (`jax.distributed`), so whatever decides what is computed next must be
the same in all of them: it is computed by all devices together, or the first process says it.
"""

import contextlib
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddjax.errors import InputError, LostProcessError, one_line, unlogged

Answer = TypeVar("Answer")
# Words of what JAX says when another process is gone.
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "Connection", "heartbeat", "coordination")
_LONGEST = 1000  # steps between two votes


def several() -> bool:
    """Whether this process is one of several; asked before JAX is used, it leaves JAX alone."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first_process() -> bool:
    """Whether this is the process that writes and speaks: the only one, or the first of several."""
    return not several() or jax.process_index() == 0


def agreed(answer: Callable[[], Answer]) -> Answer:
    """What the first process answers, in each of them; the others wait for it and do not ask.

    Raises:
      InputError, OSError: whatever asking raised, in each of them.
    """
    if not several():
        return answer()
    told = b""
    if first_process():
        try:
            told = pickle.dumps((answer(), None))
        except (InputError, OSError) as error:
            told = pickle.dumps((None, error))
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    padded = np.zeros(1 << max(8, (size - 1).bit_length()), np.uint8)  # few sizes, since each is compiled
    padded[: len(told)] = np.frombuffer(told, np.uint8)
    found: tuple[Answer, None] | tuple[None, Exception]
    found = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes())
    if found[1] is not None:
        raise found[1]
    return found[0]


class Votes:
    """What processes have seen on their own, and agree on every so many steps: a signal, and that it is time to save.

    One process alone agrees with itself at every step. Several exchange their votes about once in `seconds`, after a number
    of steps that the first one chooses by its clock, since every exchange waits for the step before it.
    """

    def __init__(self, seconds: float = 1.0):
        self._seconds, self._every, self._steps, self._began = seconds, 1, 0, time.monotonic()

    def count(self, signum: int, due: bool, last: bool) -> tuple[int, bool]:
        """After each step: the signal that any of them has had, or 0, and whether the first finds it time to save.

        Args:
          signum: the signal that this process has had, or 0; due: whether it finds it time to save.
          last: whether this was the last step, when they always agree.
        """
        if not several():
            return signum, due
        self._steps += 1
        if self._steps < self._every and not last:
            return 0, False
        took = max(time.monotonic() - self._began, 1e-3)
        most = min(4 * self._every, _LONGEST)
        every = int(np.clip(self._steps * self._seconds / took, 1, most))
        votes = np.asarray(multihost_utils.process_allgather(np.array([signum, due, every], np.int32)))
        self._every, self._steps, self._began = int(votes[0, 2]), 0, time.monotonic()
        return int(votes[:, 0].max()), bool(votes[0, 1])


def leave_run(status: int, patience: float = 5.0) -> None:
    """Ends a process that is one of several and failed, without waiting for the others longer than so many seconds; without
    effect in one that is alone."""
    if not several():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    leaving = threading.Thread(target=_shut_down, daemon=True)
    leaving.start()
    leaving.join(patience)
    os._exit(status)


def _shut_down() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # of others that are gone
        jax.distributed.shutdown()


@contextmanager
def together() -> Iterator[None]:
    """While it lasts, the end of another process of the same run is told as that, and only so: Orbax, where it was saving,
    would log it with its traceback first.

    Raises:
      LostProcessError: in place of what JAX raises then.
    """

    def lost(message: str) -> bool:
        return several() and any(word in message for word in _LOST)

    try:
        with unlogged(lost):
            yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter from compiled programs that are called again
        if isinstance(error, InputError) or not lost(str(error)):
            raise
        raise LostProcessError(one_line(error)) from error
