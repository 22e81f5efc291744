"""Where arrays lie, and networks are computed: on all devices of a mesh, be they of one process or of several."""

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


def side_by_side(most: int) -> int:
    """How many networks a device computes at once, where it has the room for `most`: one on a CPU, whose caches hold what one
    network computes and not what several do (a LeNet is scored three times as fast alone as among eight)."""
    return 1 if jax.default_backend() == "cpu" else most


def over_nets(one: Callable[..., Any], count: int, *, side_by_side: int = 1) -> Callable[..., Any]:
    """`one` of each of `count` networks: leaves [count, ...], shared out over all devices as by `spread_over_nets`; jittable.

    Args:
      one: (what is this network's own, *what is known of all) -> tree of arrays.
      count: how many networks.
      side_by_side: how many each device computes at once, by `vmap` where that is more than one.
    """
    sharding, _ = spread_over_nets(count)

    def of_device(own: Any, *known: Any) -> Any:
        at_once = min(side_by_side, len(jax.tree.leaves(own)[0]))
        return jax.lax.map(lambda mine: one(mine, *known), own, batch_size=at_once if at_once > 1 else None)

    def of_all(own: Any, *known: Any) -> Any:
        if sharding is None:
            return of_device(own, *known)
        specs = (sharding.spec, *[PartitionSpec()] * len(known))
        over = jax.shard_map(of_device, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, check_vma=False)
        return over(own, *known)

    return of_all


def for_each_net(one: Callable[..., Any], count: int, *, side_by_side: int = 1) -> Callable[..., Any]:
    """`over_nets`, as many at a time as all devices have room for; what is lacking to a multiple of that is computed twice.

    Returns: the same function of all networks, leaves [count, ...] of NumPy arrays, in every process.
    """
    group = jax.device_count() * side_by_side
    _, whole = spread_over_nets(group)
    of_group = jax.jit(over_nets(one, group, side_by_side=side_by_side), out_shardings=whole)  # each process has all

    def of_all(own: Any, *known: Any) -> Any:
        known = place(known, whole)
        groups = [np.minimum(np.arange(at, at + group), count - 1) for at in range(0, count, group)]
        shares = [jax.tree.map(operator.itemgetter(rows), own) for rows in groups]
        parts = [jax.device_get(of_group(share, *known)) for share in shares]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)

    return of_all
