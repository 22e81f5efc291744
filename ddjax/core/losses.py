"""Losses on soft targets. A loss is `(params, inputs [b, ...], targets [b, K]) -> scalar`, the mean over the batch."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ddjax.errors import InputError

Params = Any
Apply = Callable[[Params, jax.Array], jax.Array]
Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the batch of -sum_k targets_k log softmax(logits)_k; both arrays are [b, K] (paper, sec. 3.6)."""
    _check(logits, targets)
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def half_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the batch of ||logits - targets||^2 / 2; both arrays are [b, K] (the linear case, paper, sec. 3.3)."""
    _check(logits, targets)
    return 0.5 * jnp.mean(jnp.sum((logits - targets) ** 2, axis=-1))


def _check(logits: jax.Array, targets: jax.Array) -> None:
    chex.assert_equal_shape(
        (logits, targets),
        exception_type=InputError,
        custom_message="the network's outputs and the targets must both be [b, K], K being the number of classes",
    )


def of_network(apply: Apply, criterion: Callable[[jax.Array, jax.Array], jax.Array] = soft_cross_entropy) -> Loss:
    """The loss of a network: `criterion(apply(params, inputs), targets)`."""
    return lambda params, inputs, targets: criterion(apply(params, inputs), targets)
