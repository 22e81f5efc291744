"""`ddjax report`."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ddjax.cli.places import DataDir, RunPath
from ddjax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ddjax.show.report import Told


@dataclass(frozen=True)
class Report:
    """Write a run as one page of HTML, with its pictures, curves, settings and how to use it; or a gallery of many."""

    path: RunPath
    """Folder of a run, a distilled.safetensors file, or a folder of runs, of which a gallery is made."""
    out: tyro.conf.DisallowNone[Path | None] = None
    """File to write; by default report.html in the folder. The pages that a gallery links to lie beside the runs."""
    no_test: bool = False
    """Leave out which class is taken for which: it trains networks again and reads the test data."""
    num_nets: int = 20
    """Networks to train for that; there is one where initial weights are fixed."""
    model: tyro.conf.DisallowNone[str | None] = None
    """Your own network, where the artefact was distilled for it in Python, as path/to/file.py:Name."""
    data: tyro.conf.DisallowNone[str | None] = None
    """Data set to test on, if not the artefact's own (for an .npz file that moved, say)."""
    data_dir: DataDir = None

    def run(self) -> None:
        from ddjax.show import report
        from ddjax.storage.artifact import FILE_NAME
        from ddjax.storage.files import write_whole

        home = self.path if self.path.is_dir() else self.path.parent
        out = self.out or home / "report.html"
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out} cannot be written ({error}): give another --out") from error
        if self.path.is_dir() and not (self.path / FILE_NAME).is_file():
            found = sorted(path.parent for path in home.rglob(FILE_NAME))
            if not found:
                raise InputError(f"there is no {FILE_NAME} in {home} or below: give the folder of a run, or of runs")
            runs = [(_told(folder), os.path.relpath(folder / "report.html", out.parent)) for folder in found]
            for folder, (told, _) in zip(found, runs, strict=True):
                write_whole(folder / "report.html", report.page(told))
                print(folder / "report.html")
            text = report.gallery(runs, home.resolve().name)
        else:
            told = _told(self.path)
            text = report.page(told if self.no_test else replace(told, confusions=self._confusions()))
        write_whole(out, text)
        print(out)

    def _confusions(self) -> "np.ndarray":
        from ddjax.training import devices

        devices.use_all_cores()
        from ddjax.experiment.replay import confusion_of_artifact
        from ddjax.training.progress import say

        say(
            "training networks again, to see which class of the test data they take for which (--no-test leaves it out)"
        )
        options: dict[str, Any] = {
            "num_nets": self.num_nets,
            "model": self.model,
            "data": self.data,
            "data_dir": self.data_dir,
        }
        return confusion_of_artifact(self.path, **options)


def _told(path: Path) -> "Told":
    """What lies beside an artefact; of a filed one, where it is from stands in another file."""
    from ddjax.experiment.folder import read_summary
    from ddjax.show.report import Told
    from ddjax.storage.artifact import load_artifact
    from ddjax.storage.metrics import read_metrics

    home = path if path.is_dir() else path.parent
    metrics, summary = read_metrics(home / "metrics.jsonl"), read_summary(home)
    return Told(load_artifact(path), str(path), summary, metrics, _origins(home), frames=home / "frames.npz")


def _origins(home: Path) -> tuple[dict[str, Any], ...]:
    from ddjax.experiment.folder import CONFIG, Config, checked_origins
    from ddjax.paper.filing import PROVENANCE
    from ddjax.storage.files import read_json

    if (home / CONFIG).exists():
        return Config.read(home).origins
    held = read_json(home / PROVENANCE).get("origins", [])
    try:
        return checked_origins(held) if held else ()
    except ValueError as error:
        raise InputError(f"{home / PROVENANCE} is damaged ({error}): remove it, or make it again") from error
