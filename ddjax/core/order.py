"""The order of the inner loop's steps, what each sees of its data, and the window of them that is differentiated.

Step t of T = S * E trains on step s of the distilled data at the learning rate of epoch e, where t = e * S + s.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Place(NamedTuple):
    """Where in the loop a run of steps begins: at step `first`, int32 [], of the whole; `key` is what views draw from."""

    first: jax.Array
    key: jax.Array | None = None


# What a step sees of its examples, changed or chosen at random: (key, inputs [M, ...] and targets [M, K]) -> the same, of as
# many examples as it likes; differentiable.
View = Callable[[jax.Array, tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]]


def numbers(log_lrs_T: jax.Array, place: Place) -> jax.Array:
    """The number t of each of the next len(log_lrs_T) steps."""
    return place.first + jnp.arange(len(log_lrs_T), dtype=jnp.int32)


def example_of(data: Data, t: jax.Array, log_lr: jax.Array) -> Example:
    """The data of step t at its learning rate."""
    s = t % len(data.inputs)
    inputs, targets = (jax.lax.dynamic_index_in_dim(part, s, keepdims=False) for part in data)
    return Example(inputs, targets, log_lr)


def seen(view: View | None, place: Place, t: jax.Array, example: Example) -> Example:
    """What step t sees of its example: drawn from `fold_in(key, t)`."""
    if view is None or place.key is None:
        return example
    return Example(*view(jax.random.fold_in(place.key, t), example[:2]), example.log_lr)


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


def log_odds(starts: int, window_early: float) -> jax.Array:
    """How likely each of so many starts of a window is, float32 [starts], up to a constant: the first one is exp(window_early)
    times as likely as the last, and between the two they fall by one factor each."""
    return -window_early * jnp.linspace(0.0, 1.0, starts, dtype=jnp.float32)


def draw(
    key: jax.Array | None, steps: int, window: int | None, view: View | None, window_early: float = 0.0
) -> dict[str, Any]:
    """The options of an unroll of so many steps that are drawn from the key of an outer step: the start of a window of this
    length, by its `log_odds`, and the key of views.

    Raises:
      InputError: there is no key to draw from, or the window is longer than the loop.
    """
    if window is None and view is None:
        return {}
    if key is None:
        raise InputError("windows and views are drawn from a key: give key=jax.random.key(0), another one every time")
    if window is not None and window > steps:
        raise InputError(f"a window of {window} steps is longer than the {steps} there are")
    window_key, view_key = jax.random.split(key)
    drawn: dict[str, Any] = {"view": view, "key": view_key}
    if window is not None:
        start = jax.random.categorical(window_key, log_odds(steps - window + 1, window_early))
        drawn["window"] = start.astype(jnp.int32), window
    return drawn
