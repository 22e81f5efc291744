"""The order of the inner loop's steps, and the window of them that is differentiated.

Step t of T = S * E trains on step s of the distilled data at the learning rate of epoch e, where t = e * S + s.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ddjax.errors import InputError

# (start, length); the start may be traced, and is then int [].
Window = tuple[jax.Array | int, int]


class Example(NamedTuple):
    """What one step trains on: inputs [M, ...], targets [M, K], and the logarithm of its learning rate []."""

    inputs: jax.Array
    targets: jax.Array
    log_lr: jax.Array


class Data(NamedTuple):
    """What the S steps of an epoch train on: inputs [S, M, ...] and targets [S, M, K]."""

    inputs: jax.Array
    targets: jax.Array


def order(data: Data, log_lrs_T: jax.Array, first: jax.Array) -> jax.Array:
    """Which step's data each of the next len(log_lrs_T) steps trains on, step `first` of the whole being the first."""
    return (first + jnp.arange(len(log_lrs_T), dtype=jnp.int32)) % len(data.inputs)


def example_of(data: Data, s: jax.Array, log_lr: jax.Array) -> Example:
    """Step s of the data at its learning rate."""
    inputs, targets = (jax.lax.dynamic_index_in_dim(part, s, keepdims=False) for part in data)
    return Example(inputs, targets, log_lr)


def within(window: Window, log_lrs_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first step of a window, int32 [], and the logarithms of the window's learning rates [length].

    Of a start that is out of range and traced, so that nothing can be raised, these are NaN: so is all that they train.

    Raises:
      InputError: the window does not lie within the T steps.
    """
    (start, length), T = window, len(log_lrs_T)
    chex.assert_rank(start, 0)
    chex.assert_type(start, int)
    traced = isinstance(start, jax.core.Tracer)
    if not 0 < length <= T or not (traced or 0 <= start <= T - length):
        raise InputError(f"window ({start}, {length}) of {T} steps: give (start, length), 0 <= start <= {T} - length")
    first = jnp.clip(start, 0, T - length) if traced else start
    log_lrs = jax.lax.dynamic_slice_in_dim(log_lrs_T, first, length)
    return jnp.asarray(first, jnp.int32), jnp.where(first == start, log_lrs, jnp.nan) if traced else log_lrs
