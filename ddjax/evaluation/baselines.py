"""What distilled data are measured against: real images with the same budget, and nearest neighbours.

The baselines of Dataset Distillation (arXiv 1811.10959, sec. 4, Tables 1 and 2). Everything that is chosen is chosen on
training data, the learning rate and the neighbours on the part of them that is held out; the test set is only scored.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from ddjax.core.distilled import DistilledData
from ddjax.core.losses import Params
from ddjax.core.meta import Problem
from ddjax.data import Split
from ddjax.evaluation.measure import Evaluation, evaluate
from ddjax.evaluation.real_sets import class_of_place, kmeans_sets, mean_sets, normalised, random_sets

# Fixed learning rates tried for a baseline, beside those that the distilled data learned.
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
LEARNED = "learned"
NEIGHBOURS, METRICS = (1, 3), ("l1", "l2")
# Whatever is chosen is chosen by this many networks or sets on this many examples: a ranking needs no more.
_FEW_NETS, _FEW_EXAMPLES = 8, 1000


class Baseline(NamedTuple):
    """A baseline that trains networks.

    Attributes:
      evaluation: scores on the test set, one network a row.
      learning_rate: what was chosen on held-out training data: a fixed rate, or "learned", those of the distilled data.
    """

    evaluation: Evaluation
    learning_rate: float | str

    def summary(self) -> dict[str, float | int | str]:
        """As `Scores.summary`; `num_nets` counts networks."""
        rate = self.learning_rate
        chosen = "learned rates" if rate == LEARNED else f"rate {rate:g}"
        return Scores(self.evaluation.accuracy[:, -1], chosen).summary()


class Scores(NamedTuple):
    """A baseline of which only accuracies are known.

    Attributes:
      accuracy: float64 [R], percent of the test examples, one for each set of images or network.
      chosen: the setting that was chosen, in words.
    """

    accuracy: np.ndarray
    chosen: str

    def summary(self) -> dict[str, float | int | str]:
        """Mean and standard deviation of the accuracy in percent, over how many sets or networks, and what was chosen."""
        return {
            "accuracy_mean": float(self.accuracy.mean()),
            "accuracy_std": float(self.accuracy.std()),
            "num_nets": len(self.accuracy),
            "chosen": self.chosen,
        }


def train_on(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    sets: np.ndarray,
    valid: Split,
    test: Split,
    *,
    num_nets: int = 20,
    params_N: Params | None = None,
    rate: float | str | None = None,
) -> Baseline:
    """Networks trained on sets of images in the steps and epochs of the distilled data, network j on set j modulo R.

    Args:
      key: draws the networks, other ones for the choice than for the test.
      problem: its `init` and `direction` are used; its targets must be fixed, i.e. probabilities.
      like: the distilled data: S, M, E, the class of every place [S, M, K], and the learned rates, which are tried too.
      sets: float32 [R, S, M, ...], normalised, as from `random_sets`.
      valid, test: the learning rate is chosen on `valid`; scores are from `test`.
      num_nets: networks at the test.
      params_N: networks to start from at the test, as for `evaluate`; the choice is made with draws of `problem.init`.
      rate: the learning rate or "learned", where it has been chosen before.
    """
    choice_key, test_key = jax.random.split(key)
    rate = _choose_rate(choice_key, problem, like, sets, valid, num_nets) if rate is None else rate
    data = _with_rates(like, sets, [rate], num_nets)
    return Baseline(evaluate(test_key, problem, data, test, num_nets=num_nets, params_N=params_N), rate)


def random_real(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    train: Split,
    valid: Split,
    test: Split,
    *,
    num_sets: int = 20,
    params_N: Params | None = None,
) -> Baseline:
    """Networks trained on random images of `train`, each on a set of its own: `train_on` with `num_sets` `random_sets`."""
    images_key, key = jax.random.split(key)
    sets = random_sets(images_key, like, train, num_sets)
    return train_on(key, problem, like, sets, valid, test, num_nets=num_sets, params_N=params_N)


def optimised_real(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    train: Split,
    valid: Split,
    test: Split,
    *,
    num_sets: int = 50,
    nets_per_set: int = 4,
    **options: Any,
) -> Baseline:
    """`train_on` with the best fifth of `num_sets` random sets: those from which training networks learn most.

    Args:
      num_sets: random sets to choose from, by the mean accuracy on training images of networks trained on each, with the
        rate that is best for such sets.
      nets_per_set: draws of `problem.init` that rank the sets, the same for each.
      options: `num_nets` and `params_N`; these and the rest as for `train_on`.
    """
    images_key, rate_key, nets_key, key = jax.random.split(key, 4)
    sets, count = random_sets(images_key, like, train, num_sets), num_sets * nets_per_set
    rate = _choose_rate(rate_key, problem, like, sets, valid, num_sets)
    nets, data = _draws(nets_key, problem, nets_per_set), _with_rates(like, sets, [rate], num_sets, nets_per_set)
    ranked = evaluate(nets_key, problem, data, _few(train), num_nets=count, params_N=nets)
    best = np.argsort(-_row_means(ranked, num_sets))[: max(1, num_sets // 5)]
    return train_on(key, problem, like, sets[best], valid, test, rate=rate, **options)


def kmeans(
    key: jax.Array, problem: Problem, like: DistilledData, train: Split, valid: Split, test: Split, **options: Any
) -> Baseline:
    """`train_on` with one set of `kmeans_sets`; options: `num_nets` and `params_N`."""
    images_key, key = jax.random.split(key)
    return train_on(key, problem, like, kmeans_sets(images_key, like, train), valid, test, **options)


def class_average(
    key: jax.Array, problem: Problem, like: DistilledData, train: Split, valid: Split, test: Split, **options: Any
) -> Baseline:
    """`train_on` with the set of `mean_sets`; options: `num_nets` and `params_N`."""
    return train_on(key, problem, like, mean_sets(like, train), valid, test, **options)


def knn(like: DistilledData, sets: np.ndarray, valid: Split, test: Split) -> Scores:
    """Nearest neighbours among the images of a set, without a network: 1 or 3 of them, by l1 or l2 distance.

    Args:
      like: its labels [S, M, K] give the class of every place.
      sets: float32 [R, S, M, ...], normalised, as from `random_sets` or `kmeans_sets`; each is scored by itself.
      valid, test: neighbours and distance are chosen on `valid`, by a few of the sets; scores are from `test`.
    """
    classes = class_of_place(like).reshape(-1)

    def percent(split: Split, sets: np.ndarray, count: int, metric: str) -> np.ndarray:
        points, labels = normalised(split).reshape(len(split.labels), -1), np.asarray(split.labels)
        voters = KNeighborsClassifier(count, metric=metric, algorithm="brute")
        hits = [voters.fit(s.reshape(len(classes), -1), classes).predict(points) == labels for s in sets]
        return 100 * np.mean(hits, axis=1)

    settings = [(count, metric) for count in NEIGHBOURS if count <= len(classes) for metric in METRICS]
    few = _few(valid)
    count, metric = max(settings, key=lambda setting: percent(few, sets[:_FEW_NETS], *setting).mean())
    return Scores(percent(test, sets, count, metric), f"{count} neighbour{'s' * (count > 1)}, {metric}")


def _few(split: Split) -> Split:
    """Some of a split, always the same: drawn, as it may be in the order of its classes."""
    size = len(split.labels)
    rows = np.random.default_rng(0).permutation(size)[:_FEW_EXAMPLES]
    return split._replace(inputs=split.inputs[rows], labels=split.labels[rows])


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
    return evaluation.accuracy[:, -1].reshape(rows, -1).mean(axis=1)


def _choose_rate(
    key: jax.Array, problem: Problem, like: DistilledData, sets: np.ndarray, valid: Split, num_nets: int
) -> float | str:
    """The rate, fixed or learned, that does best on held-out data; the same few sets and networks try them all."""
    count, rates = min(num_nets, _FEW_NETS), (*LEARNING_RATES, LEARNED)
    data, nets = _with_rates(like, sets, rates, count), _draws(key, problem, count)
    tried = evaluate(key, problem, data, _few(valid), num_nets=len(rates) * count, params_N=nets)
    return rates[int(np.argmax(_row_means(tried, len(rates))))]
