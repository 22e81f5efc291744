"""What is done to inputs between storage and network: one object that data sets, splits and artefacts carry with them."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.errors import InputError

Array = TypeVar("Array", np.ndarray, jax.Array)


class Transform(Protocol):
    """A pytree of arrays that is a function from stored inputs to what a network reads, jittable, and its inverse.

    __call__: inputs [n, ...] as stored, uint8 or float -> float32 [n, ...]. NumPy in, NumPy out; JAX likewise.
    inverse: float32 [n, ...] as a network reads them -> the same in units of the inputs, uint8 as 0 to 1; not clipped.
    to_json: what `transform_from_json` makes the same transform of, under "kind" a key of `KINDS`.
    """

    def __call__(self, inputs: Array, /) -> Array: ...
    def inverse(self, images: Array, /) -> Array: ...
    def to_json(self) -> dict[str, Any]: ...


class Standardise(NamedTuple):
    """(inputs - mean) / std along the last axis, uint8 being divided by 255 first.

    mean, std: [C] float32, one for each entry of the last axis of the inputs, or [1] for all of them.
    """

    mean: np.ndarray | jax.Array
    std: np.ndarray | jax.Array

    @classmethod
    def by(cls, mean: Sequence[float], std: Sequence[float]) -> "Standardise":
        return cls(np.asarray(mean, np.float32), np.asarray(std, np.float32))

    @classmethod
    def fitted_to(cls, inputs: np.ndarray) -> "Standardise":
        """By mean and standard deviation of [N, ...] uint8 (as 0..1) or float inputs.

        Each channel of pictures [N, H, W, C] by its own, and each column of tables [N, D] float, since a table's columns have
        units of their own; one for all of sequences [N, L, D], and of vectors of bytes, which are pictures laid flat. What is
        constant gets a deviation of 1, so that it becomes zeros rather than a division by zero.
        """
        apart = inputs.ndim == 4 or (inputs.ndim == 2 and inputs.dtype != np.uint8)
        channels = inputs.reshape(-1, inputs.shape[-1] if apart else 1)
        mean, std = np.array([_moments(column) for column in channels.T], np.float64).T
        # Rounding leaves a constant channel a tiny deviation, so "constant" means below float32's resolution of the mean.
        constant = std <= np.finfo(np.float32).eps * np.abs(mean)
        return cls(mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32))

    def __call__(self, inputs: Array, /) -> Array:
        scaled: Any = inputs.astype(np.float32)
        if inputs.dtype == np.uint8:
            scaled = scaled / np.float32(255)
        return cast(
            Array, (scaled - _along_last_axis(self.mean, inputs.ndim)) / _along_last_axis(self.std, inputs.ndim)
        )

    def inverse(self, images: Array, /) -> Array:
        return cast(Array, images * _along_last_axis(self.std, images.ndim) + _along_last_axis(self.mean, images.ndim))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "standardise", **{name: list(map(float, values)) for name, values in self._asdict().items()}}


class Whiten(NamedTuple):
    """ZCA: of all values of an example that `first` has standardised, (x - centre) @ matrix, which takes away what neighbours
    have in common and stays as near to the picture as that allows.

    first: what goes before. centre: [D] float32. matrix: [D, D] float32, symmetric and invertible; D values an example.
    """

    first: Standardise
    centre: np.ndarray | jax.Array
    matrix: np.ndarray | jax.Array

    @classmethod
    def fitted_to(cls, inputs: np.ndarray, first: Standardise, regulariser: float) -> "Whiten":
        """By the covariance C of inputs [N, ...]: centre their mean, matrix (C + regulariser)^(-1/2), in double precision."""
        centre, values, vectors = _principal_components(inputs, first)
        matrix = (vectors / np.sqrt(np.maximum(values, 0) + regulariser)) @ vectors.T
        return cls(first, centre.astype(np.float32), matrix.astype(np.float32))

    def __call__(self, inputs: Array, /) -> Array:
        flat: Any = self.first(inputs).reshape(len(inputs), -1)
        return cast(Array, ((flat - self.centre.reshape(1, -1)) @ self.matrix).reshape(inputs.shape))

    def inverse(self, images: Array, /) -> Array:
        flat: Any = images.reshape(len(images), -1)
        solve: Any = np.linalg.solve if isinstance(images, np.ndarray) else jnp.linalg.solve
        try:
            plain = solve(self.matrix, flat.T).T + self.centre.reshape(1, -1)
        except np.linalg.LinAlgError as error:
            raise InputError(f"the transform 'zca' cannot be undone ({error}): copy or write its file again") from error
        return cast(Array, self.first.inverse(plain.reshape(images.shape).astype(np.float32)))

    def to_json(self) -> dict[str, Any]:
        """The matrix is its lower triangle, row by row; it and the centre are little-endian float32 in base64."""
        matrix = np.asarray(self.matrix, "<f4")
        return {
            **self.first.to_json(),
            "kind": "zca",
            "centre": base64.b64encode(np.asarray(self.centre, "<f4").tobytes()).decode(),
            "matrix": base64.b64encode(matrix[np.tril_indices(len(matrix))].tobytes()).decode(),
        }


def principal_axes(inputs: np.ndarray, transform: Transform) -> np.ndarray:
    """The axes along which examples spread, as a network reads them: float32 [D, D] of inputs [N, ...] with D values each.

    A column is a principal component times the deviation of the examples along it, and that in units of its mean square over
    all of them: coordinates that each move by one move the values by one, root mean square. The components of whitened
    examples are those of what goes before, which the whitening leaves, if it was fitted to these examples: behind it most
    deviations are nearly one, and which axes a solver finds there is a matter of rounding.
    """
    first = transform.first if isinstance(transform, Whiten) else transform
    _, values, vectors = _principal_components(inputs, first)
    variances = np.maximum(values, 0)
    if isinstance(transform, Whiten):
        variances = (vectors.T @ np.asarray(transform.matrix, np.float64) @ vectors) ** 2 @ variances
    spreads = np.sqrt(variances)
    # An eigenvector's sign is whatever the solver leaves, and another one would not fit what a checkpoint has of it.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])
    axes: np.ndarray = vectors * (signs * spreads / max(np.sqrt(np.mean(spreads**2)), np.finfo(np.float64).tiny))
    return axes.astype(np.float32)


def _principal_components(inputs: np.ndarray, transform: Transform) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D], eigenvalues [D] and eigenvectors [D, D], in columns, of the covariance of what `transform` makes of inputs
    [N, ...], in double precision."""
    size = int(np.prod(inputs.shape[1:]))
    total, products, parts = np.zeros(size), np.zeros((size, size)), np.array_split(inputs, 1 + len(inputs) // 5000)
    for part in parts:
        x = transform(part).reshape(len(part), size).astype(np.float64)
        total += x.sum(axis=0)
        products += x.T @ x
    centre = total / len(inputs)
    values, vectors = np.linalg.eigh(products / len(inputs) - np.outer(centre, centre))
    return centre, values, vectors


def _moments(column: np.ndarray) -> tuple[float, float]:
    if column.dtype != np.uint8:
        return float(column.mean(dtype=np.float64)), float(column.std(dtype=np.float64))
    # 256 counts give exact sums, the same on every platform; each part is eight times as large while it is counted.
    parts = np.array_split(column, 1 + len(column) // 2**24)
    counts = np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum()
    return mean, np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())


def _along_last_axis(values: Any, ndim: int) -> Any:
    return values.reshape((1,) * (ndim - 1) + (-1,))


def _standardise(mean: Sequence[float], std: Sequence[float]) -> Standardise:
    transform = Standardise.by(mean, std)
    shapes = transform.mean.shape, transform.std.shape
    if (
        shapes[0] != shapes[1]
        or len(shapes[0]) != 1
        or not np.isfinite(transform).all()
        or not (transform.std > 0).all()
    ):
        raise ValueError("mean and std are not equally many finite numbers, those of std above zero")
    return transform


def _whiten(mean: Sequence[float], std: Sequence[float], centre: str, matrix: str) -> Whiten:
    middle, lower = (np.frombuffer(base64.b64decode(text, validate=True), "<f4") for text in (centre, matrix))
    size = len(middle)
    if len(lower) != size * (size + 1) // 2 or not (np.isfinite(middle).all() and np.isfinite(lower).all()):
        raise ValueError("matrix is not the lower triangle of a finite one with a row for each value of centre")
    whole = np.zeros((size, size), np.float32)
    whole[np.tril_indices(size)] = lower
    whole = whole + np.tril(whole, -1).T
    return Whiten(_standardise(mean, std), middle.astype(np.float32), whole)


KINDS: dict[str, Callable[..., Transform]] = {"standardise": _standardise, "zca": _whiten}


def transform_from_json(saved: Any) -> Transform:
    """The transform that `to_json` wrote, its arrays in NumPy.

    Raises:
      InputError: an unknown kind, or values that make no such transform.
    """
    kind = saved.get("kind") if isinstance(saved, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"there is no transform of kind {kind!r}: the kinds are {', '.join(KINDS)}")
    try:
        return KINDS[kind](**{name: value for name, value in saved.items() if name != "kind"})
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the transform {kind!r} is damaged ({error}): copy or write its file again") from error


def transform_for(saved: Any, shape: tuple[int, ...]) -> Transform:
    """`transform_from_json`, for inputs of this shape.

    Raises:
      InputError: besides, one that does not fit such inputs, or makes numbers of zeros that are not finite.
    """
    transform = transform_from_json(saved)
    try:
        with np.errstate(all="ignore"):
            there = transform(np.zeros((1, *shape), np.float32))
            fits = there.shape[1:] == shape and bool(np.isfinite(there).all())
    except ValueError:  # what NumPy raises where shapes do not go together
        fits = False
    if not fits:
        raise InputError(
            f"the transform {saved['kind']!r} does not fit inputs {list(shape)}: copy or write its file again"
        )
    return transform
