"""Losses on soft targets. A loss is `(params, inputs [b, ...], targets [b, K]) -> scalar`, the mean over the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = Any
Apply = Callable[[Params, jax.Array], jax.Array]
Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the batch of -sum_k targets_k log softmax(logits)_k; both arrays are [b, K] (paper, sec. 3.6)."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def half_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the batch of ||logits - targets||^2 / 2; both arrays are [b, K] (the linear case, paper, sec. 3.3)."""
    return 0.5 * jnp.mean(jnp.sum((logits - targets) ** 2, axis=-1))


def of_network(apply: Apply, criterion: Callable[[jax.Array, jax.Array], jax.Array] = soft_cross_entropy) -> Loss:
    """The loss of a network: `criterion(apply(params, inputs), targets)`."""
    return lambda params, inputs, targets: criterion(apply(params, inputs), targets)
