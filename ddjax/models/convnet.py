"""ConvNet, the network that benchmarks of dataset condensation have in common."""

import flax.linen as nn
import jax

from ddjax.errors import InputError
from ddjax.models import description as tell
from ddjax.models.model import pictures_from
from ddjax.models.ops.gates import relu
from ddjax.models.ops.layers import Conv, Dense, InstanceNorm, average_pool_2x2


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, InstanceNorm, ReLU and 2x2 average pooling, then one dense layer.

    As in Dataset Condensation (Zhao et al., 2021, arXiv 2006.05929) and the benchmarks since; 28x28 inputs are padded to
    32x32 there and here. 32x32 inputs at depth 3 -> 4x4x128. Its convolutions' biases, which the norm takes away again,
    have no effect; they are kept, so that weights can be exchanged.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero, scales at one.
      width: channels of every convolution.
      depth: blocks; each halves the sides, which must leave one pixel at least.
      gate_width: width of the surrogate gates of the ReLUs (see `gates`); 0 is exact.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    width: int = 128
    depth: int = 3
    gate_width: float = 0.0

    def check_input(self, input_shape: tuple[int, ...]) -> None:
        """Raises InputError for examples that are no pictures or too small for the depth."""
        if self.width < 1 or self.depth < 1:
            raise InputError(f"a ConvNet of width {self.width} and depth {self.depth}: give 1 or more of each")
        pictures_from(2**self.depth, f"ConvNet of depth {self.depth}")(input_shape)

    def layers(self, input_shape: tuple[int, ...]) -> list[tell.Layer]:
        """See `description`."""
        blocks = [
            [tell.convolution(f"conv{i}", self.width, 3, padding), tell.instance_norm(f"norm{i}"), tell.RELU]
            for i, padding in enumerate(self._paddings(input_shape), start=1)
        ]
        pooled = [layer for block in blocks for layer in (*block, tell.average_pool(2))]
        return [*pooled, tell.FLATTEN, tell.dense("dense", self.num_classes)]

    def _paddings(self, input_shape: tuple[int, ...]) -> list[int]:
        return [3 if tuple(input_shape[:2]) == (28, 28) else 1, *(1,) * (self.depth - 1)]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, padding in enumerate(self._paddings(x.shape[1:]), start=1):
            x = Conv(self.width, 3, padding, self.kernel_init, name=f"conv{i}")(x)
            x = average_pool_2x2(relu(InstanceNorm(name=f"norm{i}")(x), self.gate_width))
        return Dense(self.num_classes, self.kernel_init, name="dense")(x.reshape(x.shape[0], -1))
