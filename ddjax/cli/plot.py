"""`ddjax plot`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddjax.cli.places import RunPath
from ddjax.errors import InputError


@dataclass(frozen=True)
class Plot:
    """Draw the distilled images, the learned learning rates and, for a run, its curve and the images as they came about."""

    path: RunPath
    out: tyro.conf.DisallowNone[Path | None] = None
    """Folder for the pictures; by default where the artefact lies."""

    def run(self) -> None:
        from ddjax.show import plots
        from ddjax.storage.artifact import load_artifact
        from ddjax.storage.metrics import read_metrics

        loaded = load_artifact(self.path)
        home = self.path if self.path.is_dir() else self.path.parent
        folder = self.out or home
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pictures = plots.plot_run(loaded, read_metrics(home / "metrics.jsonl"), folder, home / "frames.npz")
        except OSError as error:
            raise InputError(f"cannot write pictures into {folder} ({error}): choose another --out") from error
        for path in pictures:
            print(path)
