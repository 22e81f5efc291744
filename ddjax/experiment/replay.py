"""From a saved artefact back to networks: the file, its data set's test examples and, where it names one, its pool."""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.meta import Problem
from ddjax.data import Dataset, Split, load_dataset, parse_shape, transform_for
from ddjax.errors import InputError, NonFiniteError
from ddjax.evaluation.measure import Evaluation, evaluate, measure_trained
from ddjax.evaluation.scoring import confusion
from ddjax.experiment.setup import OWN, directions, make_problem, outer_labels
from ddjax.experiment.starts import Nets, Starts, fresh_networks, make_starts, one_network
from ddjax.experiment.streams import stream
from ddjax.experiment.trust import allowed, digest_of_data, require_same_data
from ddjax.models import Model, model_of
from ddjax.recipes import Recipe
from ddjax.storage.artifact import EVALUATE_NEEDS, Artifact, load_artifact


class Reopened(NamedTuple):
    """What a saved artefact and its data set make together: `problem` and `starts` as those of an experiment, the data and
    their test part as the artefact's own transform makes it and as the outer loss takes it, what that takes each class for
    (int32 [K]), and the key that everything is drawn from."""

    artifact: Artifact
    recipe: Recipe
    model: Model
    problem: Problem
    starts: Starts
    dataset: Dataset
    test: Split
    taken_for: np.ndarray
    key: jax.Array


def reopen(
    path: str | os.PathLike[str],
    *,
    model: Model | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    fresh: bool = False,
) -> Reopened:
    """What an artefact was distilled for, from nothing but the file.

    Arguments and errors as of `evaluate_artifact`; `fresh`: with weights drawn as the recipe's `weights` says instead of those
    that it was distilled for, so that `model` may be any other network.
    """
    artifact = load_artifact(path)
    artifact.require(EVALUATE_NEEDS, path)
    if fresh:
        artifact = artifact._replace(params=None)
    distilled, metadata, params = artifact
    recipe, shape = Recipe.from_json(metadata["recipe"]), distilled.images.shape[2:]
    classes = distilled.labels.shape[-1]
    _require_tensors(path, distilled, recipe)
    transform = transform_for(metadata["transform"], shape)
    needs_start = params is None and not fresh
    given: dict[str, Any] = {"data": data, "model": model, "data_dir": data_dir}
    recipe = allowed(path, recipe, metadata, needs_start=needs_start, **given)
    network = recipe.network
    if not isinstance(model, Model):
        name = model or network.model
        if name == OWN:
            raise InputError(
                f"{path} was distilled for a network of one's own: say which, with --model path/to/file.py:Name or model="
            )
        # Without gates, which only second derivatives see.
        if name != network.model:
            network = dataclasses.replace(network, width=None, depth=None)
        model = model_of(dataclasses.replace(network, model=name, gate_width=0.0), shape, classes)
    dataset = load_dataset(recipe.data.data, data_dir=data_dir, pictures=recipe.data.pictures)
    _require_fit(path, dataset, model, shape, classes, params)
    require_same_data(path, metadata, digest_of_data(dataset), data)
    taken_for = outer_labels(recipe.data, dataset)
    test = Split.of(dataset.x_test, taken_for[dataset.y_test], transform)
    key = jax.random.key(recipe.seed)
    if fresh:
        starts = fresh_networks(model, stream(key, "weights"), valid_nets=1, test_nets=recipe.report.test_nets)
    else:
        few = recipe.replace(valid_nets=1)  # which nobody asks for, and a header may have made very many
        starts = make_starts(few, model, dataset, key) if params is None else one_network(params)
    problem = make_problem(model, recipe.inner.direction, False, starts.draw)  # whose labels are probabilities now
    problem = problem._replace(direction=directions(recipe.inner))
    return Reopened(artifact, recipe, model, problem, starts, dataset, test, taken_for, key)


