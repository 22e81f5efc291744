"""What comes of a run: its artefact with the header that tells of it, its figures, and what they are compared with."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.core.distilled import DistilledData, fixed_labels
from ddjax.errors import InputError
from ddjax.evaluation import baselines
from ddjax.evaluation.measure import evaluate, measure_trained
from ddjax.evaluation.poisoning import poisoning_summary
from ddjax.evaluation.scoring import confusion
from ddjax.experiment.folder import SUMMARY, Config, read_summary
from ddjax.experiment.setup import Experiment
from ddjax.models import describe_model
from ddjax.recipes import Recipe
from ddjax.storage import artifact, provenance, tensorfile
from ddjax.storage.artifact import Artifact
from ddjax.storage.files import write_json
from ddjax.storage.pieces import Piece, pieces
from ddjax.storage.pools import Pool
from ddjax.training import fit
from ddjax.training.progress import Bar, say
from ddjax.training.under_way import RunState

_TEST = "test"  # the folder of a test that is not done


@dataclass(frozen=True)
class Summary:
    """The figures of a run, in percent where nothing else is said.

    Attributes:
      name, data, model: what the recipe, the data set and the network are called.
      images, inner_steps: distilled images in all, and steps of the inner loop.
      num_train, num_test: real examples that were learned from and tested on.
      outer_steps, best_step: updates in all, and after how many the saved iterate did best on held-out training data.
      valid_accuracy: the best iterate's, on held-out training data.
      distilled: `Evaluation.summary` of the test.
      accuracy_by_step: mean test accuracy by inner steps taken; between the first and the last that of eight networks.
      pool: how well the networks of a pool do, those to distil with and those held out; None without one.
      random_real, all_data: `summary` of the two baselines; None where they were not asked for.
      poisoning: `poisoning_summary`; None where nothing is poisoned.
    """

    name: str
    data: str
    model: str
    images: int
    inner_steps: int
    num_train: int
    num_test: int
    outer_steps: int
    best_step: int
    valid_accuracy: float
    distilled: dict[str, Any]
    accuracy_by_step: dict[str, float]
    pool: dict[str, Any] | None = None
    random_real: dict[str, Any] | None = None
    all_data: dict[str, Any] | None = None
    poisoning: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """What there is of it, as `summary.json` has it."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Distillation(NamedTuple):
    """What a distillation gives: the artefact, its figures, and the folder that holds both, or None."""

    artifact: Artifact
    summary: Summary
    folder: Path | None


def finished(folder: Path, recipe: Recipe, *, compare: bool) -> Distillation | None:
    """What the folder holds of a run that went to its end, or None where it did not, or lacks the comparison."""
    try:
        summary = Summary(**read_summary(folder))
        held = artifact.load_artifact(folder)
    except (InputError, TypeError):
        return None
    patience, every = recipe.report.patience, recipe.report.eval_every
    stalled = patience is not None and summary.outer_steps - summary.best_step >= patience * every
    complete = summary.outer_steps == recipe.outer.outer_steps or stalled
    compared = summary.random_real is not None or not compare
    network = recipe.network
    fresh = network.init == "random" and network.pool is None
    tested = not fresh or summary.distilled["num_nets"] == recipe.report.test_nets
    return Distillation(held, summary, folder) if complete and compared and tested else None


def finish(
    experiment: Experiment, state: RunState, out: Path, config: Config, *, compare: bool, progress: bool
) -> Distillation:
    """Measures the best iterate on the test set, and what to `compare` it with, and writes the artefact and `summary.json`.

    Networks that have been tested are kept in the folder until the end, so that an interrupted test goes on.
    """
    problem, starts, dataset = experiment.problem, experiment.starts, experiment.dataset
    best = state.best._replace(labels=problem.targets(state.best.labels))
    plain = problem._replace(targets=fixed_labels)
    nets = starts.test._asdict()
    say(f"testing on {len(dataset.y_test)} examples", progress)
    kept = _kept(out / _TEST, best, starts.test.num_nets, config)
    with Bar(0, starts.test.num_nets, "net", progress) as bar:
        piece = _counted(kept("accuracy"), starts.test.num_nets, bar)
        test = evaluate(experiment.stream("test"), plain, best, experiment.outer(experiment.test), piece=piece, **nets)
    chosen: dict[str, Any] = {"best_step": int(state.best_step), "valid_accuracy": 100 * float(state.best_accuracy)}
    steps = int(state.state.step)
    metadata = {
        **describe(experiment, config),
        "outer_steps": steps,
        **chosen,
        "accuracy": test.summary(),
    }
    artifact.save_artifact(out / artifact.FILE_NAME, best, metadata, starts.params)
    poisoning = None
    if experiment.recipe.data.poison:
        measure = functools.partial(confusion, plain.apply, num_classes=dataset.num_classes)
        piece, ends = kept("confusions"), (0, best.log_lrs.shape[-2])
        confusions = measure_trained(
            measure, experiment.stream("test"), plain, best, experiment.test, after=ends, piece=piece, **nets
        )
        poisoning = poisoning_summary(confusions, experiment.taken_for)
    summary = Summary(
        name=config.name,
        data=dataset.name,
        model=config.model,
        images=int(np.prod(best.images.shape[:2])),
        inner_steps=best.log_lrs.size,
        num_train=len(experiment.train.labels),
        num_test=len(dataset.y_test),
        outer_steps=steps,
        **chosen,
        distilled=test.summary(),
        accuracy_by_step={str(step): float(accuracy.mean()) for step, accuracy, _ in test.points()},
        pool=pool_summary(experiment),
        **(comparison(experiment, best, progress=progress) if compare else {}),
        poisoning=poisoning,
    )
    write_json(out / SUMMARY, summary.to_json())
    shutil.rmtree(out / _TEST)
    return Distillation(artifact.load_artifact(out), summary, out)


