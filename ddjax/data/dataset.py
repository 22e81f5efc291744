"""A data set in memory, and its parts on the device.

Pixels stay as they are stored (uint8 wherever possible) until a batch is drawn: the transform happens inside the jitted
step, so a device holds one byte a pixel and nothing crosses from the host.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.data.transforms import Transform
from ddjax.errors import InputError


class MissingDataError(InputError, FileNotFoundError):
    """The data set is not where it was looked for."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled data set on the host.

    Attributes:
      name: what it is called in reports.
      x_train, x_test: [N, ...] uint8 or float32; pictures are [N, H, W, C], tables [N, D].
      y_train, y_test: [N] int32 in 0..num_classes-1; every class occurs in y_train.
      transform: what is done to inputs before a network reads them.
      class_names: one a class, in label order.
      border: share of a side to leave blank at each edge when the pictures are brought to another shape, as other sets of
        their kind have it and this one has not; in [0, 0.5).
      source: where it came from, exactly: `name:version`, or the file's path with a digest of its arrays.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    transform: Transform
    class_names: tuple[str, ...]
    source: str
    border: float = 0.0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, e.g. (28, 28, 1)."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Split(NamedTuple):
    """Examples on the device, as stored. A pytree, so it passes through jit as an argument.

    inputs: [N, ...] uint8 or float32. labels: [N] int32. transform: what makes of `inputs` what a network reads.
    """

    inputs: jax.Array
    labels: jax.Array
    transform: Transform

    @classmethod
    def on_device(cls, inputs: np.ndarray, labels: np.ndarray, transform: Transform) -> "Split":
        """The same, of arrays in NumPy."""
        return cls(jnp.asarray(inputs), jnp.asarray(labels), jax.tree.map(jnp.asarray, transform))


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
    """Holds out a stratified `fraction` of the training examples for validation: (train, valid, test) on the device.

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
        Split.on_device(dataset.x_train[~valid], dataset.y_train[~valid], transform),
        Split.on_device(dataset.x_train[valid], dataset.y_train[valid], transform),
        Split.on_device(dataset.x_test, dataset.y_test, transform),
    )
