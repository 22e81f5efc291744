"""Data poisoning (paper, sec. 3.6): what a poisoned set does to well-trained networks."""

from typing import Any

import numpy as np


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
