"""Rectifiers and maxima whose *second* derivative sees them switch: surrogate gates.

The gradient of a ReLU network jumps where a unit switches on or off, and where a max-pool changes its winner. A
meta-gradient differentiates that gradient, and the derivative of a jump is zero almost everywhere: it is blind to the very
events that decide what one large gradient-descent step does, so the outer loss is littered with cliffs that no step
foresees. Here value and first derivative stay exact; only the derivative *of the gate* becomes that of a sigmoid (ReLU) or
softmax (max) of a given width, as surrogate gradients do for spiking networks (Neftci, Mostafa and Zenke, 2019, arXiv
1901.09948). The network, its training and its evaluation do not change at all. Width 0 is the exact second derivative.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Mean = Callable[[jax.Array], jax.Array]
Arrays = tuple[jax.Array, ...]


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
    return _relu(x, width, mean), _gate(x, _sharpness((x,), width, mean)) * tangent


@jax.custom_jvp
def _gate(x: jax.Array, sharpness: jax.Array) -> jax.Array:
    return (x > 0).astype(x.dtype)


@_gate.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x, sharpness), (tangent, _) = primals, tangents
    slope = sharpness * jax.nn.sigmoid(sharpness * x) * jax.nn.sigmoid(-sharpness * x)
    return _gate(x, sharpness), slope * tangent


def max_of(candidates: Sequence[jax.Array], width: float, mean: Mean = mean_of_example) -> jax.Array:
    """The greatest of several arrays of one shape, elementwise; a tie goes to the first.

    Args:
      candidates: arrays [b, ...].
      width: of the gates' surrogate, as a fraction of the root mean square of all candidates over each example; >= 0, static.
      mean: as for `relu`.
    """
    return _max_of(tuple(candidates), width, mean)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _max_of(candidates: Arrays, width: float, mean: Mean) -> jax.Array:
    return functools.reduce(jnp.maximum, candidates)


@_max_of.defjvp
def _(width: float, mean: Mean, primals: tuple[Arrays], tangents: tuple[Arrays]) -> tuple[jax.Array, jax.Array]:
    # The derivative follows one winner, by choosing forwards and masking backwards, where the maxima's own rules would split
    # ties. Candidates stay apart: an axis of them would be summed over, which costs more than all of this.
    (xs,), (dxs,) = primals, tangents
    if not width:
        return _tournament(xs, dxs)
    gates = _gates(xs, _sharpness(xs, width, mean))
    return _max_of(xs, width, mean), _dot(gates, dxs)


@jax.custom_jvp
def _gates(xs: Arrays, sharpness: jax.Array) -> Arrays:
    """One of them 1, where the winner is, the others 0."""
    winner = _winner(xs)
    return tuple((winner == i).astype(xs[0].dtype) for i in range(len(xs)))


@_gates.defjvp
def _(primals: tuple[Arrays, jax.Array], tangents: tuple[Arrays, jax.Array]) -> tuple[Arrays, Arrays]:
    (xs, sharpness), (dxs, _) = primals, tangents
    greatest = functools.reduce(jnp.maximum, xs)
    powers = [jnp.exp(sharpness * (x - greatest)) for x in xs]
    total = functools.reduce(jnp.add, powers)
    shares = tuple(power / total for power in powers)
    mean = _dot(shares, dxs)
    return _gates(xs, sharpness), tuple(sharpness * share * (dx - mean) for share, dx in zip(shares, dxs, strict=True))


def _winner(xs: Arrays) -> jax.Array:
    """The number of the greatest, of the first if several are; as wide as float32, so that vectors are of one length."""
    return _tournament(xs, tuple(jnp.full(xs[0].shape, i, jnp.int32) for i in range(len(xs))))[1]


def _tournament(xs: Arrays, prizes: Arrays) -> tuple[jax.Array, jax.Array]:
    """The greatest, and its prize; a tie goes to the first."""
    if len(xs) == 1:
        return xs[0], prizes[0]
    half = (len(xs) + 1) // 2
    (left, mine), (right, yours) = _tournament(xs[:half], prizes[:half]), _tournament(xs[half:], prizes[half:])
    return jnp.maximum(left, right), jnp.where(left >= right, mine, yours)


def _dot(xs: Arrays, ys: Arrays) -> jax.Array:
    return functools.reduce(jnp.add, [x * y for x, y in zip(xs, ys, strict=True)])


def _sharpness(xs: Arrays, width: float, mean: Mean) -> jax.Array:
    """1 / (width * rms of each example); 0, a gate that never moves, for an example that is all zeros."""
    squares = [mean(jax.lax.stop_gradient(x) ** 2) for x in xs]
    rms = jnp.sqrt(functools.reduce(jnp.add, squares) / len(xs))
    return jnp.where(rms > 0, 1 / (width * jnp.where(rms > 0, rms, 1)), 0)
