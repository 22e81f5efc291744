"""Nearest neighbours among a few real images: a baseline without a network (arXiv 1811.10959, sec. 4)."""

from itertools import product

import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.data import Split
from ddjax.evaluation.measure import Scores
from ddjax.evaluation.real_sets import class_of_place, normalised
from ddjax.evaluation.tuning import TUNING, Tuning


def knn(like: DistilledData, sets: np.ndarray, valid: Split, test: Split, *, tuning: Tuning = TUNING) -> Scores:
    """Nearest neighbours among the images of a set: so many of them, by such a distance, as do best on held-out data.

    Args:
      like: its labels [S, M, K] give the class of every place.
      sets: float32 [R, S, M, ...], normalised, as from `random_sets` or `kmeans_sets`; each is scored by itself.
      valid, test: neighbours and distance are chosen on `valid`, by some of the sets; scores are from `test`.
      tuning: what is tried; counts above S*M are left out.
    """
    from sklearn.neighbors import KNeighborsClassifier  # here, as it takes two seconds to import

    classes = class_of_place(like).reshape(-1)

    def percent(split: Split, sets: np.ndarray, count: int, metric: str) -> np.ndarray:
        points, labels = normalised(split).reshape(len(split.labels), -1), np.asarray(split.labels)
        voters = KNeighborsClassifier(count, metric=metric, algorithm="brute")
        hits = [voters.fit(s.reshape(len(classes), -1), classes).predict(points) == labels for s in sets]
        share: np.ndarray = np.mean(hits, axis=1)
        return 100 * share

    settings = product((count for count in tuning.neighbours if count <= len(classes)), tuning.metrics)
    few = sets[: tuning.trials]
    judges = tuning.some(valid, len(few))
    count, metric = max(settings, key=lambda setting: float(percent(judges, few, *setting).mean()))
    return Scores(percent(test, sets, count, metric), f"{count} neighbour{'s' * (count > 1)}, {metric}")
