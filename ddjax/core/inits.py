"""Distributions of initial weights p(theta_0): functions `key -> params` (Dataset Distillation, sec. 3.2 and 3.5).

A network's own `init` is the paper's *random* initialisation: fresh weights at every draw. The other three are made here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddjax.core.losses import Params

Init = Callable[[jax.Array], Params]


def fixed(params: Params) -> Init:
    """One network for training and test alike: *fixed* (one random draw) or *fixed pretrained*."""
    return lambda key: params


def pool(stacked: Params) -> Init:
    """*Random pretrained*: one of P networks with equal probability. Leaves of `stacked` are [P, ...]."""
    stacked = jax.tree.map(jnp.asarray, stacked)  # NumPy arrays take no traced index
    size = jax.tree.leaves(stacked)[0].shape[0]

    def draw(key: jax.Array) -> Params:
        index = jax.random.randint(key, (), 0, size)
        return jax.tree.map(lambda leaf: leaf[index], stacked)

    return draw
