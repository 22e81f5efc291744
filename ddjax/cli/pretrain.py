"""`ddjax pretrain`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ddjax.cli import output
from ddjax.cli.places import DataDir, Distributed
from ddjax.recipes import RECIPES, get_recipe

_WITH_SOURCE = ", ".join(name for name, make in RECIPES.items() if make().network.source)


@dataclass(frozen=True)
class Pretrain:
    """Train the networks that a recipe starts from, on its source data, and save them in one file."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE", help=f"One of {_WITH_SOURCE}.")]
    num_nets: int = 100
    """Networks to distil with."""
    test_nets: int = 20
    """Networks held out for tests."""
    steps: int = 1000
    """Steps of Adam for each network, its rate decayed to zero."""
    batch_size: int = 128
    """Real examples in each step."""
    lr: float = 2e-3
    """Peak rate of Adam."""
    seed: int = 0
    """Seed of the networks' weights and batches."""
    source: tyro.conf.DisallowNone[str | None] = None
    """Data set to train on, if not the recipe's source."""
    pictures: tyro.conf.DisallowNone[str | None] = None
    """Shape of the pictures, as 28x28x1, if not the recipe's."""
    augment: tyro.conf.DisallowNone[str | None] = None
    """What its minibatches go through, if not what the recipe's do."""
    model: tyro.conf.DisallowNone[str | None] = None
    """Network, if not the recipe's."""
    width: tyro.conf.DisallowNone[int | None] = None
    """Channels of its convolutions, for the model convnet, if not the recipe's."""
    depth: tyro.conf.DisallowNone[int | None] = None
    """Its blocks, for the model convnet, if not the recipe's."""
    pool: tyro.conf.DisallowNone[str | None] = None
    """File to write, if not the recipe's pool."""
    distributed: Distributed = False
    resume: bool = False
    """Go on with an unfinished pool, or enlarge a finished one."""
    data_dir: DataDir = None

    def run(self) -> None:
        names = ("source", "pictures", "augment", "model", "width", "depth", "pool")
        changes = {name: getattr(self, name) for name in names}
        recipe = get_recipe(self.recipe).replace(**{name: v for name, v in changes.items() if v is not None})
        output.begin(self.distributed)
        from ddjax.show import tables
        from ddjax.training.pretrain import Training, pretrain_for
        from ddjax.training.progress import say

        say("loading the data")
        pool = pretrain_for(
            recipe,
            num_nets=self.num_nets,
            test_nets=self.test_nets,
            training=Training(self.steps, self.batch_size, self.lr),
            seed=self.seed,
            resume=self.resume,
            data_dir=self.data_dir,
        )
        print(tables.pool_lines(pool.metadata, str(recipe.network.pool)))
