"""Where arrays lie: on all devices of a mesh, be they of one process or of several."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """Where the state, the key and the data set of a step belong: on every device of `mesh`; None without one."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def place(tree: Tree, sharding: NamedSharding | None) -> Tree:
    """A tree of arrays as `sharding` has it, which may span several processes: each of them gives the same arrays, and holds
    its devices' part of them. None leaves them where they are."""
    if sharding is None:
        return tree
    if sharding.is_fully_addressable:
        put: Tree = jax.device_put(tree, sharding)
        return put

    def spread(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            keys: jax.Array = jax.random.wrap_key_data(
                spread(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
            )
            return keys
        held = np.asarray(leaf)  # jax.device_put would compare all of it between the processes
        array: jax.Array = jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])
        return array

    placed: Tree = jax.tree.map(spread, tree)
    return placed
