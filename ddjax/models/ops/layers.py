"""Convolution, pooling and dense layers in the form that each backend runs fastest, second derivatives and `vmap` included.

On a CPU a convolution is the product of `convolution`, patches x kernel or one of few multiplications, and one followed by 2x2
max-pooling is the single product of `planes`, because XLA's own convolutions are slow there under `vmap` over weights and in
the body of a loop (of AlexNet's inner step, fifteen times). Elsewhere both are the backend's own. Numbers: benchmarks/.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.kept import kept
from ddjax.models.ops.convolution import convolution
from ddjax.models.ops.gates import max_of
from ddjax.models.ops.planes import Planes, conv_max_pool as planes_conv_max_pool, from_planes, to_planes
from ddjax.models.ops.product import product

Pictures = jax.Array | Planes

# Xavier (Glorot) normal, of variance 2 / (fan_in + fan_out), not truncated.
XAVIER = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


# Terms of a dense layer's sums from which on reading its weights once more costs more than holding its inputs and outputs.
_LONG = 1024


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class Conv(nn.Module):
    """Convolution with bias: `features` kernels of `size` x `size`, zero `padding` on each side.

    By default the padding that keeps the sides, at stride 1 and for an odd size. In a module of one's own::

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):  # [n, H, W, C]
                x = nn.relu(ddjax.InstanceNorm()(ddjax.Conv(32, 3)(x)))
                return ddjax.Dense(10)(ddjax.average_pool_2x2(x).reshape(len(x), -1))
    """

    features: int
    size: int
    padding: int | None = None
    kernel_init: nn.initializers.Initializer = XAVIER
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        padding = (self.size - 1) // 2 if self.padding is None else self.padding
        return conv(x, kernel, padding=padding, stride=self.stride) + bias.reshape(1, 1, 1, -1)


class InstanceNorm(nn.Module):
    """`instance_norm` with a scale, from ones, and a bias, from zeros, of each channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        return instance_norm(x, scale, bias)


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
    kernel_init: nn.initializers.Initializer = XAVIER

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        if x.shape[-1] >= _LONG:
            return kept(product(kept(x, value=True, cotangent=True), kernel), value=True) + bias.reshape(1, -1)
        return product(x, kernel) + bias.reshape(1, -1)


def conv(inputs: jax.Array, kernel: jax.Array, *, padding: int = 0, stride: int = 1) -> jax.Array:
    """Convolution: [n, H, W, C] with kernel [k, k, C, F] and zero padding on each side -> [n, H', W', F]."""
    if not _on_cpu():
        return _native_conv(inputs, kernel, padding, stride)
    return convolution(inputs, kernel, (stride, stride), ((padding, padding),) * 2)


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
    candidates = [column.reshape(n, rows, cols, channels) for row in _split(blocks, 2) for column in _split(row, 4)]
    return max_of(candidates, gate_width)


def _split(x: jax.Array, axis: int) -> list[jax.Array]:
    """Slices of size 1 along `axis`, whose derivative joins them in one pass, where that of indexing adds padded ones."""
    return cast(list[jax.Array], jax.lax.split(x, (1,) * x.shape[axis], axis))


def max_pool_3x3(inputs: jax.Array, *, padding: int = 1, gate_width: float = 0.0) -> jax.Array:
    """Max over 3x3 windows at stride 2: [n, H, W, C] -> [n, H', W', C], H' being (H + 2 * padding - 1) // 2.

    A last row or column that no whole window reaches is dropped; `padding` is 0 or 1 and never wins. It is the maximum along
    one side, then along the other, each with its own gates of `gate_width` (see `gates`).
    """
    for axis in (1, 2):
        inputs = max_of(_threes(inputs, axis, padding), gate_width)
    return inputs


def _threes(x: jax.Array, axis: int, padding: int) -> list[jax.Array]:
    """The three neighbours of every window along `axis`, at stride 2; `padding` on each side never wins."""
    size = x.shape[axis]
    out = (size + 2 * padding - 1) // 2
    low = cast(Any, jnp.finfo)(x.dtype).min
    # Enough after the last to make whole pairs: window r covers 2r, 2r+1 and 2r+2.
    around = [(padding, 2 * out + 2 - padding - size, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    lead, rest = x.shape[:axis], x.shape[axis + 1 :]
    pairs = jax.lax.pad(x, jnp.asarray(low, x.dtype), around).reshape(*lead, out + 1, 2, *rest)
    even, odd = (part.reshape(*lead, out + 1, *rest) for part in _split(pairs, axis + 1))
    return [
        jax.lax.slice_in_dim(part, start, start + out, axis=axis) for part, start in ((even, 0), (odd, 0), (even, 1))
    ]


def average_pool_2x2(inputs: jax.Array) -> jax.Array:
    """Mean over non-overlapping 2x2 blocks of [n, H, W, C]; an odd last row or column is dropped."""
    x = inputs[:, : inputs.shape[1] // 2 * 2, : inputs.shape[2] // 2 * 2]
    for axis in (1, 2):
        lead, rest = x.shape[:axis], x.shape[axis + 1 :]
        first, second = _split(x.reshape(*lead, -1, 2, *rest), axis + 1)
        x = (first + second).reshape(*lead, -1, *rest)
    return x / 4


def instance_norm(inputs: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float = 1e-5) -> jax.Array:
    """Each channel of each picture of [n, H, W, C] with mean 0 and variance 1, then times `scale` [C] plus `bias` [C].

    (Ulyanov et al., 2016, arXiv 1607.08022; GroupNorm with as many groups as channels. No running state.)
    """
    mean = jnp.mean(inputs, axis=(1, 2), keepdims=True)
    centred = inputs - mean
    variance = jnp.mean(centred**2, axis=(1, 2), keepdims=True)
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale.reshape(1, 1, 1, -1)) + bias.reshape(1, 1, 1, -1)


def local_response_norm(
    inputs: jax.Array, *, size: int = 4, alpha: float = 0.001 / 9, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """x / (k + alpha * mean of x^2 over `size` neighbouring channels)^beta, channels last (Krizhevsky et al., 2012)."""
    channels, before = inputs.shape[-1], size // 2  # an even window reaches one channel further down than up
    # Sums over neighbours as a product: as sums of slices, a second derivative is a dozen arrays, each padded by itself.
    window = sum(np.eye(channels, k=before - i) for i in range(size)) / size
    with jax.default_matmul_precision("float32"):
        mean = product((inputs**2).reshape(-1, channels), jnp.asarray(window, inputs.dtype)).reshape(inputs.shape)
    return inputs * _inverse_power(k + alpha * mean, beta)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _inverse_power(x: jax.Array, beta: float) -> jax.Array:
    """x ** -beta, for x > 0: of beta = 3/4 by square roots, which cost far less than an exponential of a logarithm."""
    if beta != 0.75:
        return x**-beta
    root = jax.lax.rsqrt(x)
    return root * jnp.sqrt(root)


@_inverse_power.defjvp
def _(beta: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    value = _inverse_power(x, beta)
    return value, -beta * value / x * tangent


def _native_conv(inputs: jax.Array, kernel: jax.Array, padding: int, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
