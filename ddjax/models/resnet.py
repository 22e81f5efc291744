"""A small residual network, to see how distilled data transfer to networks of another kind."""

import flax.linen as nn
import jax

from ddjax.errors import InputError
from ddjax.models.model import pictures_from
from ddjax.models.ops.gates import relu
from ddjax.models.ops.layers import Conv, Dense, average_pool_2x2

_GROUPS = 8


class ResNet(nn.Module):
    """Three stages of one residual block (He et al., 2015) of two 3x3 convolutions each, with GroupNorm in place of BatchNorm.

    Channels double and sides halve, by average pooling, from stage to stage; then the mean over the picture and one dense
    layer. It has no running state, and so can be distilled for as well.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero, scales at one.
      width: channels of the first stage, a multiple of 8.
      gate_width: width of the surrogate gates of the ReLUs (see `gates`); 0 is exact.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    width: int = 32
    gate_width: float = 0.0

    def check_input(self, input_shape: tuple[int, ...]) -> None:
        """Raises InputError for examples that are no pictures, and for a width that does not divide into groups."""
        if self.width < 1 or self.width % _GROUPS:
            raise InputError(
                f"a ResNet of width {self.width}: give a multiple of {_GROUPS}, for its groups of channels"
            )
        pictures_from(4, "ResNet")(input_shape)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self._normed(Conv(self.width, 3, kernel_init=self.kernel_init, name="stem")(x), "stem_norm")
        for stage in range(3):
            channels = self.width * 2**stage
            if stage:
                x = Conv(channels, 1, kernel_init=self.kernel_init, name=f"widen{stage}")(average_pool_2x2(x))
            y = x
            for i in (1, 2):
                y = relu(self._normed(y, f"norm{stage}_{i}"), self.gate_width)
                y = Conv(channels, 3, kernel_init=self.kernel_init, name=f"conv{stage}_{i}")(y)
            x = x + y
        x = relu(self._normed(x, "last_norm"), self.gate_width)
        return Dense(self.num_classes, self.kernel_init, name="dense")(x.mean(axis=(1, 2)))

    def _normed(self, x: jax.Array, name: str) -> jax.Array:
        normed: jax.Array = nn.GroupNorm(_GROUPS, name=name)(x)
        return normed
