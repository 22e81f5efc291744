"""`ddjax evaluate`."""

import json
from dataclasses import dataclass

import tyro

from ddjax.cli.places import DataDir, RunPath


@dataclass(frozen=True)
class Evaluate:
    """Train fresh networks on a distilled artefact, and score them on the whole test set of its data."""

    path: RunPath
    num_nets: tyro.conf.DisallowNone[int | None] = None
    """Networks to train; by default as many as the recipe's report. There is one where initial weights are fixed."""
    model: tyro.conf.DisallowNone[str | None] = None
    """Your own network, where the artefact was distilled for it in Python, as path/to/file.py:Name."""
    json: bool = False
    """Print one JSON object, accuracies in percent, instead of a table."""
    data: tyro.conf.DisallowNone[str | None] = None
    """Data set to test on, if not the artefact's own (for an .npz file that moved, say)."""
    data_dir: DataDir = None

    def run(self) -> None:
        from ddjax.training import devices

        devices.use_all_cores()
        from ddjax.experiment.replay import evaluate_artifact
        from ddjax.show import tables
        from ddjax.training.progress import say

        say(f"evaluating {self.path}", not self.json)
        evaluation, num_test = evaluate_artifact(
            self.path, num_nets=self.num_nets, model=self.model, data=self.data, data_dir=self.data_dir
        )
        if self.json:
            print(json.dumps({**evaluation.summary(), "num_test": num_test}))
        else:
            print(tables.evaluation_lines(evaluation, num_test))
