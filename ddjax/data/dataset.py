"""A data set in memory, its parts on the device, and the batches drawn from them.

Pixels stay as they are stored (uint8 wherever possible) until a batch is drawn: normalisation happens inside the jitted
step, so a device holds one byte a pixel and nothing crosses from the host.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
      mean, std: [C] float32 for pictures; [1] (or [D]) otherwise. In units of the inputs after uint8 is divided by 255.
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
    mean: np.ndarray
    std: np.ndarray
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

    inputs: [N, ...] uint8 or float32, not normalised. labels: [N] int32. mean, std: [C], [1] or [D] float32.
    """

    inputs: jax.Array
    labels: jax.Array
    mean: jax.Array
    std: jax.Array


def _along_last_axis(values: Any, ndim: int) -> Any:
    return values.reshape((1,) * (ndim - 1) + (-1,))


def normalise(inputs: Any, mean: Any, std: Any) -> Any:
    """(inputs - mean) / std in float32, uint8 being divided by 255 first. NumPy in, NumPy out; JAX likewise; jittable.

    inputs: [..., C] uint8 or float. mean, std: [C] or [1] float32.
    """
    scaled = inputs.astype(np.float32)
    if inputs.dtype == np.uint8:
        scaled = scaled / np.float32(255)
    return (scaled - _along_last_axis(mean, inputs.ndim)) / _along_last_axis(std, inputs.ndim)


def denormalise(images: Any, mean: Any, std: Any) -> Any:
    """The inverse of `normalise`: [..., C] float32, in [0, 1] for what came from uint8. Values are not clipped."""
    return images * _along_last_axis(std, images.ndim) + _along_last_axis(mean, images.ndim)


def draw_batch(key: jax.Array, split: Split, size: int) -> tuple[jax.Array, jax.Array]:
    """Draws examples uniformly, with replacement, and normalises them; jittable with `size` static.

    Returns inputs [size, ...] float32 in normalised space and labels [size] int32.
    """
    index = jax.random.randint(key, (size,), 0, split.labels.shape[0], dtype=jnp.int32)
    inputs = split.inputs.at[index].get(mode="promise_in_bounds")
    labels = split.labels.at[index].get(mode="promise_in_bounds")
    return normalise(inputs, split.mean, split.std), labels


def pixel_statistics(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of uint8 (as 0..1) or float inputs: [C] for pictures [N, H, W, C], else [1]; float32.

    A constant channel gets a deviation of 1, so that normalising it gives zeros rather than a division by zero.
    """
    channels = inputs.reshape(-1, inputs.shape[-1]) if inputs.ndim == 4 else inputs.reshape(-1, 1)
    moments = []
    for column in channels.T:
        if column.dtype == np.uint8:  # 256 counts give exact sums, the same on every platform
            parts = np.array_split(column, 1 + len(column) // 2**24)  # each eight times as large while it is counted
            counts = np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)
            levels = np.arange(256) / 255
            mean = counts @ levels / counts.sum()
            moments.append((mean, np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())))
        else:
            moments.append((column.mean(dtype=np.float64), column.std(dtype=np.float64)))
    mean, std = np.array(moments, np.float64).T
    # Rounding leaves a constant channel a tiny deviation, so "constant" means below float32's resolution of the mean.
    constant = std <= np.finfo(np.float32).eps * np.abs(mean)
    return mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)


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
    mean, std = jnp.asarray(dataset.mean), jnp.asarray(dataset.std)

    def split(inputs: np.ndarray, labels: np.ndarray) -> Split:
        return Split(jnp.asarray(inputs), jnp.asarray(labels), mean, std)

    return (
        split(dataset.x_train[~valid], dataset.y_train[~valid]),
        split(dataset.x_train[valid], dataset.y_train[valid]),
        split(dataset.x_test, dataset.y_test),
    )
