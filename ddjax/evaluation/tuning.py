"""How hard baselines are tuned: the settings that are tried for them, and by how many networks on how many examples."""

from dataclasses import dataclass

import numpy as np

from ddjax.data import Split
from ddjax.errors import InputError


@dataclass(frozen=True)
class Tuning:
    """What is tried for baselines, and how much it takes; `dataclasses.asdict` of it belongs beside their figures."""

    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Fixed learning rates that are tried first, in rising order, beside those that the distilled data learned."""
    rounds: int = 2
    """How often the rates half-way from the best fixed one to those on either side of it are tried then."""
    neighbours: tuple[int, ...] = (1, 3)
    """Counts of nearest neighbours that are tried, each with each of `metrics`, which are scikit-learn's names."""
    metrics: tuple[str, ...] = ("l1", "l2")
    trials: int = 16
    """Networks or sets of images that try a setting, the same for all settings."""
    examples: int = 1000
    """Held-out training examples that each trial is scored on (training ones where sets are ranked), or more where there are
    fewer than `trials` of them, so that as many predictions judge a setting."""
    nets: int = 20
    """Networks at the test; at least one for each set of images."""
    random_sets: int = 20
    """Sets of random images, for networks and for nearest neighbours."""
    kmeans_sets: int = 5
    """Sets of k-means centres, each from another seed, likewise."""
    candidates: int = 50
    """Random sets of which the best fifth is kept as optimised ones."""
    nets_per_candidate: int = 4
    """Networks trained on each of those, the same for all."""

    def __post_init__(self) -> None:
        if len(self.rates) < 2 or list(self.rates) != sorted(set(self.rates)) or self.rates[0] <= 0:
            raise InputError(f"the rates to try are {self.rates}: give two or more above zero, in rising order")

    def some(self, split: Split, trials: int) -> Split:
        """Examples of a split to score so many trials on, always the same: drawn, as it may be in the order of its classes."""
        count = self.examples * max(1, self.trials // trials)
        rows = np.random.default_rng(0).permutation(len(split.labels))[:count]
        return split.part(rows)


TUNING = Tuning()
