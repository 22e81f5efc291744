"""A network trained on a saved artefact, to be used: as the artefact documents, or by ordinary minibatches for comparison."""

import functools
import os
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.core.inner import unroll
from ddjax.core.losses import Params
from ddjax.errors import InputError
from ddjax.evaluation.scoring import float32, score
from ddjax.experiment.replay import reopen, require_finite
from ddjax.experiment.streams import stream
from ddjax.models import Model
from ddjax.storage import provenance, tensorfile
from ddjax.storage.artifact import FILE_NAME
from ddjax.training.minibatches import by_minibatches, rows_of

Way = Literal["documented", "sgd", "adam"]


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      params: its weights.
      accuracy_before, accuracy: percent of the data set's whole test part.
      num_test: how many examples that has.
    """

    params: Params
    accuracy_before: float
    accuracy: float
    num_test: int


def train_artifact(
    path: str | os.PathLike[str],
    out: Path | None = None,
    *,
    way: Way = "documented",
    epochs: int = 30,
    lr: float = 0.01,
    batch_size: int = 10,
    seed: int = 0,
    model: Model | str | None = None,
    fresh: bool = False,
    data: str | None = None,
    data_dir: str | None = None,
) -> Trained:
    """Trains one network on a saved artefact and scores it.

    Args:
      path: artefact, or the folder of a run.
      out: safetensors file for the weights, tensors `params/...` float32; None: they are not kept.
      way: "documented": the artefact's own steps, order and learning rates; "sgd" and "adam": its examples as an ordinary
        training set, in shuffled minibatches, with the next three arguments.
      epochs, lr, batch_size: passes over the examples, learning rate, examples a step.
      seed: draws weights and orders, where they are drawn.
      model: another network than the artefact's, by name, as path/to/file.py:Name, or itself; its weights are drawn afresh.
      fresh: weights drawn afresh for the artefact's own network too, where it was distilled for others.
      data, data_dir: as of `evaluate_artifact`.

    Raises:
      InputError: the artefact, its data and its model cannot be used together, or a number makes no sense.
      NonFiniteError: the trained network's loss is not finite; nothing is written.
      StorageError: the weights cannot be written.
    """
    for flag, value in (("--epochs", epochs), ("--lr", lr), ("--batch-size", batch_size)):
        if not value > 0:
            raise InputError(f"{flag} is {value}: give a number above zero")
    if out is not None and out.exists():
        raise InputError(f"{out} exists: give another --out, or remove it")
    if out is not None and not (out.absolute().parent.is_dir() and os.access(out.absolute().parent, os.W_OK)):
        raise InputError(f"{out} cannot be written: give an --out in a folder that can")
    found = reopen(path, model=model, data=data, data_dir=data_dir, fresh=fresh or model is not None)
    start_key, order_key = jax.random.split(jax.random.fold_in(stream(found.key, "test"), seed))
    nets = found.starts.test
    start = found.problem.init(start_key) if nets.params_N is None else _first(nets.params_N)
    distilled = jax.tree.map(jnp.asarray, found.artifact.distilled)
    with float32():
        if way == "documented":
            params = jax.jit(functools.partial(unroll, found.problem.inner_loss, **found.problem.unroll_options))(
                start, distilled
            )
        else:
            optimizer = {"sgd": optax.sgd, "adam": optax.adam}[way](lr)
            options = {"optimizer": optimizer, "epochs": epochs, "batch_size": batch_size}
            trained = jax.jit(functools.partial(by_minibatches, found.problem.inner_loss, **options))
            params = jax.tree.map(np.asarray, trained(order_key, start, *rows_of(distilled)))
    scored = jax.jit(functools.partial(score, found.problem.apply))
    (before, _), (after, loss) = (
        (100.0 * float(accuracy), float(loss))
        for accuracy, loss in (scored(weights, found.test) for weights in (start, params))
    )
    require_finite(path, [loss])
    if out is not None:
        artifact = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        told = {"way": way, "seed": seed, "fresh": fresh or model is not None, "accuracy": after}
        if way != "documented":
            told |= {"epochs": epochs, "lr": lr, "batch_size": batch_size}
        from_file = {"artifact": provenance.digest_of_file(artifact), "versions": provenance.versions()}
        tensorfile.write(out, tensorfile.named("params", params), {"trained": told, **from_file})
    return Trained(params, before, after, len(found.test.labels))


def _first(params_N: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), params_N)
