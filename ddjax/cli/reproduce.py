"""`ddjax reproduce`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ddjax.cli.places import DataDir


@dataclass(frozen=True)
class Reproduce:
    """Run every experiment of the paper, or of today's benchmark, that is missing, and rebuild RESULTS.md."""

    what: tyro.conf.Positional[Literal["paper", "benchmark"]]
    """The paper: Tables 1 to 3, the poisoning experiment and the ablation figures; or what goes beyond it: soft labels, and
    today's benchmark."""
    only: tuple[str, ...] = ()
    """Runs to make, of those in RESULTS.md; all if none is named, but those for an accelerator where there is none."""
    again: bool = False
    """Measure the runs that --only names anew, though they are measured already."""
    accept_changes: bool = False
    """Go on with runs that are half done though code, versions or inputs have changed; their figures will say so."""
    page_only: bool = False
    """Run and measure nothing: build RESULTS.md and its JSON files from what is filed."""
    budget: Literal["full", "quick"] = "full"
    """full, or quick: all of it on scikit-learn's digits with a small network in a few steps, to see that it works."""
    out: tyro.conf.DisallowNone[Path | None] = None
    """Folder for pools, runs and results; by default the current one, and `quick` for the quick budget."""
    data_dir: DataDir = None

    def run(self) -> None:
        from ddjax.training import devices

        devices.use_all_cores()
        from ddjax.paper.reproduce import reproduce

        root = self.out or Path("quick" if self.budget == "quick" else ".")
        rows = reproduce(
            root,
            self.what,
            only=self.only,
            again=self.again,
            accept_changes=self.accept_changes,
            page_only=self.page_only,
            budget=self.budget,
            data_dir=self.data_dir,
        )
        measured = sum(row["ours_mean"] is not None for row in rows)
        print(
            f"{measured} of {len(rows)} rows are measured: {root / 'RESULTS.md'}, {root / 'results' / f'{self.what}.json'}"
        )
