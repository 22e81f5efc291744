"""Convolution with 2x2 max-pooling as one matrix product, batch last: the form that a CPU runs fastest.

XLA turns a convolution whose kernels are batched (`vmap` over networks) into a grouped one, which on a CPU is many times
slower than the same arithmetic as a matrix product. Here the picture is cut into overlapping windows, each of which holds
what one tile of pooled outputs sees; the kernel, laid out at every pooling offset of the tile, meets all windows in one
product that gives the four candidates of every maximum. Examples run along the last axis, so that every other operation
is a sweep over long contiguous rows: no strided slices, no scattering (measured in benchmarks/conv.py).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ddjax.models.ops.gates import max_of
from ddjax.models.ops.product import product


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows"], meta_fields=["block", "channels", "shape"])
@dataclass(frozen=True)
class Planes:
    """Pictures batch last, cut into blocks of `block` x `block` pixels.

    Attributes:
      rows: [block * block * channels, R * Q * n]: one row for each pixel of a block and channel, in that order, one column
        for each block and example; a matrix, whatever the shapes, because loops over matrices are the fastest.
      block: pixels along the side of a block.
      channels: C.
      shape: (R, Q, n): rows and columns of blocks, and examples.
    """

    rows: jax.Array
    block: int
    channels: int
    shape: tuple[int, int, int]

    def apply(self, function: Callable[[jax.Array], jax.Array]) -> "Planes":
        """Applies an elementwise function."""
        return Planes(function(self.rows), self.block, self.channels, self.shape)

    def mean_of_example(self, rows: jax.Array) -> jax.Array:
        """The mean of each example over arrays whose last axis is that of `rows`: [..., R * Q * n], other axes 1."""
        R, Q, n = self.shape
        mean = jnp.mean(rows.reshape(-1, R * Q, n), axis=(0, 1))
        return jnp.broadcast_to(mean, (R * Q, n)).reshape((1,) * (rows.ndim - 1) + (-1,))


def to_planes(pictures: jax.Array) -> Planes:
    """[n, H, W, C] as planes with blocks of one pixel."""
    n, height, width, channels = pictures.shape
    rows = jnp.moveaxis(pictures, 0, -1).transpose(2, 0, 1, 3)
    return Planes(rows.reshape(channels, -1), 1, channels, (height, width, n))


def from_planes(planes: Planes) -> jax.Array:
    """The inverse of `to_planes` for any blocks: [n, H, W, C]."""
    (R, Q, n), b = planes.shape, planes.block
    x = planes.rows.reshape(b, b, planes.channels, R, Q, n).transpose(3, 0, 4, 1, 2, 5)
    return x.reshape(-1, n).T.reshape(n, R * b, Q * b, planes.channels)


def conv_max_pool(planes: Planes, kernel: jax.Array, *, padding: int = 0, gate_width: float = 0.0) -> Planes:
    """Stride-1 convolution with zero padding, then max over non-overlapping 2x2 blocks; an odd last row is dropped.

    kernel: [k, k, C, F]. `gate_width` is that of the maximum's surrogate (see `gates`). The result comes in blocks of two
    pixels where its sides are even, else of one. Bias and any monotone activation commute with the maximum, so callers
    apply them afterwards, to a quarter of the values.
    """
    k, _, _, features = kernel.shape
    (R, Q, _), b = planes.shape, planes.block
    height, width = (blocks * b + 2 * padding - k + 1 for blocks in (R, Q))
    tile = 2 if height % 4 == width % 4 == 0 else 1
    stride = 2 * tile
    span = -(-(stride + k - 1) // stride)  # blocks that one window spans
    rows, cols = height // stride, width // stride
    windows = _windows(_blocks(planes, stride, padding, (rows + span - 1, cols + span - 1)), span)
    candidates = jnp.split(product(_expanded(kernel, tile), windows.rows, 0, 0), 4)
    pooled = max_of(candidates, gate_width, windows.mean_of_example)
    return Planes(pooled, tile, features, windows.shape)


def _blocks(planes: Planes, block: int, padding: int, shape: tuple[int, int]) -> Planes:
    """The same pictures padded with zeros, cut into `shape` blocks of another size; what is beyond those is dropped."""
    (R, Q, n), b, channels = planes.shape, planes.block, planes.channels
    (tall, wide), (height, width) = (tuple(count * side for count in s) for s, side in ((shape, block), ((R, Q), b)))
    if b == block and padding == 0 and (tall, wide) == (height, width):
        return planes
    x = planes.rows.reshape(b, b, channels, R, Q, n).transpose(2, 3, 0, 4, 1, 5).reshape(channels, height, width, n)
    after = [(padding, max(0, length - side - padding)) for length, side in ((tall, height), (wide, width))]
    x = jnp.pad(x, ((0, 0), *after, (0, 0)))[:, :tall, :wide]
    x = x.reshape(channels, shape[0], block, shape[1], block, n).transpose(2, 4, 0, 1, 3, 5)
    return Planes(x.reshape(block * block * channels, -1), block, channels, (*shape, n))


def _windows(planes: Planes, span: int) -> Planes:
    """All windows of `span` x `span` blocks at a stride of one block; the blocks of a window come first in its rows.

    A scan of whole-array copies and, backwards, of whole-array sums: XLA would fuse anything else into its surroundings
    and compute it again there for every element that overlaps.
    """
    R, Q, n = planes.shape
    rows, cols = R - span + 1, Q - span + 1
    x = planes.rows.reshape(-1, R, Q, n)

    def window(_: None, corner: jax.Array) -> tuple[None, jax.Array]:
        return None, jax.lax.dynamic_slice(x, corner, (len(x), rows, cols, n))

    corners = jnp.asarray([(0, i, j, 0) for i in range(span) for j in range(span)], jnp.int32)
    stacked = jax.lax.scan(window, None, corners)[1]
    return Planes(stacked.reshape(-1, rows * cols * n), planes.block, planes.channels, (rows, cols, n))


@functools.cache
def _placements(k: int, tile: int) -> npt.NDArray[np.float32]:
    """0/1 matrix [pixels of a window * 4 * tile * tile, k * k]: which pixel of the kernel lies where.

    Pixels of a window are ordered by block, then within the block; outputs by pool offset, then by position in the tile.
    """
    stride = 2 * tile
    span = -(-(stride + k - 1) // stride)
    a, p, s, i = np.ogrid[: span * stride, :2, :tile, :k]
    line = (a == 2 * s + p + i).astype(np.float32).reshape(span, stride, 2, tile, k)
    both: npt.NDArray[np.float32] = np.einsum("xapsi,ybqrj->xyabpqsrij", line, line)
    return both.reshape(-1, k * k)


def _expanded(kernel: jax.Array, tile: int) -> jax.Array:
    """[k, k, C, F] -> [pixels of a window * C, 4 * tile * tile * F]: the kernel at every pool offset of every position."""
    k, _, channels, features = kernel.shape
    outputs = 4 * tile * tile
    placed = product(jnp.asarray(_placements(k, tile), kernel.dtype), kernel.reshape(k * k, -1))
    placed = placed.reshape(-1, outputs, channels, features).transpose(0, 2, 1, 3)
    return placed.reshape(-1, outputs * features)
