"""Convolution and pooling in the form that each backend runs fastest, second derivatives and `vmap` over weights included.

XLA turns a convolution whose kernels are batched (`vmap` over networks) into a grouped one, which on a CPU is many times
slower than the same arithmetic as a matrix product. So on a CPU a convolution here is (patches x kernel), and a convolution
followed by 2x2 max-pooling is one product that yields the four pooling candidates side by side. Elsewhere both are the
backend's own. Numbers: benchmarks/.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddjax.models.gates import max_of_four


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class Conv(nn.Module):
    """Stride-1 convolution with bias: `features` kernels of `size` x `size`, zero `padding` on each side.

    With `pooled`, max over 2x2 blocks follows, and a monotone activation belongs after it.
    """

    features: int
    size: int
    padding: int
    kernel_init: nn.initializers.Initializer
    pooled: bool = False
    gate_width: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        if self.pooled:
            x = conv_max_pool(x, kernel, padding=self.padding, gate_width=self.gate_width)
        else:
            x = conv(x, kernel, padding=self.padding)
        return x + bias.reshape(1, 1, 1, -1)


def conv(inputs: jax.Array, kernel: jax.Array, *, padding: int = 0) -> jax.Array:
    """Stride-1 convolution: [n, H, W, C] with kernel [k, k, C, F] and zero padding on each side -> [n, H', W', F]."""
    if not _on_cpu():
        return _native_conv(inputs, kernel, padding)
    k = kernel.shape[0]
    patches = _windows(inputs, size=k, stride=1, padding=padding)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def conv_max_pool(inputs: jax.Array, kernel: jax.Array, *, padding: int = 0, gate_width: float = 0.0) -> jax.Array:
    """`conv`, then max over non-overlapping 2x2 blocks: [n, H, W, C] -> [n, H'/2, W'/2, F] (H', W' even).

    Bias and any monotone activation commute with the maximum, so callers apply them afterwards, to a quarter of the values.
    `gate_width` is that of the maximum's surrogate (see `gates`).
    """
    k, _, _, features = kernel.shape
    height, width = (size + 2 * padding - k + 1 for size in inputs.shape[1:3])
    if not _on_cpu():
        return max_pool_2x2(_native_conv(inputs, kernel, padding), gate_width=gate_width)
    tile = 2 if height % 4 == width % 4 == 0 else 1
    patches = _windows(inputs, size=2 * tile + k - 1, stride=2 * tile, padding=padding)
    n, rows, cols, length = patches.shape
    # Two dimensions, so that the gradient of the kernel is one matrix product too.
    candidates = patches.reshape(-1, length) @ _expanded_kernel(kernel, tile)
    pooled = max_of_four(candidates.reshape(n, rows, cols, 4, tile * tile * features), gate_width)
    if tile == 1:
        return pooled
    pooled = pooled.reshape(n, rows, cols, tile, tile, features).transpose(0, 1, 3, 2, 4, 5)
    return pooled.reshape(n, rows * tile, cols * tile, features)


def max_pool_2x2(inputs: jax.Array, *, gate_width: float = 0.0) -> jax.Array:
    """Max over non-overlapping 2x2 blocks of [n, H, W, C]; an odd last row or column is dropped. `gate_width`: see `gates`."""
    n, height, width, channels = inputs.shape
    rows, cols = height // 2, width // 2
    blocks = inputs[:, : 2 * rows, : 2 * cols].reshape(n, rows, 2, cols, 2, channels)
    return max_of_four(blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, cols, 4, channels), gate_width)


def max_pool_3x3(inputs: jax.Array) -> jax.Array:
    """Max over 3x3 windows at stride 2 with padding 1: [n, H, W, C] -> [n, ceil(H/2), ceil(W/2), C]."""
    low = jnp.finfo(inputs.dtype).min
    n, height, width, channels = inputs.shape
    rows, cols = -(-height // 2), -(-width // 2)
    # One row and column of padding before, enough after to make whole pairs: window r covers rows 2r, 2r+1 and 2r+2.
    x = jnp.pad(inputs, ((0, 0), (1, 2 * rows + 1 - height), (1, 2 * cols + 1 - width), (0, 0)), constant_values=low)
    x = x.reshape(n, rows + 1, 2, cols + 1, 2, channels)
    x = jnp.maximum(jnp.maximum(x[:, :rows, 0], x[:, :rows, 1]), x[:, 1:, 0])
    return jnp.maximum(jnp.maximum(x[:, :, :cols, 0], x[:, :, :cols, 1]), x[:, :, 1:, 0])


def local_response_norm(
    inputs: jax.Array, *, size: int = 4, alpha: float = 0.001 / 9, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """x / (k + alpha * mean of x^2 over `size` neighbouring channels)^beta, channels last (Krizhevsky et al., 2012)."""
    before = size // 2  # an even window reaches one channel further down than up
    squares = jnp.pad(inputs**2, ((0, 0),) * (inputs.ndim - 1) + ((before, size - 1 - before),))
    channels = inputs.shape[-1]
    mean = sum(squares[..., i : i + channels] for i in range(size)) / size
    return inputs / (k + alpha * mean) ** beta


def _native_conv(inputs: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), ((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _windows(inputs: jax.Array, *, size: int, stride: int, padding: int) -> jax.Array:
    """All `size` x `size` windows at the given stride: [n, H, W, C] -> [n, rows, cols, size * size * C].

    Rows and columns are cut into blocks of `stride` first, so that overlapping windows are whole blocks side by side and
    never strided slices, which CPUs gather and scatter one element at a time.
    """
    n, height, width, channels = inputs.shape
    rows, cols = (((length + 2 * padding - size) // stride + 1) for length in (height, width))
    blocks = -(-size // stride)  # blocks that one window spans
    tall, wide = ((count + blocks - 1) * stride for count in (rows, cols))
    padded = jnp.pad(
        inputs, ((0, 0), (padding, max(0, tall - height - padding)), (padding, max(0, wide - width - padding)), (0, 0))
    )
    padded = padded[:, :tall, :wide]
    x = padded.reshape(n, tall // stride, stride, wide // stride, stride * channels)
    x = jnp.concatenate([x[:, b : b + rows] for b in range(blocks)], axis=2)[:, :, :size]
    x = jnp.concatenate([x[:, :, :, b : b + cols] for b in range(blocks)], axis=4)[..., : size * channels]
    return x.transpose(0, 1, 3, 2, 4).reshape(n, rows, cols, size * size * channels)


@functools.cache
def _placements(k: int, tile: int) -> np.ndarray:
    """0/1 array [w, 2, tile, k]: does row `a` of a window meet row `i` of the kernel at pool offset p of tile row s?"""
    w = 2 * tile + k - 1
    a, p, s, i = np.ogrid[:w, :2, :tile, :k]
    return (a == 2 * s + p + i).astype(np.float32)


def _expanded_kernel(kernel: jax.Array, tile: int) -> jax.Array:
    """[k, k, C, F] -> [w * w * C, 4 * tile * tile * F]: the kernel at every pool offset of every position of a tile."""
    k, _, channels, _ = kernel.shape
    w = 2 * tile + k - 1
    place = jnp.asarray(_placements(k, tile), kernel.dtype)
    return jnp.einsum("apsi,bqrj,ijcf->abcpqsrf", place, place, kernel).reshape(w * w * channels, -1)
