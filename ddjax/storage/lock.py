"""Who writes into a folder: one process at a time. A lock goes with its process, so that a dead one blocks nobody."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ddjax.errors import InputError

LOCK = "lock"
_PATIENCE = 0.2  # seconds between two looks at a lock of another's


@contextmanager
def held(folder: Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder that exists, while it lasts.

    Args:
      folder: which; name: of the lock in it, for those who hold a part of it only.
      wait: for another process, which is said, instead of raising InputError.

    Raises:
      InputError: another process holds it; the message says which, where, and since when.
      OSError: the folder cannot be written to.
    """
    path = folder / name
    file = _locked(path, wait)
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: whoever comes then makes another
        file.close()


def _locked(path: Path, wait: bool) -> TextIO:
    told = False
    while True:
        file = path.open("a+")
        if sys.platform == "win32":  # which has no such locks
            return file
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = _told(file.read())
            file.close()
            if wait:
                if not told:
                    print(f"waiting for {owner}, which is at the same", flush=True)
                told = True
                time.sleep(_PATIENCE)
                continue
            raise InputError(f"{path.parent} is in use by {owner}: wait for it, or choose another --out") from None
        except OSError:  # a file system that knows no locks
            return file
        try:
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        file.close()  # of an owner who was just leaving


def _told(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {int(owner['pid'])} on {str(owner['host'])!r} since {str(owner['since'])[:19]}"
    except (ValueError, TypeError, LookupError):
        return "another process"
