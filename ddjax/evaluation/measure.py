"""How well networks do that were trained on distilled data: many of them, at chosen steps, in float32 (see `scoring`)."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.inner import trajectory
from ddjax.core.losses import Params
from ddjax.core.meta import Problem
from ddjax.core.spread import over_nets, place, side_by_side, spread_over_nets
from ddjax.data import Split
from ddjax.errors import InputError
from ddjax.evaluation.scoring import float32, score
from ddjax.storage.pieces import Piece
from ddjax.storage.processes import together

_EACH, _FEWER = 10, 5  # epochs that are measured one by one at most, and how many of more
_CURVES = 8  # networks that are measured between the start and the end, which takes up to nine tenths of a test of all


class Evaluation(NamedTuple):
    """Scores of networks at the points of their training on distilled data.

    Attributes:
      steps: inner steps taken at each point, by default 0, then the end of each epoch (S, 2S, ..., S*E), of many that of five.
      accuracy: float [num_nets, len(steps)], percent of the examples; NaN where a network was not measured, as by default
        between the start and the end of all but the first eight.
      loss: float [num_nets, len(steps)], mean cross-entropy, NaN alike.
    """

    steps: tuple[int, ...]
    accuracy: np.ndarray
    loss: np.ndarray

    def points(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Steps taken, and accuracy and loss of the networks that were measured then, float [1..num_nets]."""
        for i, step in enumerate(self.steps):
            measured = ~np.isnan(self.accuracy[:, i])
            yield step, self.accuracy[measured, i], self.loss[measured, i]

    def summary(self) -> dict[str, float | int]:
        """Means and standard deviations over networks at the end and before training; percent and nats."""
        return {
            "accuracy_mean": float(self.accuracy[:, -1].mean()),
            "accuracy_std": float(self.accuracy[:, -1].std()),
            "accuracy_before_mean": float(self.accuracy[:, 0].mean()),
            "accuracy_before_std": float(self.accuracy[:, 0].std()),
            "loss_mean": float(self.loss[:, -1].mean()),
            "num_nets": len(self.accuracy),
        }


class Scores(NamedTuple):
    """Accuracies alone, as of a baseline.

    Attributes:
      accuracy: float64 [R], percent of the test examples, one for each network or set of images.
      chosen: the setting that was chosen, in words.
    """

    accuracy: np.ndarray
    chosen: str

    def summary(self) -> dict[str, float | int | str]:
        """Mean and standard deviation of the accuracy in percent, over how many networks or sets, and what was chosen."""
        return {
            "accuracy_mean": float(self.accuracy.mean()),
            "accuracy_std": float(self.accuracy.std()),
            "num_nets": len(self.accuracy),
            "chosen": self.chosen,
        }


# What is read off one network: (its weights, real data) -> any pytree of arrays.
Measure = Callable[[Params, Split], Any]


