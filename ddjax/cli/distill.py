"""`ddjax distill`."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ddjax.cli import output
from ddjax.cli.places import DataDir, Distributed
from ddjax.errors import InputError
from ddjax.recipes import RECIPES, Recipe, known_trouble

if TYPE_CHECKING:
    from ddjax.experiment.outcome import Distillation


@dataclass(frozen=True)
class Chosen:
    """A recipe with its changes, and what it is called."""

    recipe: Recipe
    name: tyro.conf.Suppress[str]


# Every recipe as a subcommand, whose flags are its settings.
if TYPE_CHECKING:
    RecipeByName = Chosen
else:
    RecipeByName = tyro.extras.subcommand_type_from_defaults(
        {name: Chosen(make(), name) for name, make in RECIPES.items()},
        {name: inspect.cleandoc(make.__doc__ or "").split("\n\n")[0] for name, make in RECIPES.items()},
        sort_subcommands=False,
    )


@dataclass(frozen=True)
class Distill:
    """Distil a data set as a recipe says; every setting can be changed. `ddjax recipes` tells what each recipe reaches."""

    recipe: RecipeByName
    out: tyro.conf.DisallowNone[Path | None] = None
    """Folder of the run; by default runs/RECIPE. It must be new, unless --resume continues what it holds."""
    resume: bool = False
    """Continue an interrupted run: the same command again with this flag; or a finished one, to more --outer-steps."""
    accept_changes: bool = False
    """Continue with other code, versions or inputs than the run was begun with; its figures will say so."""
    no_compare: bool = False
    """Leave out what the distilled images are compared with: random real images, and training on all the data."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints, at most; the first come sooner. A run that is killed loses what came after the last."""
    strict: bool = False
    """End at the first outer step whose loss or meta-gradient is not finite; else they are skipped, up to ten in a row."""
    tensorboard: bool = False
    """Write curves and images for TensorBoard as well, into the run's folder tensorboard/ (the extra `tensorboard`)."""
    dry_run: bool = False
    """Say what the run would take, in operations, memory and time on this machine, and write nothing."""
    distributed: Distributed = False
    seeds: int = 1
    """Runs, one after the other, of so many seeds from the recipe's own on, each in a folder seed-K of its own."""
    data_dir: DataDir = None

    def run(self) -> None:
        output.begin(self.distributed)
        from ddjax.show import tables

        out, recipe = self.out or Path("runs") / self.recipe.name, self.recipe.recipe
        if self.seeds < 1:
            raise InputError(f"--seeds is {self.seeds}: give a number above zero")
        if not self.checkpoint_every >= 0:
            raise InputError(f"--checkpoint-every is {self.checkpoint_every:g}: give seconds, 0 for every step")
        if self.dry_run:
            self._tell(recipe)
            return
        if self.seeds == 1:
            self._one(recipe, out)
            return
        seeds = range(recipe.seed, recipe.seed + self.seeds)
        found = {seed: self._one(recipe.replace(seed=seed), out / f"seed-{seed}") for seed in seeds}
        print("\n" + tables.seeds_line({seed: done.summary.distilled["accuracy_mean"] for seed, done in found.items()}))

    def _tell(self, recipe: Recipe) -> None:
        from ddjax.experiment.forecast import forecast
        from ddjax.experiment.setup import set_up
        from ddjax.show import tables

        experiment = set_up(recipe, data_dir=self.data_dir)
        print(f"{self.recipe.name}, on this machine:\n" + tables.forecast_lines(forecast(experiment)))
        for line in known_trouble(experiment.recipe):
            print(f"note: {line}")

    def _one(self, recipe: Recipe, out: Path) -> "Distillation":
        from ddjax.experiment.distill import distill
        from ddjax.experiment.folder import SUMMARY
        from ddjax.show import plots, tables
        from ddjax.storage.artifact import FILE_NAME
        from ddjax.storage.metrics import read_metrics
        from ddjax.storage.processes import first_process
        from ddjax.training.progress import say

        done = distill(
            recipe,
            out,
            name=self.recipe.name,
            resume=self.resume,
            accept_changes=self.accept_changes,
            compare=not self.no_compare,
            checkpoint_every=self.checkpoint_every,
            strict=self.strict,
            tensorboard=self.tensorboard,
            data_dir=self.data_dir,
        )
        if not first_process():  # which draws and tells
            return done
        say("drawing pictures")
        pictures = plots.plot_run(done.artifact, read_metrics(out / "metrics.jsonl"), out, out / "frames.npz")
        print("\n" + tables.summary_table(done.summary.to_json()) + "\n")
        for path in (out / FILE_NAME, out / SUMMARY, out / "metrics.jsonl", *pictures):
            print(f"  {path}")
        return done
