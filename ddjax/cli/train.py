"""`ddjax train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ddjax.cli.places import DataDir, RunPath


@dataclass(frozen=True)
class Train:
    """Train one network on a distilled artefact, score it on real test data, and save its weights."""

    path: RunPath
    out: tyro.conf.DisallowNone[Path | None] = None
    """File for the trained weights (.safetensors); by default they are not kept."""
    way: Literal["documented", "sgd", "adam"] = "documented"
    """The artefact's own steps, order and learning rates; or its examples in shuffled minibatches, for comparison."""
    epochs: int = 30
    """Passes over the examples; of sgd and adam."""
    lr: float = 0.01
    """Learning rate; of sgd and adam."""
    batch_size: int = 10
    """Examples a step; of sgd and adam."""
    seed: int = 0
    """Draws the weights, where they are drawn, and the orders."""
    model: tyro.conf.DisallowNone[str | None] = None
    """Another network than the artefact's, a name or path/to/file.py:Name; its weights are drawn afresh."""
    fresh: bool = False
    """Draw the weights afresh, where the artefact was distilled for its own."""
    data: tyro.conf.DisallowNone[str | None] = None
    """Data set to test on, if not the artefact's own (for an .npz file that moved, say)."""
    data_dir: DataDir = None

    def run(self) -> None:
        from ddjax.training import devices

        devices.use_all_cores()
        from ddjax.experiment.train import train_artifact
        from ddjax.training.progress import say

        say(f"training on {self.path}")
        settings = {name: value for name, value in vars(self).items() if name not in ("path", "out")}
        trained = train_artifact(self.path, self.out, **settings)
        print(
            f"{trained.accuracy:.2f} % of {trained.num_test} test examples, from {trained.accuracy_before:.2f} % untrained"
        )
        if self.out:
            print(f"  {self.out}")