def at_once(number: int, compute: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """A piece of work that nobody keeps; see `storage.pieces`."""
    return compute()


def evaluate(
    key: jax.Array,
    problem: Problem,
    distilled: DistilledData,
    split: Split,
    *,
    num_nets: int,
    after: Sequence[int] | None = None,
    **options: Any,
) -> Evaluation:
    """Trains `num_nets` networks on the distilled data and scores them on `split`. Arguments as for `measure_trained`; where
    `after` does not ask for points of all networks, all but the first eight are scored before training and at the end alone.
    """
    epochs, steps = distilled.log_lrs.shape[-2:]
    if after is None:
        after, options["curves"] = measured_epochs(epochs), _CURVES
    measure = functools.partial(score, problem.apply)
    accuracy, loss = measure_trained(measure, key, problem, distilled, split, num_nets=num_nets, after=after, **options)
    taken = tuple(steps * epoch for epoch in after)
    return Evaluation(taken, 100.0 * accuracy.astype(np.float64), loss)


def measured_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs after which networks are measured: 0, before training, and all, or of more than ten, five that are evenly
    spaced, the last among them: to score a network takes as long as many steps of few images."""
    points = epochs if epochs <= _EACH else _FEWER
    return tuple(np.linspace(0, epochs, points + 1).round().astype(int).tolist())


def measure_trained(
    measure: Measure,
    key: jax.Array,
    problem: Problem,
    distilled: DistilledData,
    split: Split,
    *,
    num_nets: int,
    params_N: Params | None = None,
    after: Sequence[int] | None = None,
    curves: int | None = None,
    chunk: int = 8,
    piece: Piece = at_once,
) -> Any:
    """Trains networks on the distilled data and measures each, before training and after epochs; float32 throughout.

    Args:
      measure: what to read off a network; jittable.
      key: network j starts from `problem.init(fold_in(key, j))`, where `params_N` does not say otherwise.
      problem: see `core.meta.Problem`.
      distilled: one distilled data set for all, or one a network (leaves with a leading axis `num_nets`).
      split: real data.
      num_nets: how many; one is enough where the initialisation is fixed.
      params_N: networks to start from instead, leaves [P, ...]: network j is number j mod P of them.
      after: the epochs after which each network is measured, 0 before training; by default `measured_epochs`.
      curves: how many networks are measured at all of these points, the others at the first and the last, and are NaN
        between (what is measured must be floats then); by default all.
      chunk: networks trained in one call at most, or as few more as all devices share evenly; bounds the memory.
      piece: is given the number of each chunk and what computes it: see `storage.pieces`.

    Returns: what `measure` returns, as NumPy arrays, leaves [num_nets, len(after), ...].

    Raises:
      InputError: `after` names an epoch that there is not, or none.
    """
    distilled = jax.device_get(distilled)
    one_each, epochs = distilled.log_lrs.ndim == 3, distilled.log_lrs.shape[-2]
    measured = measured_epochs(epochs) if after is None else after
    if not measured or not all(0 <= epoch <= epochs for epoch in measured):
        raise InputError(f"after {measured} of {epochs} epochs: give some of 0 to {epochs}")

    ends = tuple({0: None, len(measured) - 1: None})  # of one point both

    def one_network(own: Any, shared: Any, params_N: Any, split: Split, *, at: Sequence[int]) -> Any:
        j, distilled = own[0], own[1] if shared is None else shared
        if params_N is None:
            start = problem.init(jax.random.fold_in(key, j))
        else:
            start = jax.tree.map(lambda leaf: leaf[j % len(leaf)], params_N)
        after_epochs = trajectory(problem.inner_loss, start, distilled, **problem.unroll_options)
        points = jax.tree.map(
            lambda first, rest: jnp.stack([rest[measured[i] - 1] if measured[i] else first for i in at]),
            start,
            after_epochs,
        )
        return jax.lax.map(lambda params: measure(params, split), points)

    size = -(-num_nets // -(-num_nets // chunk))  # that of equal chunks, of which fewest are filled up
    if num_nets >= jax.device_count():
        size += -size % jax.device_count()
    chunks = list(_chunks(num_nets, size))
    each, whole = spread_over_nets(size)
    all_points = tuple(range(len(measured)))

    @functools.cache
    def measures(at: tuple[int, ...]) -> Any:
        one = functools.partial(one_network, at=at)
        return jax.jit(over_nets(one, size, side_by_side=side_by_side(size)), out_shardings=whole)

    def of_chunk(rows: np.ndarray) -> tuple[Any, ...]:
        members, shared = (jax.tree.map(operator.itemgetter(rows), distilled), None) if one_each else (None, distilled)
        return place((jnp.asarray(rows), members), each), shared, params_N, split

    def measured_of(rows: np.ndarray) -> tuple[int, ...]:
        return all_points if curves is None or rows[0] < curves else ends

    def compute(rows: np.ndarray) -> list[np.ndarray]:
        with float32():
            return jax.tree.leaves(jax.device_get(measures(measured_of(rows))(*of_chunk(rows))))

    def whole_rows(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
        """What was found of a chunk, at all points: NaN where it was not measured, or is no part of the curves."""
        if curves is None:
            return found
        full = np.full((len(found), len(measured), *found.shape[2:]), np.nan, found.dtype)
        full[:, measured_of(rows)] = found
        full[rows >= curves, 1:-1] = np.nan
        return full

    with together():
        results = [piece(number, functools.partial(compute, rows)) for number, rows in enumerate(chunks)]
    with float32():
        kind = jax.tree.structure(jax.eval_shape(measures(all_points), *of_chunk(chunks[0])))
    leaves = [
        np.concatenate([whole_rows(rows, part) for rows, part in zip(chunks, parts, strict=True)])[:num_nets]
        for parts in zip(*results, strict=True)
    ]
    return jax.tree.unflatten(kind, leaves)


def _chunks(count: int, size: int) -> Iterator[np.ndarray]:
    """Indices 0..count-1 in pieces of equal size, so that one compilation serves; the last index repeats to fill up."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
