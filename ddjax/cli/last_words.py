"""A program beside each of several processes: passes on what that one writes to its standard error, in fewer words at its end.

Where JAX's coordinator is gone, or a process was not heard of for long, JAX's own threads say so in some fifteen lines and end
the process, before Python learns of it: one line takes their place, and none where it has been said already.
"""

import os
import sys
from collections.abc import Callable

_FATAL = (
    b"Use error polling to propagate the following error to all tasks",
    b"Polled an error from coordination service",
    b"JAX distributed service detected fatal errors",
)
_SAID = b"another process of this run has ended"


def pass_on(read: Callable[[], bytes], write: Callable[[bytes], object], line: bytes) -> None:
    """Writes what is read, up to the line in which JAX begins to say that it ends the process: from there on `line` alone.

    Args:
      read: the next bytes, none at the end; write: takes bytes; line: whole, with its break.
    """
    said = False
    while data := read():
        begins = min((data.find(words) for words in _FATAL if words in data), default=-1)
        passed = data if begins < 0 else data[: data.rfind(b"\n", 0, begins) + 1]
        said = said or _SAID in passed
        write(passed)
        if begins >= 0:
            if not said:
                write(line)
            while read():
                pass
            return


if __name__ == "__main__":
    pass_on(lambda: os.read(0, 1 << 16), lambda data: os.write(2, data), os.fsencode(sys.argv[1]))
