"""`ddjax runs`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Runs:
    """List the runs that lie in a folder and below it: recipe, data, network, how far they are, how well they do."""

    folder: tyro.conf.Positional[Path] = Path("runs")

    def run(self) -> None:
        from ddjax.experiment.folder import find_runs
        from ddjax.show import tables

        print(tables.runs_table(find_runs(self.folder), self.folder))
