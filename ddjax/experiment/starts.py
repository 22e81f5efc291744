"""What networks start from: p(theta_0) of the outer loop, and the networks that choose an iterate and that test it."""

from pathlib import Path
from typing import NamedTuple

import jax

from ddjax.core.inits import Init, fixed_init, pool_init
from ddjax.core.losses import Params
from ddjax.data import Dataset
from ddjax.errors import InputError
from ddjax.experiment.streams import stream
from ddjax.models import Model, load_imagenet_alexnet
from ddjax.recipes import Recipe
from ddjax.storage.pools import Pool, load_pool


class Nets(NamedTuple):
    """Networks to train: how many, and the weights they start from in turn, leaves [P, ...]; None: draws of p(theta_0)."""

    num_nets: int
    params_N: Params | None = None


class Starts(NamedTuple):
    """Initial weights, of whichever of the paper's four kinds (sec. 3.2 and 3.5).

    Attributes:
      draw: p(theta_0), what the outer steps draw from; a pytree, and so an argument of the jitted step.
      valid: leaves [V, ...], what the networks that choose an iterate start from.
      test: the networks of the final report.
      params: the one network, where there is one: an artefact is nothing without it.
      pool: the pool that others are drawn from, where there is one.
    """

    draw: Init
    valid: Params
    test: Nets
    params: Params | None = None
    pool: Pool | None = None


def one_network(params: Params) -> Starts:
    """*Fixed*, or *fixed pretrained*: the same network for everything."""
    only = jax.tree.map(lambda leaf: leaf[None], params)
    return Starts(fixed_init(params), only, Nets(1, only), params=params)


def fresh_networks(model: Model, key: jax.Array, *, valid_nets: int, test_nets: int) -> Starts:
    """*Random*: another network at every draw; `key` draws those of the validations."""
    valid = jax.jit(jax.vmap(model.init))(jax.random.split(key, valid_nets))
    return Starts(jax.tree_util.Partial(model.init), valid, Nets(test_nets))


def networks_of(pool: Pool, *, valid_nets: int) -> Starts:
    """*Random pretrained*: a pool's first V networks choose the iterate, the others are drawn, its held-out ones test."""

    def part(members: slice) -> Params:
        return jax.tree.map(lambda leaf: leaf[members], pool.train)

    held_out = jax.tree.leaves(pool.test)[0].shape[0]
    return Starts(
        pool_init(part(slice(valid_nets, None))), part(slice(0, valid_nets)), Nets(held_out, pool.test), pool=pool
    )


def make_starts(recipe: Recipe, model: Model, dataset: Dataset, key: jax.Array) -> Starts:
    """The initial weights that a recipe names; `key` is the run's.

    Raises:
      InputError: the pool or the checkpoint is missing, damaged, of another network, or too small.
    """
    network, report = recipe.network, recipe.report
    if network.checkpoint:
        return one_network(
            load_imagenet_alexnet(network.checkpoint, dataset.num_classes, input_shape=dataset.input_shape)
        )
    if network.pool:
        pool = load_pool(Path(network.pool), model.init)
        count = jax.tree.leaves(pool.train)[0].shape[0]
        if network.init == "fixed":
            return one_network(jax.tree.map(lambda leaf: leaf[recipe.seed % count], pool.train))._replace(pool=pool)
        if count <= report.valid_nets:
            raise InputError(
                f"{network.pool} has {count} networks to distil with, of which --valid-nets {report.valid_nets} choose the "
                "iterate: lower it, or enlarge the pool with `ddjax pretrain --resume`"
            )
        return networks_of(pool, valid_nets=report.valid_nets)
    if network.init == "fixed":
        return one_network(model.init(stream(key, "weights")))
    return fresh_networks(model, stream(key, "valid"), valid_nets=report.valid_nets, test_nets=report.test_nets)
