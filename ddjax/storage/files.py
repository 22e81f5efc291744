"""Files that appear whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and moves it there, so that an interruption leaves the old one or the new one.

    Raises:
      OSError: it cannot be written; nothing is left behind then.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        with draft.open("r+b") as file:
            os.fsync(file.fileno())  # else a machine that goes down may have the name and not what it names
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """`write_whole` of `content` as indented JSON."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}
