"""`ddjax evaluate`."""

import json
from dataclasses import dataclass
from typing import Literal

import tyro

from ddjax.cli import output
from ddjax.cli.places import DataDir, Distributed, RunPath
from ddjax.errors import InputError


@dataclass(frozen=True)
class Evaluate:
    """Train fresh networks on a distilled artefact, and score them on the whole test set of its data.

    As the artefact documents; or, with --protocol, by minibatches from fresh weights, as benchmarks do.
    """

    path: RunPath
    num_nets: tyro.conf.DisallowNone[int | None] = None
    """Networks to train; by default those of the recipe's report, with --protocol five. There is one of fixed weights."""
    model: tyro.conf.DisallowNone[str | None] = None
    """Your own network, where the artefact was distilled for it in Python, as path/to/file.py:Name."""
    protocol: bool = False
    """Train as benchmarks do, at a rate that held-out training images choose; the next five are of that."""
    models: tuple[str, ...] = ()
    """Networks, names or path/to/file.py:Name; by default the artefact's own."""
    epochs: int = 300
    """Passes over the distilled examples."""
    batch_size: int = 256
    """Examples a step; all of them, where there are fewer."""
    way: Literal["sgd", "adam"] = "sgd"
    """Momentum 0.9 with weight decay 5e-4, the rate a tenth in the second half; or Adam along a cosine."""
    augment: tyro.conf.DisallowNone[str | None] = None
    """What the examples go through, as crop-flip; by default what the artefact's went through, its recipe's siamese."""
    json: bool = False
    """Print one JSON object, accuracies in percent, instead of a table."""
    distributed: Distributed = False
    data: tyro.conf.DisallowNone[str | None] = None
    """Data set to test on, if not the artefact's own (for an .npz file that moved, say)."""
    data_dir: DataDir = None

    def run(self) -> None:
        output.begin(self.distributed)
        from ddjax.experiment.replay import evaluate_artifact
        from ddjax.show import tables
        from ddjax.training.progress import say

        if self.protocol:
            self._by_protocol()
            return
        if self.models:
            raise InputError("--models are trained by the benchmarks' protocol: add --protocol, or give --model")
        say(f"evaluating {self.path}", not self.json)
        evaluation, num_test = evaluate_artifact(
            self.path, num_nets=self.num_nets, model=self.model, data=self.data, data_dir=self.data_dir
        )
        if self.json:
            print(json.dumps({**evaluation.summary(), "num_test": num_test}))
        else:
            print(tables.evaluation_lines(evaluation, num_test))

    def _by_protocol(self) -> None:
        from ddjax.experiment.protocol import by_protocol
        from ddjax.show import tables

        scores = by_protocol(
            self.path,
            self.models or ((self.model,) if self.model else ()),
            num_nets=5 if self.num_nets is None else self.num_nets,
            way=self.way,
            epochs=self.epochs,
            batch_size=self.batch_size,
            augment=self.augment,
            data=self.data,
            data_dir=self.data_dir,
            progress=not self.json,
        )
        if self.json:
            print(json.dumps({name: found.summary() for name, found in scores.items()}))
        else:
            print(tables.protocol_lines(scores))
