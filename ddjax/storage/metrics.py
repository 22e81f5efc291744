"""`metrics.jsonl`: one JSON object a validation, in order of steps."""

import json
from pathlib import Path
from typing import Any

from ddjax.storage.files import write_whole


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
    """The rows of a `metrics.jsonl`; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
