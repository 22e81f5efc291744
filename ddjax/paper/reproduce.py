"""Runs what the paper's tables need and is missing, resumes what is half done, and files every figure with its provenance.

Under one folder: `pools/` the trained networks, `runs/NAME/` the work of each run, `results/NAME/` what is kept of it
(artefact, pictures, summary, metrics, baselines, provenance), `results/paper.json` every row, and `RESULTS.md`.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from ddjax.core.distilled import DistilledData, fixed_labels
from ddjax.data.catalogue import CATALOGUE
from ddjax.data.prepared import data_root, find_prepared
from ddjax.errors import InputError
from ddjax.evaluation import baselines
from ddjax.evaluation.neighbours import knn
from ddjax.evaluation.real_sets import kmeans_sets, random_sets
from ddjax.evaluation.tuning import TUNING, Tuning
from ddjax.experiment.distill import distill
from ddjax.experiment.folder import Config
from ddjax.experiment.setup import Experiment, set_up
from ddjax.paper.filing import BASELINES, NOT_RUN, PROVENANCE, filed_recipe, filled, origin, portable
from ddjax.paper.page import write_results
from ddjax.paper.rows import ROWS, RUNS, Run
from ddjax.recipes import Recipe
from ddjax.show import plots
from ddjax.storage import artifact, provenance
from ddjax.storage.files import read_json, write_json
from ddjax.storage.metrics import read_metrics
from ddjax.training.fit import full_data
from ddjax.training.pretrain import Training, pretrain_for

_NO_ACCELERATOR = "for an accelerator, and there is none here"
KEPT = (artifact.FILE_NAME, "summary.json", "metrics.jsonl", "images.png", "curve.png", "learning_rates.png")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is spent: `shrink` makes a run's recipe the one that is run; the rest are sizes of pools and baselines.

    `pool_nets` and `training` of None leave them to the data set that the networks are trained on.
    """

    shrink: Callable[[Recipe], Recipe] = lambda recipe: recipe
    pool_nets: int | None = None
    pool_test_nets: int = 20
    training: Training | None = None
    tuning: Tuning = TUNING
    full_data_nets: int = 3
    full_data_steps: int = 2000


