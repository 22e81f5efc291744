"""Networks for any feature shape: a multi-layer perceptron, and the linear model."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from ddjax.models import description as tell
from ddjax.models.ops.gates import relu
from ddjax.models.ops.layers import Dense


class MLP(nn.Module):
    """Flattens its input, then dense layers of the given widths with an activation between, then K logits.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero.
      widths: hidden widths.
      gate_width: width of the surrogate gates of the ReLUs (see `gates`); 0 is exact.
      activation: instead of ReLU, after each hidden layer.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    widths: tuple[int, ...] = (128,)
    gate_width: float = 0.0
    activation: Callable[[jax.Array], jax.Array] | None = None

    def layers(self, input_shape: tuple[int, ...]) -> list[tell.Layer]:
        """See `description`."""
        return tell.mlp(self.widths, self.num_classes)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation = self.activation or partial(relu, width=self.gate_width)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths, start=1):
            x = activation(Dense(width, self.kernel_init, name=f"dense{i}")(x))
        return Dense(self.num_classes, self.kernel_init, name=f"dense{len(self.widths) + 1}")(x)


class Linear(nn.Module):
    """Flattens its input, then one dense layer with bias: K logits. Without gates, so that it has no `gate_width`.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of the kernel; the bias starts at zero.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer

    def layers(self, input_shape: tuple[int, ...]) -> list[tell.Layer]:
        """See `description`."""
        return tell.mlp((), self.num_classes)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Dense(self.num_classes, self.kernel_init, name="dense1")(x.reshape(x.shape[0], -1))
