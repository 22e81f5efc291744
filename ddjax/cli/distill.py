"""`ddjax distill`."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ddjax.cli.places import DataDir
from ddjax.recipes import RECIPES, Recipe


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
    data_dir: DataDir = None

    def run(self) -> None:
        from ddjax.training import devices

        devices.use_all_cores()
        from ddjax.experiment.distill import distill
        from ddjax.experiment.folder import SUMMARY
        from ddjax.show import plots, tables
        from ddjax.storage.artifact import FILE_NAME
        from ddjax.storage.metrics import read_metrics
        from ddjax.training.progress import say

        out = self.out or Path("runs") / self.recipe.name
        done = distill(
            self.recipe.recipe,
            out,
            name=self.recipe.name,
            resume=self.resume,
            accept_changes=self.accept_changes,
            compare=not self.no_compare,
            data_dir=self.data_dir,
        )
        say("drawing pictures")
        pictures = plots.plot_run(done.artifact, read_metrics(out / "metrics.jsonl"), out)
        print("\n" + tables.summary_table(done.summary.to_json()) + "\n")
        for path in (out / FILE_NAME, out / SUMMARY, out / "metrics.jsonl", *pictures):
            print(f"  {path}")
