"""Files that appear whole or not at all, and are read only where they are files."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from ddjax.errors import InputError, StorageError
from ddjax.storage import schema

_LARGEST = 2**28  # bytes of JSON


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and moves it there, so that an interruption leaves the old one or the new one.

    Raises:
      StorageError: it cannot be written; nothing is left behind then.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        with draft.open("r+b") as file:
            os.fsync(file.fileno())  # else a machine that goes down may have the name and not what it names
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(str(error)) from error


def write_json(path: Path, content: Any) -> None:
    """`write_whole` of `content` as indented JSON."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none where no path can be so long, or of such characters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_whole(path: Path, largest: int = _LARGEST) -> bytes:
    """What a file holds. A pipe, which might never end, and a file of more bytes are not read.

    Raises:
      FileNotFoundError: there is none.
      OSError: it cannot be read, or is no such file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no file")
    if status.st_size > largest:
        raise OSError(f"it has {status.st_size / 1e6:.0f} MB")
    return path.read_bytes()


def read_json(path: Path, advice: str = "remove it, or make it again") -> dict[str, Any]:
    """The object that a JSON file holds; an empty one where there is no file. `advice`: what to do where it is damaged.

    Raises:
      InputError: it cannot be read, or holds something else.
    """
    try:
        return schema.parsed(read_whole(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): {advice}") from error