def evaluate_artifact(
    path: str | os.PathLike[str],
    *,
    num_nets: int | None = None,
    model: Model | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> tuple[Evaluation, int]:
    """Trains networks on a saved artefact, from nothing but the file, and scores them on its data set's whole test set.

    Args:
      path: artefact, or the folder of a run.
      num_nets: networks to train, by default all of the recipe's report: no more than there are, where the initial weights
        are fixed or a pool's.
      model: the network, where it was one's own: itself, or its name as path/to/file.py:Name.
      data: data set to use instead of the artefact's own (a moved .npz file, say).
      data_dir: folder of prepared data sets.

    Returns: the evaluation and the number of test examples.

    Raises:
      InputError: the artefact, its data or its model cannot be used together.
      NonFiniteError: a network's loss is not finite, so that its accuracy says nothing.
    """
    found = reopen(path, model=model, data=data, data_dir=data_dir)
    nets = _as_many(found.starts, num_nets)
    key, distilled = stream(found.key, "test"), found.artifact.distilled
    evaluation = evaluate(key, found.problem, distilled, found.test, **nets._asdict())
    require_finite(path, evaluation.loss[:, [0, -1]])
    return evaluation, len(found.test.labels)


def confusion_of_artifact(
    path: str | os.PathLike[str],
    *,
    num_nets: int | None = None,
    model: Model | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> np.ndarray:
    """Which class is taken for which before and after training on a saved artefact. Arguments and errors as for
    `evaluate_artifact`, but `num_nets` is the most there may be, and the labels are the true ones, whatever is poisoned.

    Returns: int [nets, P + 1, K, K], test examples of each class (row) taken for each class (column), at the points of
    `measured_epochs`.
    """
    found = reopen(path, model=model, data=data, data_dir=data_dir)
    nets = found.starts.test
    nets = _as_many(found.starts, None if num_nets is None else min(num_nets, nets.num_nets))
    classes = found.artifact.distilled.labels.shape[-1]
    measure = functools.partial(confusion, found.problem.apply, num_classes=classes)
    test = found.test._replace(labels=jnp.asarray(found.dataset.y_test))
    key, distilled = stream(found.key, "test"), found.artifact.distilled
    counts: np.ndarray = measure_trained(measure, key, found.problem, distilled, test, **nets._asdict())
    return counts


def require_finite(path: str | os.PathLike[str], losses: Any) -> None:
    """Raises NonFiniteError where networks [n, ...] that were trained on an artefact have losses that are not finite."""
    wrong = ~np.isfinite(np.asarray(losses)).reshape(len(losses), -1).all(axis=1)
    if wrong.any():
        raise NonFiniteError(
            f"{path}: of {len(wrong)} networks {wrong.sum()} have a loss that is not finite: its learning rates are too large "
            "for this network, or its images or transform too large for float32"
        )


def _as_many(starts: Starts, num_nets: int | None) -> Nets:
    nets = starts.test
    if num_nets is None:
        return nets
    if num_nets < 1:
        raise InputError(f"--num-nets is {num_nets}: give a number above zero")
    if nets.params_N is not None and num_nets > nets.num_nets:
        there = (
            "its one fixed network"
            if starts.params is not None
            else f"{nets.num_nets} networks that its pool holds out"
        )
        raise InputError(f"--num-nets is {num_nets}, but the artefact is for {there}: lower it, or leave it out")
    return nets._replace(num_nets=num_nets)


def _require_tensors(path: str | os.PathLike[str], distilled: DistilledData, recipe: Recipe) -> None:
    """What the recipe says of sizes must be what the tensors are, before anything of these sizes is made."""
    images, pictures, rates = distilled.images.shape[2:], recipe.data.pictures, distilled.log_lrs.shape
    if pictures is not None and parse_shape(pictures) != images:
        raise InputError(f"{path}: images {list(images)}, but its recipe has pictures of {pictures}")
    if rates != (recipe.inner.epochs, recipe.inner.steps):
        raise InputError(
            f"{path}: learning rates {list(rates)}, but its recipe has {recipe.inner.epochs} epochs of {recipe.inner.steps} "
            "steps"
        )


def _require_fit(
    path: str | os.PathLike[str],
    dataset: Dataset,
    model: Model,
    shape: tuple[int, ...],
    classes: int,
    params: Any,
) -> None:
    """Artefact, model and data set must agree in every shape before anything is computed."""
    if dataset.input_shape != shape or dataset.num_classes != classes:
        raise InputError(
            f"{path} was distilled for examples {list(shape)} of {classes} classes, but {dataset.name} has "
            f"{list(dataset.input_shape)} of {dataset.num_classes}: give its own data set with --data"
        )
    expected = jax.eval_shape(model.init, jax.random.key(0))
    same = params is None or (
        str(jax.tree.structure(params)) == str(jax.tree.structure(expected))
        and all(a.shape == b.shape for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True))
    )
    if not same:
        raise InputError(f"{path}: its weights do not fit its model: copy or distill it again")
