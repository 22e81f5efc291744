"""Examples that stay on the host, in its memory or in a file that is mapped into it; rows of them go to the devices.

Inside a jitted function rows are asked for by a callback, so whatever indexes examples on the device indexes these too: the
test, validation, ordinary training. The outer step is handed the rows that it will draw, which were fetched while the step
before it ran (`Ahead`). Either way the numbers are those of examples on the device, bit for bit.
"""

import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.data.transforms import Transform


@dataclass(frozen=True, eq=False)
class OnHost:
    """Rows of an array that stays on the host; indexed as an array [N, ...] is. A pytree without leaves.

    array: [M, ...], which may be a memory-mapped file. rows: int [N], those that these examples are, in their order, so that
    a part of a data set is no copy of it.
    """

    array: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        return len(self.rows) * self.array[:1].nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # rows that are gathered are a copy always
        return np.asarray(self[slice(None)], dtype)

    def __getitem__(self, index: Any) -> Any:
        """Examples [..., *shape[1:]] for an index [...]: in NumPy, or in a jitted function as an array of its own."""
        if not isinstance(index, jax.core.Tracer):
            return self.array[self.rows[np.asarray(index) if isinstance(index, jax.Array) else index]]
        result = jax.ShapeDtypeStruct((*index.shape, *self.shape[1:]), self.dtype)
        return jax.pure_callback(partial(_rows, weakref.ref(self)), result, index, vmap_method="broadcast_all")

    def part(self, rows: np.ndarray) -> "OnHost":
        """The examples of these numbers, int [n]."""
        return OnHost(self.array, self.rows[rows])


def _alive(held: "weakref.ref[OnHost]") -> OnHost:
    examples = held()
    assert examples is not None, "what a jitted function is given lives as long as that runs"
    return examples


def _rows(held: "weakref.ref[OnHost]", index: Any) -> np.ndarray:
    return np.asarray(_alive(held)[index])


# By weak references, since JAX keeps what it has compiled, and the structures of its arguments, for as long as it runs.
jax.tree_util.register_pytree_node(OnHost, lambda held: ((), weakref.ref(held)), lambda held, _: _alive(held))


class Ahead(NamedTuple):
    """A real batch that was fetched for one outer step, in the place of the `Split` that it is drawn from.

    fetched: [b, ...], the examples of `rows`, int32 [b], as stored. labels: int32 [N], of all examples. transform: theirs.
    """

    fetched: jax.Array
    rows: jax.Array
    labels: jax.Array
    transform: Transform

    def read(self, rows: jax.Array) -> jax.Array:
        """The examples of `rows`, float32 [b, ...]; not a number where others were fetched.

        Those are asked for when a step follows one that was not finite, before that was noticed: it stands where that one
        stood, with that one's rows, and has to leave the state as it is as that one did.
        """
        return jnp.where(jnp.array_equal(rows, self.rows), self.transform(self.fetched), jnp.nan)
