"""Where arrays lie, and networks are computed: on all devices of a mesh, be they of one process or of several."""

import functools
import operator
from collections.abc import Callable
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


def spread_over_nets(count: int) -> tuple[NamedSharding | None, NamedSharding | None]:
    """Where so many networks belong, [count, ...], and what is known of all of them: shared out over all devices, of all
    processes, and on each of them. None where they do not divide evenly: each process computes all of it on one device."""
    mesh = Mesh(np.array(jax.devices()), ("nets",))
    return (NamedSharding(mesh, PartitionSpec("nets")), replicated(mesh)) if count % mesh.size == 0 else (None, None)


def for_each_net(one: Callable[..., Any], count: int, *, side_by_side: int = 1) -> Callable[..., Any]:
    """`one` of each of `count` networks, shared out over all devices of all processes.

    Args:
      one: (what is this network's own, *what is known of all) -> tree of arrays; jittable.
      count: how many networks; what they lack to a multiple of the devices is computed twice.
      side_by_side: how many each device computes at once, by `vmap` where that is more than one.

    Returns: the same function of all networks, leaves [count, ...] of NumPy arrays, in every process.
    """
    mesh = Mesh(np.array(jax.devices()), ("nets",))
    each, whole = PartitionSpec("nets"), replicated(mesh)
    group = mesh.size * side_by_side

    def of_device(own: Any, *known: Any) -> Any:
        if side_by_side > 1:
            return jax.vmap(one, in_axes=(0, *[None] * len(known)))(own, *known)
        found = one(jax.tree.map(lambda leaf: leaf[0], own), *known)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], found)

    @functools.partial(jax.jit, out_shardings=whole)  # so that each process has all of them
    def of_group(own: Any, *known: Any) -> Any:
        specs = (each, *[PartitionSpec()] * len(known))
        return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)(own, *known)

    def of_all(own: Any, *known: Any) -> Any:
        known = place(known, whole)
        groups = [np.minimum(np.arange(at, at + group), count - 1) for at in range(0, count, group)]
        shares = [jax.tree.map(operator.itemgetter(rows), own) for rows in groups]
        parts = [jax.device_get(of_group(share, *known)) for share in shares]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)

    return of_all
