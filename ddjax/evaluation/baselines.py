"""What distilled data are measured against: networks trained on real images with the same budget.

The baselines of Dataset Distillation (arXiv 1811.10959, sec. 4, Tables 1 and 2). Everything that is chosen is chosen on
training data, the learning rate on the part of them that is held out; the test set is only scored. Of weights that are fixed,
one network is all there is: give `num_nets=1`, and there is one figure for each set of images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.losses import Params
from ddjax.core.meta import Problem
from ddjax.data import Split
from ddjax.evaluation.measure import Evaluation, Scores, evaluate
from ddjax.evaluation.real_sets import class_of_place, kmeans_sets, mean_sets, random_sets
from ddjax.evaluation.tuning import TUNING, Tuning

LEARNED = "learned"


class Baseline(NamedTuple):
    """A baseline that trains networks.

    Attributes:
      evaluation: scores on the test set at the end of training, one network a row.
      learning_rate: what was chosen on held-out training data: a fixed rate, or "learned", those of the distilled data.
    """

    evaluation: Evaluation
    learning_rate: float | str

    def summary(self) -> dict[str, float | int | str]:
        """As `Scores.summary`; `num_nets` counts networks."""
        rate = self.learning_rate
        chosen = "learned rates" if rate == LEARNED else f"rate {rate:g}"
        return Scores(self.evaluation.accuracy[:, -1], chosen).summary()


def train_on(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    sets: np.ndarray,
    valid: Split,
    test: Split,
    *,
    num_nets: int | None = None,
    params_N: Params | None = None,
    rate: float | str | None = None,
    tuning: Tuning = TUNING,
) -> Baseline:
    """Networks trained on sets of images in the steps and epochs of the distilled data, network j on set j modulo R.

    Args:
      key: draws the networks, other ones for the choice than for the test.
      problem: its `init` and `direction` are used; its targets must be fixed, i.e. probabilities.
      like: the distilled data: S, M, E, the class of every place [S, M, K], and the learned rates, which are tried too.
      sets: float32 [R, S, M, ...], normalised, as from `random_sets`.
      valid, test: the learning rate is chosen on `valid`; scores are from `test`.
      num_nets: networks at the test, by default those of `tuning`; never fewer than there are sets.
      params_N: networks to start from at the test, as for `evaluate`; the choice is made with draws of `problem.init`.
      rate: the learning rate or "learned", where it has been chosen before.
      tuning: what is tried, and by how many.
    """
    count = max(num_nets or tuning.nets, len(sets))
    choice_key, test_key = jax.random.split(key)
    rate = _choose_rate(choice_key, problem, like, sets, valid, count, tuning) if rate is None else rate
    data = _with_rates(like, sets, [rate], count)
    return Baseline(_at_the_end(test_key, problem, data, test, num_nets=count, params_N=params_N), rate)


def random_real(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    train: Split,
    valid: Split,
    test: Split,
    *,
    tuning: Tuning = TUNING,
    **options: Any,
) -> Baseline:
    """`train_on` with `random_sets`; options: `num_nets` and `params_N`."""
    images_key, key = jax.random.split(key)
    sets = random_sets(images_key, like, train, tuning.random_sets)
    return train_on(key, problem, like, sets, valid, test, tuning=tuning, **options)


def optimised_real(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    train: Split,
    valid: Split,
    test: Split,
    *,
    num_nets: int | None = None,
    params_N: Params | None = None,
    tuning: Tuning = TUNING,
) -> Baseline:
    """`train_on` with the best fifth of so many random sets: those from which training networks learn most.

    Sets are ranked by the mean accuracy on training images of networks trained on each, draws of `problem.init` that are the
    same for all sets, with the rate that is best for such sets on held-out images.
    """
    images_key, rate_key, nets_key, key = jax.random.split(key, 4)
    sets = random_sets(images_key, like, train, tuning.candidates)
    times = min(tuning.nets_per_candidate, num_nets or tuning.nets)
    rate = _choose_rate(rate_key, problem, like, sets, valid, len(sets), tuning)
    nets, data = _draws(nets_key, problem, times), _with_rates(like, sets, [rate], len(sets), times)
    judges = tuning.some(train, tuning.trials)
    ranked = _at_the_end(nets_key, problem, data, judges, num_nets=len(sets) * times, params_N=nets)
    best = np.argsort(-_row_means(ranked, len(sets)))[: max(1, len(sets) // 5)]
    options: Any = {"num_nets": num_nets, "params_N": params_N, "tuning": tuning}
    return train_on(key, problem, like, sets[best], valid, test, rate=rate, **options)


def kmeans(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    train: Split,
    valid: Split,
    test: Split,
    *,
    tuning: Tuning = TUNING,
    **options: Any,
) -> Baseline:
    """`train_on` with `kmeans_sets`, each from another seed; options: `num_nets` and `params_N`."""
    images_key, key = jax.random.split(key)
    sets = kmeans_sets(images_key, like, train, tuning.kmeans_sets)
    return train_on(key, problem, like, sets, valid, test, tuning=tuning, **options)


def class_average(
    key: jax.Array, problem: Problem, like: DistilledData, train: Split, valid: Split, test: Split, **options: Any
) -> Baseline:
    """`train_on` with the one set of `mean_sets`; options: `num_nets`, `params_N` and `tuning`."""
    return train_on(key, problem, like, mean_sets(like, train), valid, test, **options)


def _at_the_end(key: jax.Array, problem: Problem, data: DistilledData, split: Split, **nets: Any) -> Evaluation:
    """`evaluate` of the trained networks alone: to score them on so much takes longer than to train them."""
    return evaluate(key, problem, data, split, after=(data.log_lrs.shape[-2],), **nets)


def _draws(key: jax.Array, problem: Problem, count: int) -> Params:
    """Networks to start from, leaves [count, ...]."""
    return jax.jit(jax.vmap(problem.init))(jax.random.split(key, count))


def _with_rates(
    like: DistilledData, sets: np.ndarray, rates: Sequence[float | str], count: int, times: int = 1
) -> DistilledData:
    """Distilled data for one network each, in the order of the grid rates x count x times; number i has set i modulo R."""
    images = np.repeat(sets[np.arange(count) % len(sets)], times, axis=0)
    labels = np.eye(like.labels.shape[-1], dtype=np.float32)[class_of_place(like)]
    log_lrs = [like.log_lrs if r == LEARNED else np.full(like.log_lrs.shape, np.log(r), np.float32) for r in rates]
    data: Any = (
        np.concatenate([images] * len(rates)),
        np.broadcast_to(labels, (len(rates) * len(images), *labels.shape)),
        np.repeat(log_lrs, len(images), axis=0),
    )
    return DistilledData(*data)


def _row_means(evaluation: Evaluation, rows: int) -> np.ndarray:
    """Mean accuracy at the end of networks that were laid out row by row: [rows]."""
    means: np.ndarray = evaluation.accuracy[:, -1].reshape(rows, -1).mean(axis=1)
    return means


def _choose_rate(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    sets: np.ndarray,
    valid: Split,
    num_nets: int,
    tuning: Tuning,
) -> float | str:
    """The rate, fixed or learned, that does best on held-out data; the same sets and networks try them all."""
    count = min(num_nets, tuning.trials)
    nets, judges = _draws(key, problem, count), tuning.some(valid, count)
    found: dict[float | str, float] = {}

    def attempt(rates: Sequence[float | str]) -> None:
        data = _with_rates(like, sets, rates, count)
        tried = _at_the_end(key, problem, data, judges, num_nets=len(rates) * count, params_N=nets)
        found.update(zip(rates, _row_means(tried, len(rates)).tolist(), strict=True))

    attempt((*tuning.rates, LEARNED))
    for _ in range(tuning.rounds):
        fixed = {rate: mean for rate, mean in found.items() if isinstance(rate, float)}
        attempt(_around(max(fixed, key=fixed.__getitem__), sorted(fixed)))
    return max(found, key=found.__getitem__)


def _around(best: float, rates: Sequence[float]) -> list[float]:
    """Half-way, as ratios go, from `best` to those on either side of it; as far beyond where it is the last. Two digits."""
    place, steps = rates.index(best), np.diff(np.log(rates))
    down, up = steps[max(place - 1, 0)], steps[min(place, len(steps) - 1)]
    return [float(f"{rate:.2g}") for rate in (best * np.exp(-down / 2), best * np.exp(up / 2))]
