"""How much the runs of the paper may take: pools, baselines, and the quick budget, which shows that all of it works."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from ddjax.core.distilled import DistilledData, fixed_labels
from ddjax.evaluation import baselines
from ddjax.evaluation.neighbours import knn
from ddjax.evaluation.real_sets import kmeans_sets, random_sets
from ddjax.evaluation.tuning import TUNING, Tuning
from ddjax.experiment.protocol import train_and_score
from ddjax.experiment.setup import Experiment
from ddjax.paper.filing import Wanted, portable
from ddjax.paper.runs import PROTOCOL, Run
from ddjax.recipes import Recipe
from ddjax.training.fit import full_data
from ddjax.training.pretrain import Training

# What a data set's networks need to come to the paper's accuracies: 98.6 % on MNIST, 78.2 % on CIFAR-10. There one had 64.1,
# 68.4, 66.7 and 60.8 % of held-out training data after 1000 steps at rates of 0.00025, 0.0005, 0.001 and 0.002; two of 6000
# steps at 0.0005 have 80.2 % of the test set, at 0.002 70.1.
TRAINING = {
    "mnist": Training(1000),
    "usps": Training(800),
    "digits": Training(300),
    "cifar10": Training(6000, lr=5e-4),
}
# What one step is distilled for fits the networks it saw; the more there are, the better it does on others.
POOL_NETS = {"mnist": 400, "cifar10": 100}
_FULL_DATA = {"num_nets": 3, "steps": 2000, "batch_size": 128, "lr": 2e-3}
_PROTOCOL = {"num_nets": 5, "way": "sgd", "epochs": 300, "batch_size": 256}
# Networks here are a quarter of an hour each.
_LONGER = {"cifar10": {**TRAINING["cifar10"]._asdict(), "num_nets": 2}}


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is spent.

    Attributes:
      shrink: makes a run's recipe the one that is run.
      pool_nets, pool_test_nets, training: size of pools, and how they are trained; None: as their data set needs.
      tuning: of the baselines; full_data: how many networks learn from all the data, and how; protocol: likewise from the
        distilled data alone, as benchmarks have it.
    """

    shrink: Callable[[Recipe], Recipe] = lambda recipe: recipe
    pool_nets: int | None = None
    pool_test_nets: int = 20
    training: Training | None = None
    tuning: Tuning = TUNING
    full_data: Mapping[str, Any] = dataclasses.field(default_factory=lambda: _FULL_DATA)
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=lambda: _PROTOCOL)

    def pool(self, recipe: Recipe) -> dict[str, Any] | None:
        """The pool that a recipe starts from, as the header of an artefact tells of it; None where it starts from none."""
        source = recipe.network.source
        if not (source and recipe.network.pool):
            return None
        return {
            "training": (self.training or TRAINING.get(source, Training()))._asdict(),
            "seed": 0,
            "num_nets": self.pool_nets or POOL_NETS.get(source, 120),
            "test_nets": self.pool_test_nets,
        }

    def on_all(self, recipe: Recipe) -> dict[str, Any]:
        """How networks learn from all of a recipe's data."""
        return {**self.full_data, **_LONGER.get(recipe.data.data, {})}

    def wanted(self, run: Run) -> Wanted:
        """What would be run and measured now."""
        recipe = self.shrink(run.settings)
        pool = self.pool(recipe)
        of_their_own = {"full data": self.on_all(recipe), PROTOCOL: self.protocol}
        tried = {part: of_their_own.get(part, vars(self.tuning)) for part in run.baselines}
        settings = {part: json.loads(json.dumps({**settings, "pool": pool})) for part, settings in tried.items()}
        return Wanted(portable(recipe), pool, settings)

    def measure(self, part: str, experiment: Experiment, like: DistilledData) -> dict[str, Any]:
        """The summary of one of `paper.runs.BASELINES`, in as many steps as the distilled data `like` take, or `PROTOCOL`'s."""
        key, tuning, starts = experiment.stream("baseline"), self.tuning, experiment.starts
        problem = experiment.problem._replace(targets=fixed_labels)
        train, valid, test = experiment.train, experiment.outer(experiment.valid), experiment.outer(experiment.test)
        if part == PROTOCOL:
            how: dict[str, Any] = {"augment": experiment.siamese, **self.protocol}
            return train_and_score(problem, experiment.model.init, like, valid, test, experiment.key, **how).summary()
        nets: dict[str, Any] = {"params_N": starts.test.params_N}
        if part == "full data":
            nets["augment"] = experiment.augment
            nets.update(self.on_all(experiment.recipe))
            return full_data(experiment.stream("all data"), problem, train, test, **nets).summary()
        if part == "K-NN on random real":
            return knn(like, random_sets(key, like, train, tuning.random_sets), valid, test, tuning=tuning).summary()
        if part == "K-NN on k-means":
            return knn(like, kmeans_sets(key, like, train, tuning.kmeans_sets), valid, test, tuning=tuning).summary()
        measure: Callable[..., baselines.Baseline] = {
            "random real": baselines.random_real,
            "optimised real": baselines.optimised_real,
            "k-means": baselines.kmeans,
            "class average": baselines.class_average,
        }[part]
        nets["num_nets"] = tuning.nets if starts.params is None else 1
        return measure(key, problem, like, train, valid, test, tuning=tuning, **nets).summary()


def _on_digits(recipe: Recipe) -> Recipe:
    """The same experiment at a size for tests: scikit-learn's digits, a linear network, a few steps.

    What only sets the pace of the outer loop is the same for all, and so is what images start from for the same kind of
    networks, so that many runs become one and are made once.
    """
    settings = recipe.settings()
    return recipe.replace(
        data="digits",
        source=settings["source"] and "digits",
        pool=settings["pool"] and "pools/digits.safetensors",
        checkpoint=None,
        pictures=None,
        augment="none",
        siamese="none",
        zca=None,
        model="linear",
        width=None,
        depth=None,
        gate_width=0.0,
        remat=False,
        steps=min(settings["steps"], 2),
        epochs=min(settings["epochs"], 2),
        per_class=1,
        images=None,
        window=None,
        window_early=0.0,
        narrow=None,
        narrow_steps=0,
        subset_classes=None,
        subset_images=None,
        inner_lr=0.02,
        start="real" if settings["init"] == "random" else settings["start"],
        lr=0.02,
        lr_log_lrs=0.02,
        clip=1.0,
        outer_steps=2,
        eval_every=1,
        batch_size=32,
        num_nets=min(settings["num_nets"], 2),
        valid_nets=2,
        test_nets=2,
    )


_QUICK = Tuning(
    (0.01, 0.1), rounds=1, trials=2, nets=2, random_sets=2, kmeans_sets=3, candidates=10, nets_per_candidate=1
)
_QUICK_PROTOCOL = {"num_nets": 2, "way": "sgd", "epochs": 2, "batch_size": 16}
BUDGETS = {
    "full": Budget(),
    "quick": Budget(_on_digits, 4, 2, Training(20, 32), _QUICK, {"num_nets": 2, "steps": 20}, _QUICK_PROTOCOL),
}
