"""A data set in memory or in a file, and its parts on the device or, where they are too large for it, on the host.

Pixels stay as they are stored (uint8 wherever possible) until a batch is drawn: the transform happens inside the jitted
step, so a device holds one byte a pixel, and nothing crosses from the host but rows of what is too large for it.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.data import memory
from ddjax.data.host import OnHost
from ddjax.data.transforms import Standardise, Transform, Whiten
from ddjax.errors import InputError
from ddjax.storage.processes import agreed

_LARGEST = 64 * 64 * 3  # values of an example, whose matrix takes 600 MB


class MissingDataError(InputError, FileNotFoundError):
    """The data set is not where it was looked for."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled data set on the host.

    Attributes:
      name: what it is called in reports.
      x_train, x_test: [N, ...] uint8 or float32; pictures are [N, H, W, C], sequences [N, L, D],
        tables [N, D].
      y_train, y_test: [N] int32 in 0..num_classes-1; every class occurs in y_train.
      transform: what is done to inputs before a network reads them.
      class_names: one a class, in label order.
      border: share of a side to leave blank at each edge when the pictures are brought to another shape, as other sets of
        their kind have it and this one has not; in [0, 0.5).
      source: where it came from, exactly: `name:version`, or the file's path with a digest of its arrays.
      feature_names: one a column of a table, if they have names.
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
    feature_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, e.g. (28, 28, 1)."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def whitened(dataset: Dataset, regulariser: float) -> Dataset:
    """The same pictures, ZCA-whitened by the covariance of the training ones before a network reads them (see `Whiten`).

    Raises:
      InputError: the examples are no pictures, or too large for a covariance of all of their values, or whitened already.
    """
    shape, first = dataset.input_shape, dataset.transform
    if len(shape) != 3:
        raise InputError(
            f"--zca is for pictures [height, width, channels], but the examples of {dataset.name} have shape {list(shape)}: "
            "leave it out"
        )
    check_covariance(dataset, "--zca")
    if not isinstance(first, Standardise):
        raise InputError(f"{dataset.name} has a transform of its own, which --zca would undo: leave it out")
    return dataclasses.replace(dataset, transform=Whiten.fitted_to(dataset.x_train, first, regulariser))


def check_covariance(dataset: Dataset, flag: str) -> None:
    """Raises InputError, which names the setting `flag`, where examples have too many values for a covariance of them all."""
    shape = dataset.input_shape
    size, pictures = np.prod(shape), len(shape) == 3
    if size > _LARGEST:
        smaller = f", or make them smaller with --pictures, up to {_LARGEST} values" if pictures else ""
        raise InputError(
            f"{flag} would need a matrix of {size} x {size} for {'pictures' if pictures else 'examples'} {list(shape)}: leave "
            f"it out{smaller}"
        )


class Split(NamedTuple):
    """Examples as stored, on the device or, where they are too large for it, on the host. A pytree, so it passes through jit
    as an argument.

    inputs: [N, ...] uint8 or float32. labels: [N] int32, on the device. transform: what makes of `inputs` what a network
    reads.
    """

    inputs: jax.Array | OnHost
    labels: jax.Array
    transform: Transform

    @classmethod
    def of(
        cls, inputs: np.ndarray, labels: np.ndarray, transform: Transform, rows: np.ndarray | slice = slice(None)
    ) -> "Split":
        """These rows of arrays in NumPy: on the device where they take no more than `memory.share` of it, else on the host,
        where they are no copy."""
        numbers = np.arange(len(inputs))[rows]
        nbytes = len(numbers) * inputs[:1].nbytes
        # What is free is each process's own, and where examples lie decides what all of them compile.
        fits = agreed(lambda: memory.fits_device(nbytes))
        place = cls.on_device if fits else cls.on_host
        return place(inputs, labels, transform, rows)

    @classmethod
    def on_device(
        cls, inputs: np.ndarray, labels: np.ndarray, transform: Transform, rows: np.ndarray | slice = slice(None)
    ) -> "Split":
        """The same on the device, whatever their size."""
        return cls(jnp.asarray(inputs[rows]), jnp.asarray(labels[rows]), jax.tree.map(jnp.asarray, transform))

    @classmethod
    def on_host(
        cls, inputs: np.ndarray, labels: np.ndarray, transform: Transform, rows: np.ndarray | slice = slice(None)
    ) -> "Split":
        """The same on the host, whatever their size."""
        held = OnHost(inputs, np.arange(len(inputs))[rows])
        return cls(held, jnp.asarray(labels[rows]), jax.tree.map(jnp.asarray, transform))

    def read(self, rows: jax.Array) -> jax.Array:
        """The examples of `rows`, int32 [n], within a jitted function, as a network reads them: float32 [n, ...]."""
        if isinstance(self.inputs, OnHost):
            stored: jax.Array = self.inputs[rows]
        else:
            stored = self.inputs.at[rows].get(mode="promise_in_bounds")
        return self.transform(stored)

    def part(self, rows: np.ndarray) -> "Split":
        """The examples of these numbers, int [n]."""
        inputs = self.inputs.part(rows) if isinstance(self.inputs, OnHost) else self.inputs[rows]
        return self._replace(inputs=inputs, labels=self.labels[rows])
