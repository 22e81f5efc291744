"""Runs what the paper's tables need and is missing, resumes what is half done, and files every figure with its provenance.

Under one folder: `pools/` the trained networks, `runs/NAME/` the work of each run, `results/NAME/` what is kept of it
(artefact, pictures, summary, metrics, baselines, provenance), `results/paper.json` and `results/benchmark.json` every row of
their tables, and `RESULTS.md`.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from ddjax.data import Dataset
from ddjax.data.catalogue import CATALOGUE
from ddjax.data.prepared import data_root, find_prepared
from ddjax.errors import InputError
from ddjax.experiment.distill import distill
from ddjax.experiment.folder import Config
from ddjax.experiment.outcome import finished
from ddjax.experiment.setup import set_up
from ddjax.paper.budgets import BUDGETS, Budget
from ddjax.paper.filing import (
    BASELINES,
    NOT_RUN,
    PROVENANCE,
    SUMMARY,
    Wanted,
    filled,
    in_turn,
    is_filed,
    is_wanted,
    origins,
    to_measure,
)
from ddjax.paper.page import write_results
from ddjax.paper.rows import ROWS, Book
from ddjax.paper.runs import RUNS, Run
from ddjax.recipes import Recipe
from ddjax.show import plots
from ddjax.storage import artifact, provenance
from ddjax.storage.files import read_json, write_json
from ddjax.storage.metrics import read_metrics
from ddjax.training.pretrain import Training, pretrain_for
from ddjax.training.progress import say

_NO_ACCELERATOR = "for an accelerator, and there is none here"
KEPT = (artifact.FILE_NAME, SUMMARY, "metrics.jsonl", "images.png", "curve.png", "learning_rates.png")


def reproduce(
    root: Path,
    book: Book = "paper",
    *,
    only: Iterable[str] = (),
    again: bool = False,
    accept_changes: bool = False,
    page_only: bool = False,
    budget: str = "full",
    dataset: Dataset | None = None,
    data_dir: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Fills the rows of the tables of a book and returns them, as `results/BOOK.json` has them.

    Args:
      root: folder of everything; what it holds already is kept, and runs with the same settings are not repeated.
      book: whose tables are filled: the paper's, or the benchmark's.
      only: names of `paper.runs.RUNS`; all of the book but those for accelerators, where there is none, if none is given.
      again: make the runs that `only` names anew, or go on with those that are half done; what is filed of them goes when
        there is something to file instead.
      accept_changes: go on with what is half done though code, versions or inputs have changed: see `distill`.
      page_only: run and measure nothing, and build the page from what is filed.
      budget: "full", or "quick": all of it on scikit-learn's digits, with a small network and a few steps.
      dataset: used instead of those that the recipes distil, and train networks on where that is the same set.
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
    of_book = dict.fromkeys(row.run for row in ROWS if row.book == book)
    for name in () if page_only else only or (name for name in RUNS if name in of_book):
        if not only and reasons[name] == _NO_ACCELERATOR:
            continue
        try:
            Work(root, name, RUNS[name], BUDGETS[budget], again, accept_changes, dataset, data_dir, progress).do()
        except InputError as error:
            if only:
                raise
            reasons[name] = str(error)
            say(f"{name}: left out, {error}", progress)
        jax.clear_caches()
    wanted = {name: BUDGETS[budget].wanted(run) for name, run in RUNS.items()}
    rows = [filled(root / "results" / row.run, row, wanted[row.run], reasons[row.run]) for row in ROWS]
    write_results(root, rows, quick=budget == "quick")
    return [row for row in rows if row["book"] == book]


@dataclasses.dataclass(frozen=True)
class Work:
    """One run, from nothing to what is filed of it."""

    root: Path
    name: str
    run: Run
    budget: Budget
    again: bool
    accept_changes: bool
    dataset: Dataset | None
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
        wanted = self.budget.wanted(self.run)
        filed = [path.parent for path in sorted(self.kept.parent.glob(f"*/{PROVENANCE}"))]
        same = [folder for folder in filed if is_filed(folder, wanted)]
        if self.again and not self._half_done():
            shutil.rmtree(self.work, ignore_errors=True)
        if same and self.kept not in same and not self.again:  # what the same settings gave under another name
            (self.kept / BASELINES).unlink(missing_ok=True)  # of settings that this run had before
            shutil.copytree(same[0], self.kept, dirs_exist_ok=True)
        elif not same or self.again:
            self._file(wanted)
        else:
            commit = in_turn(origins(self.kept), "commit")
            self._say(f"measured already, at commit {commit}; --only {self.name} --again measures it anew")
        missing = to_measure(self.kept, wanted)
        if missing:
            self._pretrain(wanted)
            self._baselines(missing, wanted)

    def _half_done(self) -> bool:
        """Whether the folder of the work holds this very run, begun and not finished."""
        try:
            begun = Config.read(self.work).recipe
        except InputError:
            return False
        return begun == self.recipe and finished(self.work, self.recipe, compare=False) is None

    def _say(self, what: str) -> None:
        say(f"{self.name}: {what}", self.progress)

    def _pretrain(self, wanted: Wanted) -> None:
        if wanted.pool is None:
            return
        recipe, sizes = self.recipe, {name: wanted.pool[name] for name in ("num_nets", "test_nets", "seed")}
        count, source = sizes["num_nets"] + sizes["test_nets"], recipe.network.source
        self._say(
            f"starts from {count} networks trained on {source}; those that {recipe.network.pool} lacks are trained now"
        )
        options: dict[str, Any] = {"data_dir": self.data_dir, "progress": self.progress}
        if source == recipe.data.data:
            options["dataset"] = self.dataset
        pretrain_for(recipe, training=Training(**wanted.pool["training"]), resume=True, **sizes, **options)

    def _file(self, wanted: Wanted) -> None:
        """Files the run, which goes on where it is not finished; one that is finished has the figures of where it was."""
        done = finished(self.work, self.recipe, compare=False) if is_wanted(self.work, wanted) else None
        if done is None:
            self._say("distilling")
            self._pretrain(wanted)
            changes: Any = {"resume": True, "accept_changes": self.accept_changes, "compare": False}
            options: dict[str, Any] = {"dataset": self.dataset, "data_dir": self.data_dir, "progress": self.progress}
            done = distill(self.recipe, self.work, name=self.name, **changes, **options)
        metrics = read_metrics(self.work / "metrics.jsonl")
        plots.plot_run(done.artifact, metrics, self.work)
        self.kept.mkdir(parents=True, exist_ok=True)
        for file in (PROVENANCE, BASELINES):  # of what was there before
            (self.kept / file).unlink(missing_ok=True)
        for file in KEPT:
            shutil.copyfile(self.work / file, self.kept / file)
        facts = {"origins": Config.read(self.work).origins, "seconds_distilling": metrics[-1]["seconds"]}
        write_json(self.kept / PROVENANCE, facts)

    def _baselines(self, missing: list[str], wanted: Wanted) -> None:
        experiment = set_up(self.recipe, dataset=self.dataset, data_dir=self.data_dir)
        like = artifact.load_artifact(self.kept).distilled
        for part in missing:
            self._say(f"baseline {part}")
            started = time.monotonic()
            summary = self.budget.measure(part, experiment, like)
            figure = {
                **summary,
                "seconds": round(time.monotonic() - started, 1),
                "commit": provenance.commit(),
                "machine": provenance.machine(),
                "versions": provenance.versions(),
                "settings": wanted.baselines[part],
                "artifact": provenance.digest_of_file(self.kept / artifact.FILE_NAME),
            }
            write_json(self.kept / BASELINES, {**read_json(self.kept / BASELINES), part: figure})


def _why_not_run(run: Run, budget: str, data_dir: str | None) -> str:
    """Why a run has no figures, as far as can be told without trying."""
    recipe = BUDGETS[budget].shrink(run.settings)
    if run.accelerator and budget == "full" and jax.default_backend() == "cpu":
        return _NO_ACCELERATOR
    wanted = [name for name in (recipe.network.source, recipe.data.data) if name in CATALOGUE]
    missing = [name for name in wanted if find_prepared(name, data_root(data_dir)) is None]
    return f"{missing[0]} is not prepared here: run `ddjax prepare {missing[0]}` first" if missing else NOT_RUN
