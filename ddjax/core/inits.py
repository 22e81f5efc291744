"""Distributions of initial weights p(theta_0): functions `key -> params` (Dataset Distillation, sec. 3.2 and 3.5).

A network's own `init` is the paper's *random* initialisation: fresh weights at every draw. The other three are made here, as
pytrees, so that a jitted function takes one as an argument: a pool that the function closed over would be copied into the
compiled program.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ddjax.core.losses import Params

Init = Callable[[jax.Array], Params]


def fixed_init(params: Params) -> Init:
    """One network for training and test alike: *fixed* (one random draw) or *fixed pretrained*.

    Its weights are constants of a program that draws it, and no leaves: the compiler lays out their products once.
    """
    return Partial(lambda key: params)


def pool_init(stacked: Params) -> Init:
    """*Random pretrained*: one of P networks with equal probability. Leaves of `stacked` are [P, ...]."""
    return Partial(_one_of, jax.tree.map(jnp.asarray, stacked))  # NumPy arrays take no traced index


def _one_of(stacked: Params, key: jax.Array) -> Params:
    size = jax.tree.leaves(stacked)[0].shape[0]
    index = jax.random.randint(key, (), 0, size)
    return jax.tree.map(lambda leaf: leaf[index], stacked)