def _kept(folder: Path, best: DistilledData, num_nets: int, config: Config) -> Callable[[str], Piece]:
    """Where the pieces of a test lie, by what is measured; those of other data, code or inputs are none of it."""
    told = json.dumps([config.origins[-1], num_nets]).encode()
    work = provenance.digest((told, *jax.tree.leaves(jax.device_get(best))))
    return lambda what: pieces(folder / what, work)


def _counted(piece: Piece, num_nets: int, bar: Bar) -> Piece:
    """The same, and the bar goes on by the networks of a piece."""
    done = 0

    def counted(number: int, compute: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        nonlocal done
        arrays = piece(number, compute)
        more = min(len(arrays[0]), num_nets - done)  # the last piece is filled up
        done += more
        bar.update(more)
        return arrays

    return counted


def pool_summary(experiment: Experiment) -> dict[str, Any] | None:
    """How well the networks of a pool do on their own test set, those to distil with and those held out."""
    starts = experiment.starts
    if starts.pool is None or starts.params is not None:
        return None
    accuracy, held_out = np.array(starts.pool.metadata["accuracy"]), starts.test.num_nets
    parts = {"train": accuracy[held_out:], "test": accuracy[:held_out]}
    return {
        name: {"num_nets": len(part), "accuracy_mean": float(part.mean()), "accuracy_std": float(part.std())}
        for name, part in parts.items()
    }


def comparison(experiment: Experiment, best: DistilledData, *, progress: bool = False) -> dict[str, Any]:
    """What the same steps on random real images reach, and ordinary training on all the data."""
    plain = experiment.problem._replace(targets=fixed_labels)
    train, valid, test = experiment.train, experiment.outer(experiment.valid), experiment.outer(experiment.test)
    count = 1 if experiment.starts.params is not None else None
    nets: dict[str, Any] = {"num_nets": count, "params_N": experiment.starts.test.params_N}
    say("comparing with random real images", progress)
    real = baselines.random_real(experiment.stream("baseline"), plain, best, train, valid, test, **nets)
    say("comparing with training on all the data", progress)
    full = fit.full_data(
        experiment.stream("all data"), plain, experiment.outer(train), test, augment=experiment.augment
    )
    return {"random_real": real.summary(), "all_data": full.summary()}


def told_of(pool: Pool) -> dict[str, Any]:
    """What networks were trained on and how, how many there are to distil with and held out, and the digest of their file."""
    told = {name: pool.metadata.get(name) for name in ("data_source", "training", "seed", "test_nets")}
    return {**told, "num_nets": len(pool.metadata["accuracy"]) - pool.metadata["test_nets"], "digest": pool.digest}


def describe(experiment: Experiment, config: Config) -> dict[str, Any]:
    """What a user of the artefact must know, JSON-serialisable; nothing in it depends on when or where it was made."""
    recipe, dataset, starts = experiment.recipe, experiment.dataset, experiment.starts
    weights = jax.eval_shape(experiment.model.init, experiment.key)
    layers = describe_model(recipe.network, dataset.input_shape, dataset.num_classes)
    return {
        "name": config.name,
        "data": dataset.name,
        "data_source": Path(dataset.source).name,
        "data_digest": config.origins[-1]["inputs"]["data"].rpartition(" ")[2],
        "transform": dataset.transform.to_json(),
        "class_names": list(dataset.class_names),
        **({"feature_names": list(dataset.feature_names)} if dataset.feature_names else {}),
        "model": {
            "name": config.model,
            "input_shape": list(dataset.input_shape),
            "num_classes": dataset.num_classes,
            **({"layers": layers} if layers else {}),
            "weights": {name: list(leaf.shape) for name, leaf in tensorfile.named("params", weights).items()},
        },
        "pool": None if starts.pool is None else told_of(starts.pool),
        "recipe": recipe.to_json(),
        "versions": provenance.versions(),
    }
