"""Parts of a data set that hold every class in proportion: training examples, and those that choose the iterate."""

import numpy as np

from ddjax.data.dataset import Dataset, Split
from ddjax.errors import InputError


def stratified_part(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Marks about `size` of the examples, each class in proportion, at least one and never all of a class.

    labels: [N] int. Returns [N] bool; the same on every platform and NumPy version. Where the classes are large enough
    the number marked is exactly `size`: the leftover places go to the classes with the largest remainders.
    """
    class_sizes = np.bincount(labels)
    exact = class_sizes * size / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[: size - quota.sum()]] += 1
    quota = np.clip(quota, 1, class_sizes - 1)
    random = np.random.RandomState(seed)  # its stream is frozen for good, which Generator's is not
    part = np.zeros(len(labels), bool)
    for label, count in enumerate(quota):
        part[random.permutation(np.flatnonzero(labels == label))[:count]] = True
    return part


def hold_out(dataset: Dataset, fraction: float = 1 / 12, seed: int = 0) -> tuple[Split, Split, Split]:
    """Holds out a stratified `fraction` of the training examples for validation: (train, valid, test), see `Split.of`.

    The same seed gives the same parts on every platform. Each class has at least one example in train and in valid.

    Raises:
      InputError: a class has fewer than two training examples, or fraction is not strictly between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the held-out fraction is {fraction}: give one between 0 and 1, such as 1/12")
    for name, count in zip(
        dataset.class_names, np.bincount(dataset.y_train, minlength=dataset.num_classes), strict=True
    ):
        if count < 2:
            raise InputError(
                f"{dataset.name}: class {name!r} has {count} training example{'s' * int(count != 1)}, and holding some out "
                "needs at least 2 a class: add examples or drop the class"
            )
    valid = stratified_part(dataset.y_train, round(len(dataset.y_train) * fraction), seed)
    transform = dataset.transform
    return (
        Split.of(dataset.x_train, dataset.y_train, transform, ~valid),
        Split.of(dataset.x_train, dataset.y_train, transform, valid),
        Split.of(dataset.x_test, dataset.y_test, transform),
    )
