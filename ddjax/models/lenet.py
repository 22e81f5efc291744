"""LeNet as in the paper's experiments on digits."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from ddjax.models.gates import relu
from ddjax.models.layers import Conv


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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation = self.activation or partial(relu, width=self.gate_width)
        padding = 2 if min(x.shape[1:3]) < 32 else 0
        x = activation(Conv(6, 5, padding, self.kernel_init, pooled=True, gate_width=self.gate_width, name="conv1")(x))
        x = activation(Conv(16, 5, 0, self.kernel_init, pooled=True, gate_width=self.gate_width, name="conv2")(x))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((120, 84), start=1):
            x = activation(nn.Dense(width, kernel_init=self.kernel_init, name=f"dense{i}")(x))
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="dense3")(x)
