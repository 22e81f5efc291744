"""Two-dimensional convolution in the form that a CPU runs fastest, whatever its strides, padding, dilation and groups.

It is a matrix product of patches and kernel, or of fewer multiplications where `winograd` suits, because XLA's own
convolutions are slow on a CPU under `vmap` over weights, and their gradients in the body of a loop (benchmarks/conv.py).
"""

import functools

import jax
import jax.numpy as jnp

from ddjax.models.ops import winograd
from ddjax.models.ops.product import product

Pair = tuple[int, int]


def convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> jax.Array:
    """[n, H, W, C] with kernel [h, w, C / groups, F] -> [n, H', W', F].

    Args:
      inputs: pictures.
      kernel: of one dtype with them.
      strides: down and across.
      padding: zeros (before, after) down and across.
      dilation: of the kernel, down and across.
      groups: of channels and of features, each of which sees its own only.
    """
    if dilation != (1, 1):
        between = [(0, 0, step - 1) for step in dilation]
        kernel = jax.lax.pad(kernel, jnp.zeros((), kernel.dtype), [*between, (0, 0, 0), (0, 0, 0)])
    if groups == 1:
        return _ungrouped(inputs, kernel, strides, padding)
    if kernel.shape[2] == 1:
        return _depthwise(inputs, kernel, strides, padding)
    inputs, kernel = (x.reshape(*x.shape[:3], groups, -1) for x in (inputs, kernel))
    one = functools.partial(_ungrouped, strides=strides, padding=padding)
    outputs = jax.vmap(one, in_axes=(3, 3), out_axes=3)(inputs, kernel)
    return outputs.reshape(*outputs.shape[:3], -1)


def _ungrouped(inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    if winograd.suits(kernel, max(strides)):
        return winograd.conv(inputs, kernel, padding)
    patches = windows(inputs, (kernel.shape[0], kernel.shape[1]), strides, padding)
    flat = product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(patches.shape[-1], -1))
    return flat.reshape(*patches.shape[:-1], -1)


def _depthwise(inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """Of as many groups as channels: a sum over the kernel's pixels, since products would be of one column each."""
    h, w, _, features = kernel.shape
    (down, across), channels = strides, inputs.shape[-1]
    x, (rows, cols) = _blocks(inputs, (h, w), strides, padding)
    x = x.reshape(*x.shape[:4], across, channels, 1)
    weights = kernel.reshape(h, w, 1, 1, 1, channels, features // channels)

    def seen(i: int, j: int) -> jax.Array:
        return x[:, i // down : i // down + rows, i % down, j // across : j // across + cols, j % across]

    outputs = functools.reduce(jnp.add, [seen(i, j) * weights[i, j] for i in range(h) for j in range(w)])
    return outputs.reshape(len(inputs), rows, cols, features)


def windows(inputs: jax.Array, size: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """All windows of h x w = `size` pixels: [n, H, W, C] -> [n, rows, cols, h * w * C].

    Overlapping windows are whole blocks side by side and never strided slices, which CPUs gather and scatter one element at
    a time.
    """
    (h, w), (down, across), channels = size, strides, inputs.shape[-1]
    x, (rows, cols) = _blocks(inputs, size, strides, padding)
    x = jnp.concatenate([x[:, b : b + rows] for b in range(-(-h // down))], axis=2)[:, :, :h]
    x = jnp.concatenate([x[:, :, :, b : b + cols] for b in range(-(-w // across))], axis=4)[..., : w * channels]
    return x.transpose(0, 1, 3, 2, 4).reshape(len(inputs), rows, cols, h * w * channels)


def _blocks(inputs: jax.Array, size: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> tuple[jax.Array, Pair]:
    """Padded pictures cut into blocks of a stride, enough for all windows, and how many windows there are down and across.

    [n, H, W, C] -> [n, R, down, Q, across * C].
    """
    n, *sides, channels = inputs.shape
    counts, lengths, around = [], [], []
    for side, window, stride, (before, after) in zip(sides, size, strides, padding, strict=True):
        counts.append((side + before + after - window) // stride + 1)
        lengths.append((counts[-1] + -(-window // stride) - 1) * stride)
        around.append((before, max(0, lengths[-1] - side - before)))
    x = jnp.pad(inputs, ((0, 0), *around, (0, 0)))[:, : lengths[0], : lengths[1]]
    (tall, wide), (down, across) = lengths, strides
    return x.reshape(n, tall // down, down, wide // across, across * channels), (counts[0], counts[1])
