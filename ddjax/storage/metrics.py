"""`metrics.jsonl`: one JSON object a validation, in order of steps."""

import json
import math
from pathlib import Path
from typing import Any

from ddjax.errors import InputError, StorageError
from ddjax.storage import schema
from ddjax.storage.files import read_whole, write_whole

_FIGURES = ("step", "loss", "valid_accuracy", "valid_loss", "best_valid_accuracy", "seconds")


class MetricsLog:
    """The log of a run that goes on from `step`: lines past it are dropped. `seconds` is what the run took so far."""

    def __init__(self, path: Path, step: int):
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.seconds: float = kept[-1]["seconds"] if kept else 0.0

    def append(self, row: dict[str, Any]) -> None:
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(str(error)) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl` that are intact: a last line cut short by a crash is left out, and one that is damaged
    otherwise is too, which is said.

    Raises:
      InputError: there is something that cannot be read.
    """
    try:
        text = read_whole(path).decode(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): remove it") from error
    rows = [(number, _row(line)) for number, line in enumerate(text.split("\n"), 1) if line]
    for number, row in rows[: None if text.endswith("\n") else -1]:
        if row is None:
            print(f"{path}: line {number} is damaged, and left out", flush=True)
    return [row for _, row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = schema.parsed(line)
    except ValueError:
        return None
    figures = all(type(value) in (int, float) for value in row.values()) and all(name in row for name in _FIGURES)
    good = figures and schema.is_count(row["step"]) and math.isfinite(row["seconds"])
    return row if good else None
