"""`metrics.jsonl`: one JSON object a validation, in order of steps."""

import json
from pathlib import Path
from typing import Any

from ddjax.storage.files import write_whole

_FIGURES = ("step", "loss", "valid_accuracy", "valid_loss", "best_valid_accuracy", "seconds")


class MetricsLog:
    """The log of a run that goes on from `step`: lines past it are dropped. `seconds` is what the run took so far."""

    def __init__(self, path: Path, step: int):
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.seconds: float = kept[-1]["seconds"] if kept else 0.0

    def append(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl` that are intact: a last line cut short by a crash is left out, and one that is damaged
    otherwise is too, which is said."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    rows = [(number, _row(line)) for number, line in enumerate(text.split("\n"), 1) if line]
    for number, row in rows[: None if text.endswith("\n") else -1]:
        if row is None:
            print(f"{path}: line {number} is damaged, and left out", flush=True)
    return [row for _, row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        good = row["step"] == int(row["step"]) and all(isinstance(row[name], (int, float)) for name in _FIGURES)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return row if good else None
