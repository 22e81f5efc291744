"""Rectifiers and maxima whose *second* derivative sees them switch: surrogate gates.

The gradient of a ReLU network jumps where a unit switches on or off, and where a max-pool changes its winner. A
meta-gradient differentiates that gradient, and the derivative of a jump is zero almost everywhere: it is blind to the very
events that decide what one large gradient-descent step does, so the outer loss is littered with cliffs that no step
foresees. Here value and first derivative stay exact; only the derivative *of the gate* becomes that of a sigmoid (ReLU) or
softmax (max) of a given width, as surrogate gradients do for spiking networks (Neftci, Mostafa and Zenke, 2019, arXiv
1901.09948). The network, its training and its evaluation do not change at all. Width 0 is the exact second derivative.
"""

import functools

import jax
import jax.numpy as jnp


def relu(x: jax.Array, width: float) -> jax.Array:
    """max(x, 0), any shape. `width`: of the gate's surrogate, as a fraction of the root mean square of x; >= 0, static."""
    return _relu(x, width) if width else jax.nn.relu(x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _relu(x: jax.Array, width: float) -> jax.Array:
    return jnp.maximum(x, 0)


@_relu.defjvp
def _(width, primals, tangents):
    (x,), (tangent,) = primals, tangents
    return _relu(x, width), _gate(x, _sharpness(x, width)) * tangent


@jax.custom_jvp
def _gate(x: jax.Array, sharpness: jax.Array) -> jax.Array:
    return (x > 0).astype(x.dtype)


@_gate.defjvp
def _(primals, tangents):
    (x, sharpness), (tangent, _) = primals, tangents
    slope = sharpness * jax.nn.sigmoid(sharpness * x) * jax.nn.sigmoid(-sharpness * x)
    return _gate(x, sharpness), slope * tangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_of_four(candidates: jax.Array, width: float) -> jax.Array:
    """Max over axis -2, of size 4: [..., 4, m] -> [..., m]; a tie goes to the first. `width` as for `relu`."""
    a, b, c, d = (candidates[..., i, :] for i in range(4))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


@max_of_four.defjvp
def _(width, primals, tangents):
    # The derivative follows one winner: a masked sum forwards, a masked broadcast backwards, each a single pass, where the
    # maxima's own rules would split ties and scatter through slices.
    (x,), (tangent,) = primals, tangents
    winner = _winner(x, _sharpness(x, width)) if width else _is_winner(x).astype(x.dtype)
    return max_of_four(x, width), jnp.sum(winner * tangent, axis=-2)


@jax.custom_jvp
def _winner(x: jax.Array, sharpness: jax.Array) -> jax.Array:
    return _is_winner(x).astype(x.dtype)


@_winner.defjvp
def _(primals, tangents):
    (x, sharpness), (tangent, _) = primals, tangents
    share = jax.nn.softmax(sharpness * x, axis=-2)
    mean = jnp.sum(share * tangent, axis=-2, keepdims=True)
    return _winner(x, sharpness), sharpness * share * (tangent - mean)


def _is_winner(x: jax.Array) -> jax.Array:
    a, b, c, d = (x[..., i, :] for i in range(4))
    first, second = jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3)
    winner = jnp.where(jnp.maximum(a, b) >= jnp.maximum(c, d), first, second).astype(jnp.int8)
    return winner[..., None, :] == jax.lax.broadcasted_iota(jnp.int8, x.shape, x.ndim - 2)


def _sharpness(x: jax.Array, width: float) -> jax.Array:
    """1 / (width * rms(x)); 0, a gate that never moves, for a layer that is all zeros."""
    rms = jnp.sqrt(jnp.mean(jax.lax.stop_gradient(x) ** 2))
    return jnp.where(rms > 0, 1 / (width * jnp.where(rms > 0, rms, 1)), 0)
