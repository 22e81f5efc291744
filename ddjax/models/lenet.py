"""LeNet as in the paper's experiments on digits."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from ddjax.models import description as tell
from ddjax.models.model import pictures_from
from ddjax.models.ops.gates import Mean, relu
from ddjax.models.ops.layers import ConvPool, Dense, arrange, flatten


class LeNet(nn.Module):
    """5x5x6 convolution, 2x2 max-pool, 5x5x16, max-pool, 120, 84, K; padding 2 on inputs below 32x32 (28x28 -> 14 -> 5).

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero.
      gate_width: width of the surrogate gates of ReLUs and maxima (see `gates`); 0 is exact.
      activation: instead of ReLU; monotone, since it is applied after the pooling it commutes with.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    gate_width: float = 0.0
    activation: Callable[[jax.Array], jax.Array] | None = None

    check_input = staticmethod(pictures_from(12, "LeNet"))

    def layers(self, input_shape: tuple[int, ...]) -> list[tell.Layer]:
        """See `description`."""
        first = [tell.convolution("conv1", 6, 5, _padding(input_shape)), tell.max_pool(2, 2), tell.RELU]
        second = [tell.convolution("conv2", 16, 5, 0), tell.max_pool(2, 2), tell.RELU]
        return [*first, *second, *tell.mlp((120, 84), self.num_classes)]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def activation(x: jax.Array, **layout: Mean) -> jax.Array:
            return relu(x, self.gate_width, **layout) if self.activation is None else self.activation(x)

        pooled = partial(ConvPool, kernel_init=self.kernel_init, activation=activation, gate_width=self.gate_width)
        pictures = pooled(6, 5, _padding(x.shape[1:]), name="conv1")(arrange(x))
        x = flatten(pooled(16, 5, 0, name="conv2")(pictures))
        for i, width in enumerate((120, 84), start=1):
            x = activation(Dense(width, self.kernel_init, name=f"dense{i}")(x))
        return Dense(self.num_classes, self.kernel_init, name="dense3")(x)


def _padding(input_shape: tuple[int, ...]) -> int:
    return 2 if min(input_shape[:2]) < 32 else 0
