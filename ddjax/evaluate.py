"""How well networks do that were trained on distilled data: the whole test set, many networks, chosen steps."""

import operator
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddjax.core.distilled import DistilledData
from ddjax.core.inner import trajectory
from ddjax.core.losses import Apply, Params
from ddjax.core.outer import Problem
from ddjax.data import Split, normalise


class Evaluation(NamedTuple):
    """Scores of networks at the points of their training on distilled data.

    Attributes:
      steps: inner steps taken at each point: 0, then the end of each epoch (S, 2S, ..., S*E).
      accuracy: float [num_nets, len(steps)], percent of the examples.
      loss: float [num_nets, len(steps)], mean cross-entropy.
    """

    steps: tuple[int, ...]
    accuracy: np.ndarray
    loss: np.ndarray

    def summary(self) -> dict[str, float | int]:
        """Mean and standard deviation over networks at the end, and the means before training; percent and nats."""
        return {
            "accuracy_mean": float(self.accuracy[:, -1].mean()),
            "accuracy_std": float(self.accuracy[:, -1].std()),
            "accuracy_before_mean": float(self.accuracy[:, 0].mean()),
            "loss_mean": float(self.loss[:, -1].mean()),
            "num_nets": len(self.accuracy),
        }


def score(apply: Apply, params: Params, split: Split, *, batch_size: int = 1000) -> tuple[jax.Array, jax.Array]:
    """Accuracy (fraction) and mean cross-entropy of one network over all of `split`, in batches; jittable."""
    size = split.labels.shape[0]
    batches = -(-size // batch_size)
    index = jnp.arange(batches * batch_size)
    counts = (index < size).reshape(batches, batch_size)  # the last batch is filled up with examples that do not count
    index = jnp.minimum(index, size - 1).reshape(batches, batch_size)

    def batch_score(totals, batch):
        rows, counted = batch
        labels = split.labels[rows]
        logits = apply(params, normalise(split.inputs[rows], split.mean, split.std))
        hits = jnp.argmax(logits, axis=-1) == labels
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
        return (totals[0] + jnp.sum(hits & counted), totals[1] + jnp.sum(jnp.where(counted, losses, 0.0))), None

    zero = (jnp.zeros((), jnp.int32), jnp.zeros(()))
    (hits, loss), _ = jax.lax.scan(batch_score, zero, (index, counts))
    return hits / size, loss / size


def trained_scores(
    problem: Problem, params: Params, distilled: DistilledData, split: Split
) -> tuple[jax.Array, jax.Array]:
    """Accuracy and loss of one network that starts from `params`, before and after each epoch on `distilled`: two [E + 1]."""
    after_epochs = trajectory(problem.inner_loss, params, distilled, **problem.unroll_options)
    points = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), params, after_epochs)
    return jax.lax.map(lambda p: score(problem.apply, p, split), points)


def evaluate(
    key: jax.Array,
    problem: Problem,
    distilled: DistilledData,
    split: Split,
    *,
    num_nets: int,
    params_N: Params | None = None,
    chunk: int = 8,
) -> Evaluation:
    """Trains `num_nets` networks on the distilled data and scores them on `split`.

    Args:
      key: network j starts from `problem.init(fold_in(key, j))`, where `params_N` does not say otherwise.
      problem: see `core.outer.Problem`.
      distilled: one distilled data set for all, or one a network (leaves with a leading axis `num_nets`).
      split: real data.
      num_nets: how many; one is enough where the initialisation is fixed.
      params_N: networks to start from instead, leaves [P, ...]: network j is number j mod P of them.
      chunk: networks trained side by side; bounds the memory.
    """
    distilled = jax.device_get(distilled)
    one_each = distilled.log_lrs.ndim == 3

    def one_network(j: jax.Array, distilled: DistilledData, params_N: Params | None, split: Split):
        if params_N is None:
            start = problem.init(jax.random.fold_in(key, j))
        else:
            start = jax.tree.map(lambda leaf: leaf[j % len(leaf)], params_N)
        return trained_scores(problem, start, distilled, split)

    scores = jax.jit(jax.vmap(one_network, in_axes=(0, 0 if one_each else None, None, None)))
    results = []
    for rows in _chunks(num_nets, min(chunk, num_nets)):
        members = jax.tree.map(operator.itemgetter(rows), distilled) if one_each else distilled
        results.append(jax.device_get(scores(_spread(jnp.asarray(rows)), members, params_N, split)))
    accuracy, loss = (np.concatenate(parts)[:num_nets] for parts in zip(*results, strict=True))
    epochs, steps = distilled.log_lrs.shape[-2:]
    return Evaluation(tuple(range(0, (epochs + 1) * steps, steps)), 100.0 * accuracy.astype(np.float64), loss)


def _spread(numbers: jax.Array) -> jax.Array:
    """Puts one share of the networks' numbers on each device, and so the networks, where they divide evenly."""
    devices = jax.devices()
    if len(numbers) % len(devices):
        return numbers
    return jax.device_put(numbers, NamedSharding(Mesh(np.array(devices), ("nets",)), PartitionSpec("nets")))


def _chunks(count: int, size: int) -> Iterator[np.ndarray]:
    """Indices 0..count-1 in pieces of equal size, so that one compilation serves; the last index repeats to fill up."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
