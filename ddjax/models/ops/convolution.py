"""Two-dimensional convolution in the form that a CPU runs fastest, whatever its strides, padding, dilation and groups.

It is a matrix product of patches and kernel, or of fewer multiplications where `winograd` suits, because XLA's own
convolutions are slow on a CPU under `vmap` over weights, and their gradients in the body of a loop (benchmarks/conv.py).
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ddjax.core.kept import kept
from ddjax.models.ops import winograd
from ddjax.models.ops.product import product

Pair = tuple[int, int]

_FEW = 8  # channels


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
    if groups == 1:
        return _ungrouped(inputs, kernel, strides, padding, dilation)
    if kernel.shape[2] == 1:
        return _depthwise(inputs, kernel, strides, padding, dilation)
    inputs, kernel = (x.reshape(*x.shape[:3], groups, -1) for x in (inputs, kernel))
    one = functools.partial(_ungrouped, strides=strides, padding=padding, dilation=dilation)
    outputs = jax.vmap(one, in_axes=(3, 3), out_axes=3)(inputs, kernel)
    return outputs.reshape(*outputs.shape[:3], -1)


def _ungrouped(
    inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair
) -> jax.Array:
    if dilation == (1, 1) and winograd.suits(kernel, max(strides)):
        outputs = winograd.conv(kept(inputs, cotangent=True), kernel, padding)
        return kept(outputs, value=True)
    if inputs.shape[-1] < _FEW and max(strides) == max(dilation) == 1:
        return _of_few_channels(inputs, kernel, padding)
    patches = windows(inputs, (kernel.shape[0], kernel.shape[1]), strides, padding, dilation)
    lead = patches.shape[:3]
    flat = product(patches.reshape(math.prod(lead), -1), kernel.reshape(-1, kernel.shape[-1]))
    return flat.reshape(*lead, -1)


def _of_few_channels(inputs: jax.Array, kernel: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    """Patches as columns, which are copied a row of pixels at a time where patches as rows are copied by `C` numbers."""
    h, w, _, features = kernel.shape
    x = jnp.pad(inputs.transpose(3, 0, 1, 2), ((0, 0), (0, 0), *padding))
    _, n, tall, wide = x.shape
    rows, cols = tall - h + 1, wide - w + 1
    x = jnp.stack([x[:, :, i : i + rows] for i in range(h)])
    x = jnp.stack([x[..., j : j + cols] for j in range(w)])  # [w, h, C, n, rows, cols]
    kernel = kernel.transpose(1, 0, 2, 3).reshape(-1, features)
    return product(x.reshape(len(kernel), -1), kernel, 0, 0).reshape(n, rows, cols, features)


def _depthwise(
    inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair
) -> jax.Array:
    """Of as many groups as channels: a sum over the kernel's pixels, since products would be of one column each."""
    h, w, _, features = kernel.shape
    inputs = jnp.repeat(inputs, features // inputs.shape[-1], axis=-1)
    if dilation == (1, 1) and winograd.fits(kernel, max(strides)):
        return winograd.conv(inputs, kernel, padding)
    patches = windows(inputs, (h, w), strides, padding, dilation)
    n, rows, cols = patches.shape[:3]
    return jnp.sum(patches.reshape(n, rows, cols, h * w, features) * kernel.reshape(1, 1, 1, h * w, features), axis=3)


def windows(
    inputs: jax.Array, size: Pair, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair = (1, 1)
) -> jax.Array:
    """All windows of h x w = `size` pixels: [n, H, W, C] -> [n, rows, cols, h, w, C].

    Pictures are cut into blocks of a stride first, so that overlapping windows are whole blocks side by side and never strided
    slices, which CPUs gather and scatter one element at a time.
    """
    n, *sides, channels = inputs.shape
    counts, lengths, around, pixels = [], [], [], []
    for side, count, stride, (before, after), step in zip(sides, size, strides, padding, dilation, strict=True):
        span = (count - 1) * step + 1
        counts.append((side + before + after - span) // stride + 1)
        lengths.append((counts[-1] + (span - 1) // stride) * stride)
        around.append((before, max(0, lengths[-1] - side - before)))
        pixels.append(list(_pixels(span, stride, step)))
    (rows, cols), (tall, wide), (down, across) = counts, lengths, strides
    x = jnp.pad(inputs, ((0, 0), *around, (0, 0)))[:, :tall, :wide]
    x = x.reshape(n, tall // down, down, wide // across, across, channels)
    x = jnp.concatenate([x[:, block : block + rows, within] for block, within in pixels[0]], axis=2)
    x = jnp.concatenate([x[:, :, :, block : block + cols, within] for block, within in pixels[1]], axis=4)
    return x.transpose(0, 1, 3, 2, 4, 5)


def _pixels(span: int, stride: int, step: int) -> Iterator[tuple[int, slice]]:
    """Every block of `stride` that a window of every `step`th of `span` pixels reaches, and which of its pixels it has."""
    for start in range(0, span, stride):
        within = slice(-start % step, min(stride, span - start), step)
        if within.start < within.stop:
            yield start // stride, within
