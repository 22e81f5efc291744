"""From a saved artefact back to networks: the file, its data set's test examples and, where it names one, its pool."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ddjax.core.distilled import DistilledData
from ddjax.data import Dataset, Split, load_dataset
from ddjax.errors import InputError
from ddjax.evaluation.measure import Evaluation, evaluate
from ddjax.experiment.setup import make_problem, outer_labels, stream
from ddjax.models import Model, build_model
from ddjax.recipes import Recipe
from ddjax.storage import artifact
from ddjax.training.pretrain import load_pool


def evaluate_artifact(
    path: str | os.PathLike, *, num_nets: int | None = None, data: str | None = None, data_dir: str | None = None
) -> tuple[Evaluation, int]:
    """Trains networks on a saved artefact, from nothing but the file, and scores them on its data set's whole test set.

    Args:
      path: artefact, or the folder of a run.
      num_nets: networks drawn where the initial weights are random; by default as many as the recipe's report.
      data: data set to use instead of the artefact's own (a moved .npz file, say).
      data_dir: folder of prepared data sets.

    Returns: the evaluation and the number of test examples.

    Raises:
      InputError: the artefact, its data or its model cannot be used together.
    """
    if num_nets is not None and num_nets < 1:
        raise InputError(f"--num-nets is {num_nets}: give a number above zero")
    distilled, metadata, params = artifact.load(path)
    try:
        recipe = Recipe(**metadata["recipe"]).validate()
        dataset = load_dataset(data or recipe.data, data_dir=data_dir, pictures=recipe.pictures)
        spec = metadata["model"]
        mean, std = (jnp.asarray(metadata[name], jnp.float32).reshape(dataset.mean.shape) for name in ("mean", "std"))
        shape, classes = tuple(spec["input_shape"]), int(spec["num_classes"])
        model = build_model(spec["name"], shape, classes, weights=spec["weights"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the 'ddjax' header lacks or misstates {error}: copy or distill it again") from error
    _require_fit(path, distilled, dataset, model, shape, classes, params)
    labels = jnp.asarray(outer_labels(recipe, dataset)[dataset.y_test])
    test = Split(jnp.asarray(dataset.x_test), labels, mean, std)
    problem = make_problem(model, recipe.direction, False, params)
    key = stream(jax.random.key(recipe.seed), "test")
    params_N = load_pool(Path(recipe.pool), model).test if params is None and recipe.pool else None
    nets = num_nets or recipe.test_nets
    if params is not None:
        nets = 1
    elif params_N is not None:
        held_out = len(jax.tree.leaves(params_N)[0])  # of which the report has all, whatever the recipe's count
        nets = min(num_nets or held_out, held_out)
    evaluation = evaluate(key, problem, distilled, test, num_nets=nets, params_N=params_N)
    return evaluation, len(dataset.y_test)


def _require_fit(
    path, distilled: DistilledData, dataset: Dataset, model: Model, shape, classes: int, params: Any
) -> None:
    """Artefact, model and data set must agree in every shape before anything is computed."""
    images, labels = distilled.images.shape[2:], distilled.labels.shape[-1]
    if images != shape or labels != classes:
        raise InputError(
            f"{path}: images {list(images)} of {labels} classes, but its model reads {list(shape)} of {classes}"
        )
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
