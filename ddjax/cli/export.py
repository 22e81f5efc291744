"""`ddjax export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ddjax.cli.places import RunPath


@dataclass(frozen=True)
class Export:
    """Write a distilled set in another format: pictures, NumPy, PyTorch or tensorflow-datasets."""

    path: RunPath
    to: Literal["npz", "png", "torch", "tfds"]
    """npz, torch: arrays in a file; png: a folder of pictures to look at; tfds: a folder of tensorflow-datasets."""
    out: tyro.conf.DisallowNone[Path | None] = None
    """File or folder to write; by default beside the artefact: distilled.npz, distilled-png, distilled.pt, distilled-tfds."""

    def run(self) -> None:
        from ddjax.show.export import export
        from ddjax.storage.artifact import load_artifact

        home = self.path if self.path.is_dir() else self.path.parent
        names = {"npz": "distilled.npz", "png": "distilled-png", "torch": "distilled.pt", "tfds": "distilled-tfds"}
        print(export(load_artifact(self.path), self.out or home / names[self.to], self.to))
