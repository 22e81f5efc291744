"""Data poisoning (paper, sec. 3.6): the labels of the outer loss, and what a poisoned set does to well-trained networks."""

from typing import Any

import numpy as np

from ddjax.data import Dataset
from ddjax.errors import InputError
from ddjax.recipe import Recipe


def outer_labels(recipe: Recipe, dataset: Dataset) -> np.ndarray:
    """int32 [K]: the class that the outer loss takes real examples of each class for; itself, unless poisoned (sec. 3.6).

    Raises:
      InputError: the data have no such classes, or no test examples of the poisoned one.
    """
    taken_for = np.arange(dataset.num_classes, dtype=np.int32)
    if recipe.poison:
        from_class, to_class = recipe.poisoned_classes()
        flag = f"--poison is {recipe.poison!r}"
        if max(from_class, to_class) >= dataset.num_classes:
            raise InputError(
                f"{flag}, but {dataset.name} has classes 0 to {dataset.num_classes - 1}: choose among them"
            )
        if not np.any(dataset.y_test == from_class):
            raise InputError(f"{flag}, but {dataset.name} has no test examples of class {from_class}: choose another")
        taken_for[from_class] = to_class
    return taken_for


def poisoning_summary(confusions: np.ndarray, taken_for: np.ndarray) -> dict[str, Any]:
    """How networks do before and after training on data that should make them take class K for class T.

    Args:
      confusions: int [nets, points, K, K], examples of each class (row) taken for each class (column); the first point is
        before training, the last after it.
      taken_for: int [K], the class that the outer loss takes each class for; exactly one entry differs from its index.

    Returns: the classes `from` and `to`, and for `before` and `after`, each in percent as means and standard deviations over
      networks: `overall` (accuracy for the true labels), `modified` (for the modified labels), `attacked` (examples of K
      taken for T), and `per_class` (accuracy for the true labels, K means; None for a class without examples).
    """
    (from_class,) = np.flatnonzero(taken_for != np.arange(len(taken_for)))
    to_class = int(taken_for[from_class])

    def at(counts: np.ndarray) -> dict[str, Any]:
        totals = counts.sum(axis=(1, 2))
        classes = np.arange(len(taken_for))
        shares = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
        present = counts.sum(axis=(0, 2)) > 0
        figures = {
            "overall": counts[:, classes, classes].sum(axis=1) / totals,
            "modified": counts[:, classes, taken_for].sum(axis=1) / totals,
            "attacked": shares[:, from_class, to_class],
        }
        spread = {
            f"{name}_{kind}": 100 * float(take(values))
            for name, values in figures.items()
            for kind, take in (("mean", np.mean), ("std", np.std))
        }
        per_class = 100 * shares[:, classes, classes].mean(axis=0)
        return {
            **spread,
            "per_class": [float(x) if known else None for x, known in zip(per_class, present, strict=True)],
        }

    return {
        "from": int(from_class),
        "to": to_class,
        "num_nets": len(confusions),
        "before": at(confusions[:, 0]),
        "after": at(confusions[:, -1]),
    }
