"""Rectifiers and maxima whose *second* derivative sees them switch: surrogate gates.

The gradient of a ReLU network jumps where a unit switches on or off, and where a max-pool changes its winner. A
meta-gradient differentiates that gradient, and the derivative of a jump is zero almost everywhere: it is blind to the very
events that decide what one large gradient-descent step does, so the outer loss is littered with cliffs that no step
foresees. Here value and first derivative stay exact; only the derivative *of the gate* becomes that of a sigmoid (ReLU) or
softmax (max) of a given width, as surrogate gradients do for spiking networks (Neftci, Mostafa and Zenke, 2019, arXiv
1901.09948). The network, its training and its evaluation do not change at all. Width 0 is the exact second derivative.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Mean = Callable[[jax.Array], jax.Array]


def mean_of_example(x: jax.Array) -> jax.Array:
    """[b, ...] -> [b, 1, ...]: the mean over each example."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def relu(x: jax.Array, width: float, mean: Mean = mean_of_example) -> jax.Array:
    """max(x, 0), any shape.

    Args:
      x: pre-activations [b, ...].
      width: of the gate's surrogate, as a fraction of the root mean square of x over each example; >= 0, static.
      mean: takes an array like x to its mean over each example, for arrays laid out otherwise; static.
    """
    return _relu(x, width, mean) if width else jax.nn.relu(x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _relu(x: jax.Array, width: float, mean: Mean) -> jax.Array:
    return jnp.maximum(x, 0)


@_relu.defjvp
def _(width: float, mean: Mean, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    return _relu(x, width, mean), _gate(x, _sharpness(x, width, mean)) * tangent


@jax.custom_jvp
def _gate(x: jax.Array, sharpness: jax.Array) -> jax.Array:
    return (x > 0).astype(x.dtype)


@_gate.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x, sharpness), (tangent, _) = primals, tangents
    slope = sharpness * jax.nn.sigmoid(sharpness * x) * jax.nn.sigmoid(-sharpness * x)
    return _gate(x, sharpness), slope * tangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def max_of_four(candidates: jax.Array, width: float, mean: Mean) -> jax.Array:
    """Max over the first axis, of size 4: [4, ...] -> [...]; a tie goes to the first. `width` and `mean` as for `relu`."""
    a, b, c, d = candidates
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


@max_of_four.defjvp
def _(width: float, mean: Mean, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The derivative follows one winner: a masked sum forwards, a masked broadcast backwards, each a single pass, where the
    # maxima's own rules would split ties and scatter through slices.
    (x,), (tangent,) = primals, tangents
    winner = _winner(x, _sharpness(x, width, mean)) if width else _is_winner(x).astype(x.dtype)
    return max_of_four(x, width, mean), jnp.sum(winner * tangent, axis=0)


@jax.custom_jvp
def _winner(x: jax.Array, sharpness: jax.Array) -> jax.Array:
    return _is_winner(x).astype(x.dtype)


@_winner.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x, sharpness), (tangent, _) = primals, tangents
    share = jax.nn.softmax(sharpness * x, axis=0)
    mean = jnp.sum(share * tangent, axis=0, keepdims=True)
    return _winner(x, sharpness), sharpness * share * (tangent - mean)


def _is_winner(x: jax.Array) -> jax.Array:
    a, b, c, d = x
    first, second = jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3)
    # As wide as float32, so that comparing and choosing run in vectors of one length.
    winner = jnp.where(jnp.maximum(a, b) >= jnp.maximum(c, d), first, second).astype(jnp.int32)
    return winner[None] == jax.lax.broadcasted_iota(jnp.int32, (4,) + (1,) * winner.ndim, 0)


def _sharpness(x: jax.Array, width: float, mean: Mean) -> jax.Array:
    """1 / (width * rms of each example); 0, a gate that never moves, for an example that is all zeros."""
    rms = jnp.sqrt(mean(jax.lax.stop_gradient(x) ** 2))
    return jnp.where(rms > 0, 1 / (width * jnp.where(rms > 0, rms, 1)), 0)
