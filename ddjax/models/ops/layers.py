"""Convolution, pooling and dense layers in the form that each backend runs fastest, second derivatives and `vmap` included.

On a CPU a convolution is (patches x kernel), and one followed by 2x2 max-pooling is the single product of `planes`, because
XLA's own convolutions are slow there under `vmap` over weights and in the body of a loop (of AlexNet's inner step, fifteen
times). Elsewhere both are the backend's own. Numbers: benchmarks/.
"""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddjax.models.ops.gates import max_of_four
from ddjax.models.ops.planes import Planes, conv_max_pool as planes_conv_max_pool, from_planes, to_planes
from ddjax.models.ops.product import product

Pictures = jax.Array | Planes


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class Conv(nn.Module):
    """Convolution with bias: `features` kernels of `size` x `size`, zero `padding` on each side."""

    features: int
    size: int
    padding: int
    kernel_init: nn.initializers.Initializer
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return conv(x, kernel, padding=self.padding, stride=self.stride) + bias.reshape(1, 1, 1, -1)


def arrange(pictures: jax.Array) -> Pictures:
    """[n, H, W, C] in the layout that `ConvPool` works in on this backend."""
    return to_planes(pictures) if _on_cpu() else pictures


def flatten(x: Pictures) -> jax.Array:
    """What `ConvPool` returned as [n, H * W * C], whatever the layout."""
    pictures = from_planes(x) if isinstance(x, Planes) else x
    return pictures.reshape(len(pictures), -1)


class ConvPool(nn.Module):
    """`Conv`, a monotone activation and max over 2x2 blocks, on pictures from `arrange`.

    `activation(x, mean)` is elementwise and is applied after the maximum, with which it commutes; `mean` is what the
    surrogate gates want (see `gates.relu`), and `gate_width` that of the maximum.
    """

    features: int
    size: int
    padding: int
    kernel_init: nn.initializers.Initializer
    activation: Callable[..., jax.Array]
    gate_width: float = 0.0

    @nn.compact
    def __call__(self, x: Pictures) -> Pictures:
        channels = x.channels if isinstance(x, Planes) else x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        if isinstance(x, Planes):
            pooled = planes_conv_max_pool(x, kernel, padding=self.padding, gate_width=self.gate_width)
            bias = jnp.tile(bias, pooled.block**2).reshape(-1, 1)
            return pooled.apply(lambda rows: self.activation(rows + bias, mean=pooled.mean_of_example))
        x = max_pool_2x2(conv(x, kernel, padding=self.padding), gate_width=self.gate_width)
        return self.activation(x + bias.reshape(1, 1, 1, -1))


class Dense(nn.Module):
    """Dense layer with bias: [n, D] -> [n, features]. As Flax's own, through `product`."""

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return product(x, kernel) + bias.reshape(1, -1)


def conv(inputs: jax.Array, kernel: jax.Array, *, padding: int = 0, stride: int = 1) -> jax.Array:
    """Convolution: [n, H, W, C] with kernel [k, k, C, F] and zero padding on each side -> [n, H', W', F]."""
    if not _on_cpu():
        return _native_conv(inputs, kernel, padding, stride)
    k = kernel.shape[0]
    patches = _windows(inputs, size=k, stride=stride, padding=padding)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def conv_max_pool(inputs: jax.Array, kernel: jax.Array, *, padding: int = 0, gate_width: float = 0.0) -> jax.Array:
    """`conv`, then max over non-overlapping 2x2 blocks: [n, H, W, C] -> [n, H'/2, W'/2, F].

    Bias and any monotone activation commute with the maximum, so callers apply them afterwards, to a quarter of the values.
    `gate_width` is that of the maximum's surrogate (see `gates`). Between several of these, `ConvPool` saves the transposes.
    """
    if _on_cpu():
        return from_planes(planes_conv_max_pool(to_planes(inputs), kernel, padding=padding, gate_width=gate_width))
    return max_pool_2x2(_native_conv(inputs, kernel, padding), gate_width=gate_width)


def max_pool_2x2(inputs: jax.Array, *, gate_width: float = 0.0) -> jax.Array:
    """Max over non-overlapping 2x2 blocks of [n, H, W, C]; an odd last row or column is dropped. `gate_width`: see `gates`."""
    n, height, width, channels = inputs.shape
    rows, cols = height // 2, width // 2
    blocks = inputs[:, : 2 * rows, : 2 * cols].reshape(n, rows, 2, cols, 2, channels)
    candidates = blocks.transpose(2, 4, 0, 1, 3, 5).reshape(4, n, rows, cols, channels)
    return max_of_four(candidates, gate_width, _mean_of_second)


def _mean_of_second(x: jax.Array) -> jax.Array:
    """[4, n, ...] -> [1, n, 1, ...]: the mean over each example of the candidates of `max_of_four`."""
    return jnp.mean(x, axis=(0, *range(2, x.ndim)), keepdims=True)


def max_pool_3x3(inputs: jax.Array, *, padding: int = 1) -> jax.Array:
    """Max over 3x3 windows at stride 2: [n, H, W, C] -> [n, H', W', C], H' being (H + 2 * padding - 1) // 2.

    A last row or column that no whole window reaches is dropped; `padding` is 0 or 1 and never wins.
    """
    low = cast(Any, jnp.finfo)(inputs.dtype).min
    n, height, width, channels = inputs.shape
    rows, cols = ((length + 2 * padding - 1) // 2 for length in (height, width))
    # Enough after the last row and column to make whole pairs: window r covers rows 2r, 2r+1 and 2r+2.
    before_after = [(padding, 2 * out + 2 - padding - size) for out, size in ((rows, height), (cols, width))]
    x = jnp.pad(inputs, ((0, 0), *before_after, (0, 0)), constant_values=low)
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


def _native_conv(inputs: jax.Array, kernel: jax.Array, padding: int, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
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
