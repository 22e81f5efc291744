"""AlexCifarNet, the paper's network for CIFAR-10 and SVHN (the architecture of cuda-convnet)."""

import flax.linen as nn
import jax

from ddjax.models.gates import relu
from ddjax.models.layers import Conv, Dense, local_response_norm, max_pool_3x3


class AlexCifarNet(nn.Module):
    """5x5x64, max-pool 3/2, LRN; 5x5x64, LRN, max-pool 3/2; 384, 192, K. ReLU after each; 32x32 inputs -> 8x8x64.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero.
      gate_width: width of the surrogate gates of the ReLUs (see `gates`; the overlapping maxima stay exact); 0 is exact.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    gate_width: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = relu(Conv(64, 5, 2, self.kernel_init, name="conv1")(x), self.gate_width)
        x = local_response_norm(max_pool_3x3(x))
        x = relu(Conv(64, 5, 2, self.kernel_init, name="conv2")(x), self.gate_width)
        x = max_pool_3x3(local_response_norm(x))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((384, 192), start=1):
            x = relu(Dense(width, self.kernel_init, name=f"dense{i}")(x), self.gate_width)
        return Dense(self.num_classes, self.kernel_init, name="dense3")(x)
