"""Convolution by few multiplications (Winograd, 1980; Lavin and Gray, 2016, arXiv 1509.09308), as matrix products alone.

A tile of 4x4 outputs of a k x k convolution sees (k+3) x (k+3) pixels. Polynomials multiplied through their values at k+3
points take one multiplication for each pixel and pair of channels,

    tile of outputs = A [ (G kernel) * (B pixels) ],

36 instead of 144 for k = 3 and 64 instead of 400 for k = 5, with constant matrices A, G and B. Written as products, every
derivative of it is products again, and they share what they have in common: the pixels' values at the points, say.
"""

import functools
import math
from fractions import Fraction
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ddjax.models.ops.product import product

Matrix = npt.NDArray[np.floating]

TILE = 4
# Small and inverse to one another, so that their powers, and with them the rounding, stay small; the last is infinity.
_POINTS = {3: (0, 1, -1, Fraction(1, 2), -Fraction(1, 2)), 5: (0, 1, -1, Fraction(1, 2), -Fraction(1, 2), 2, -2)}


def fits(kernel: jax.Array, stride: int) -> bool:
    """Whether `conv` can."""
    height, width = kernel.shape[:2]
    return stride == 1 and height == width and height in _POINTS


def suits(kernel: jax.Array, stride: int) -> bool:
    """Whether `conv` can, and is the faster form: of few channels the tiles cost more than they save (benchmarks/conv.py).

    Products in bfloat16 are left to other forms, since values at the points are larger than what they are of, and so is what
    rounding takes from them.
    """
    rounded = cast(Any, jax.config).jax_default_matmul_precision == "bfloat16"
    return fits(kernel, stride) and kernel.shape[2] >= 8 and not rounded


def conv(inputs: jax.Array, kernel: jax.Array, padding: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """Stride-1 convolution, zero padding (before, after) along both sides: [n, H, W, C], [k, k, C, F] -> [n, H', W', F].

    k is 3 or 5. With a kernel [k, k, 1, C] every channel sees itself alone: [n, H', W', C].
    Float32 results differ from the sums of the definition by a few 1e-6 of their norm.
    """
    k, _, channels, features = kernel.shape
    A, G, B = (jnp.asarray(matrix, inputs.dtype) for matrix in _matrices(k))
    n, height, width, _ = inputs.shape
    (top, bottom), (left, right) = padding
    tall, wide = height + top + bottom - k + 1, width + left + right - k + 1
    rows, cols = -(-tall // TILE), -(-wide // TILE)
    windows = _windows(inputs, k + TILE - 1, (top, left), (rows, cols))
    values = product(B, windows.reshape(len(B), -1)).reshape(len(B), -1, inputs.shape[-1])
    weights = product(G, kernel.reshape(k * k, -1)).reshape(len(B), channels, features)
    met = values * weights if channels == 1 else product(values, weights)
    tiles = product(A, met.reshape(len(B), -1))
    outputs = tiles.reshape(TILE, TILE, n, rows, cols, features).transpose(2, 3, 0, 4, 1, 5)
    return outputs.reshape(n, rows * TILE, cols * TILE, features)[:, :tall, :wide]


def _windows(inputs: jax.Array, side: int, before: tuple[int, int], count: tuple[int, int]) -> jax.Array:
    """What each tile sees: [n, H, W, C] -> [side, side, n, rows, cols, C], for TILE <= side <= 2 * TILE.

    Cut into blocks of a tile first, so that windows are whole blocks side by side and what the block after lends: copies and,
    backwards, sums of contiguous rows.
    """
    n, height, width, channels = inputs.shape
    rows, cols = count
    beyond = side - TILE
    below, right = (
        max(0, (blocks + 1) * TILE - lead - size)
        for blocks, lead, size in zip(count, before, (height, width), strict=True)
    )
    x = jnp.pad(inputs, ((0, 0), (before[0], below), (before[1], right), (0, 0)))
    x = x[:, : (rows + 1) * TILE, : (cols + 1) * TILE]
    x = x.reshape(n, rows + 1, TILE, cols + 1, TILE, channels).transpose(2, 4, 0, 1, 3, 5)
    x = jnp.concatenate([x[:, :, :, :rows], x[:beyond, :, :, 1:]], axis=0)
    return jnp.concatenate([x[:, :, :, :, :cols], x[:, :beyond, :, :, 1:]], axis=1)


@functools.cache
def _matrices(k: int) -> tuple[Matrix, Matrix, Matrix]:
    """A [16, a^2], G [a^2, k^2] and B [a^2, a^2] with a = k + 3, of the two sides together (Toom and Cook's construction).

    Along one side, with finite points p_i: A holds their powers, row i of G their powers over prod_j (p_i - p_j), row i of B
    the coefficients of prod_{j != i} (x - p_j); the last row, of the point at infinity, the leading coefficient, and in B
    those of prod_j (x - p_j).
    """
    points = [Fraction(p) for p in _POINTS[k]]
    size = len(points) + 1
    A, G, B = np.zeros((TILE, size)), np.zeros((size, k)), np.zeros((size, size))
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        scale = float(math.prod(point - other for other in others))
        A[:, i] = [float(point**power) for power in range(TILE)]
        G[i] = [float(point**power) / scale for power in range(k)]
        B[i, :-1] = np.poly([float(p) for p in others])[::-1]
    A[-1, -1] = G[-1, -1] = 1
    B[-1] = np.poly([float(p) for p in points])[::-1]
    return np.kron(A, A), np.kron(G, G), np.kron(B, B)