def _on_digits(recipe: Recipe) -> Recipe:
    """The same experiment at a size for tests: scikit-learn's digits, a linear network, a few steps.

    What only sets the pace of the outer loop is the same for all, so that many runs become one and are made once.
    """
    settings = recipe.settings()
    return recipe.replace(
        data="digits",
        source=settings["source"] and "digits",
        pool=settings["pool"] and "pools/digits.safetensors",
        checkpoint=None,
        pictures=None,
        model="linear",
        gate_width=0.0,
        remat=False,
        steps=min(settings["steps"], 2),
        epochs=min(settings["epochs"], 2),
        per_class=1,
        inner_lr=0.02,
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


# MNIST's networks as well trained as the paper's (98.6 %); the smaller sets need fewer steps.
TRAINING = {"mnist": Training(1000), "usps": Training(800), "digits": Training(300)}
# What one step is distilled for fits the networks it saw; the more there are, the better it does on others.
POOL_NETS = {"mnist": 400}
QUICK = Tuning(
    (0.01, 0.1), rounds=1, trials=2, nets=2, random_sets=2, kmeans_sets=3, candidates=10, nets_per_candidate=1
)
BUDGETS = {
    "full": Budget(),
    "quick": Budget(_on_digits, 4, 2, Training(20, 32), tuning=QUICK, full_data_nets=2, full_data_steps=20),
}


def reproduce(
    root: Path,
    *,
    only: Iterable[str] = (),
    again: bool = False,
    budget: str = "full",
    data_dir: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Fills the rows of the paper's tables and returns them, as `results/paper.json` has them.

    Args:
      root: folder of everything; what it holds already is kept, and runs with the same settings are not repeated.
      only: names of `paper.rows.RUNS`; all but those for accelerators, where there is none, if none is given.
      again: make the runs that `only` names anew; what is filed of them goes when there is something to file instead.
      budget: "full", or "quick": all of it on scikit-learn's digits, with a small network and a few steps.
      data_dir: folder of prepared data sets.
      progress: whether to show progress on the terminal.

    Raises:
      InputError: an unknown name; or, for a run that `only` names, whatever its data, weights or folder lack.
      InterruptedRunError, NonFiniteError: see `training.loop.run`.
    """
    only = tuple(only)
    unknown = [name for name in only if name not in RUNS]
    if unknown:
        raise InputError(f"there is no run named {unknown[0]!r}: choose among {', '.join(RUNS)}")
    if again and not only:
        raise InputError("--again is for runs that --only names: name them")
    reasons = {name: _why_not_run(run, budget, data_dir) for name, run in RUNS.items()}
    for name in only or RUNS:
        run = RUNS[name]
        if not only and reasons[name] == _NO_ACCELERATOR:
            continue
        try:
            Work(root, name, run, BUDGETS[budget], again, data_dir, progress).do()
        except InputError as error:
            if only:
                raise
            reasons[name] = str(error)
            if progress:
                print(f"{name}: left out, {error}", flush=True)
        jax.clear_caches()
    shrink, folder = BUDGETS[budget].shrink, root / "results"
    rows = [filled(folder / row.run, row, shrink(RUNS[row.run].settings), reasons[row.run]) for row in ROWS]
    write_results(root, rows, quick=budget == "quick")
    return rows


@dataclasses.dataclass(frozen=True)
class Work:
    """One run of the paper, from nothing to what is filed of it."""

    root: Path
    name: str
    run: Run
    budget: Budget
    again: bool
    data_dir: str | None
    progress: bool

    @property
    def recipe(self) -> Recipe:
        recipe = self.budget.shrink(self.run.settings)
        return recipe.replace(pool=str(self.root / recipe.network.pool)) if recipe.network.pool else recipe

    @property
    def kept(self) -> Path:
        return self.root / "results" / self.name

    @property
    def work(self) -> Path:
        return self.root / "runs" / self.name

    def do(self) -> None:
        """Whatever of pool, distillation and baselines is missing."""
        filed = [path.parent for path in sorted(self.kept.parent.glob(f"*/{PROVENANCE}"))]
        same = [folder for folder in filed if filed_recipe(folder) == portable(self.recipe)]
        if self.again:
            shutil.rmtree(self.work, ignore_errors=True)
        if same and self.kept not in same and not self.again:  # what the same settings gave under another name
            (self.kept / BASELINES).unlink(missing_ok=True)  # of settings that this run had before
            shutil.copytree(same[0], self.kept, dirs_exist_ok=True)
        elif not same or self.again:
            self._say("distilling")
            self._pretrain()
            self._distill()
        else:
            self._say(
                f"measured at commit {origin(self.kept)['commit'] or 'unknown'}; --only {self.name} --again repeats it"
            )
        missing = [part for part in self.run.baselines if part not in read_json(self.kept / BASELINES)]
        if missing:
            self._pretrain()
            self._baselines(missing)

    def _say(self, what: str) -> None:
        if self.progress:
            print(f"{self.name}: {what}", flush=True)

    def _pretrain(self) -> None:
        recipe, source = self.recipe, self.recipe.network.source
        if not (recipe.network.pool and source):
            return
        num_nets, test_nets = self.budget.pool_nets or POOL_NETS.get(source, 120), self.budget.pool_test_nets
        self._say(f"starts from {test_nets} + {num_nets} networks trained on {source}, in {recipe.network.pool}")
        pretrain_for(
            recipe,
            num_nets=num_nets,
            test_nets=test_nets,
            training=self.budget.training or TRAINING.get(source, Training()),
            resume=True,
            data_dir=self.data_dir,
            progress=self.progress,
        )

    def _distill(self) -> None:
        options: dict[str, Any] = {"data_dir": self.data_dir, "progress": self.progress}
        done = distill(self.recipe, self.work, name=self.name, resume=True, compare=False, **options)
        metrics = read_metrics(self.work / "metrics.jsonl")
        plots.plot_run(done.artifact, metrics, self.work)
        self.kept.mkdir(parents=True, exist_ok=True)
        (self.kept / BASELINES).unlink(missing_ok=True)  # measured with the budget of another run
        for file in KEPT:
            shutil.copyfile(self.work / file, self.kept / file)
        facts = {"origins": Config.read(self.work).origins, "seconds_distilling": metrics[-1]["seconds"]}
        write_json(self.kept / PROVENANCE, facts)

    def _baselines(self, missing: list[str]) -> None:
        experiment = set_up(self.recipe, data_dir=self.data_dir)
        like = artifact.load_artifact(self.kept).distilled
        for part in missing:
            self._say(f"baseline {part}")
            started = time.monotonic()
            summary = measure_baseline(part, experiment, like, self.budget)
            figure = {
                **summary,
                "seconds": round(time.monotonic() - started, 1),
                "commit": provenance.commit(),
                "machine": provenance.machine(),
                "versions": provenance.versions(),
            }
            write_json(self.kept / BASELINES, {**read_json(self.kept / BASELINES), part: figure})


def measure_baseline(part: str, experiment: Experiment, like: DistilledData, budget: Budget) -> dict[str, Any]:
    """The summary of one of `paper.rows.BASELINES`, with the budget of the distilled data `like`."""
    key, tuning = experiment.stream("baseline"), budget.tuning
    problem = experiment.problem._replace(targets=fixed_labels)
    splits = experiment.train, experiment.outer(experiment.valid), experiment.outer(experiment.test)
    if part == "full data":
        options: dict[str, Any] = {"num_nets": budget.full_data_nets, "steps": budget.full_data_steps}
        return full_data(
            experiment.stream("all data"),
            problem,
            splits[0],
            splits[2],
            params_N=experiment.starts.test.params_N,
            **options,
        ).summary()
    if part == "K-NN on random real":
        return knn(like, random_sets(key, like, splits[0], tuning.random_sets), *splits[1:], tuning=tuning).summary()
    if part == "K-NN on k-means":
        return knn(like, kmeans_sets(key, like, splits[0], tuning.kmeans_sets), *splits[1:], tuning=tuning).summary()
    measure = {
        "random real": baselines.random_real,
        "optimised real": baselines.optimised_real,
        "k-means": baselines.kmeans,
        "class average": baselines.class_average,
    }[part]
    count = 1 if experiment.starts.params is not None else tuning.nets
    nets: dict[str, Any] = {"params_N": experiment.starts.test.params_N, "num_nets": count}
    return measure(key, problem, like, *splits, tuning=tuning, **nets).summary()


def _why_not_run(run: Run, budget: str, data_dir: str | None) -> str:
    """Why a run has no figures, as far as can be told without trying."""
    recipe = BUDGETS[budget].shrink(run.settings)
    if run.accelerator and budget == "full" and jax.default_backend() == "cpu":
        return _NO_ACCELERATOR
    wanted = [name for name in (recipe.network.source, recipe.data.data) if name in CATALOGUE]
    missing = [name for name in wanted if find_prepared(name, data_root(data_dir)) is None]
    return f"{missing[0]} is not prepared here: run `ddjax prepare {missing[0]}` first" if missing else NOT_RUN
