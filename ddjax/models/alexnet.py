"""AlexCifarNet (the architecture of cuda-convnet), the paper's network for CIFAR-10 and SVHN, and AlexNet for 224x224."""

from functools import partial

import flax.linen as nn
import jax

from ddjax.models import description as tell
from ddjax.models.model import pictures_from
from ddjax.models.ops.gates import relu
from ddjax.models.ops.layers import Conv, Dense, local_response_norm, max_pool_3x3


class AlexCifarNet(nn.Module):
    """5x5x64, max-pool 3/2, LRN; 5x5x64, LRN, max-pool 3/2; 384, 192, K. ReLU after each; 32x32 inputs -> 8x8x64.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero.
      gate_width: width of the surrogate gates of ReLUs and maxima (see `gates`); 0 is exact.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    gate_width: float = 0.0

    check_input = staticmethod(pictures_from(8, "AlexCifarNet"))

    def layers(self, input_shape: tuple[int, ...]) -> list[tell.Layer]:
        """See `description`."""
        pool, norm = tell.max_pool(3, 2, 1), tell.local_response_norm()
        first = [tell.convolution("conv1", 64, 5, 2), pool, tell.RELU, norm]
        second = [tell.convolution("conv2", 64, 5, 2), tell.RELU, norm, pool]
        return [*first, *second, *tell.mlp((384, 192), self.num_classes)]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.gate_width
        # The rectifier commutes with the maximum, and follows it, on a quarter of the values.
        x = relu(max_pool_3x3(Conv(64, 5, 2, self.kernel_init, name="conv1")(x), gate_width=width), width)
        x = relu(Conv(64, 5, 2, self.kernel_init, name="conv2")(local_response_norm(x)), width)
        x = max_pool_3x3(local_response_norm(x), gate_width=width)
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate((384, 192), start=1):
            x = relu(Dense(features, self.kernel_init, name=f"dense{i}")(x), width)
        return Dense(self.num_classes, self.kernel_init, name="dense3")(x)


# Of AlexNet: channels, size, stride, padding; and after which of them, from one on, a maximum is taken.
_CONVOLUTIONS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
_POOLED = (1, 2, 5)


class AlexNet(nn.Module):
    """As in torchvision ("One weird trick", arXiv 1404.5997), without dropout; 224x224 inputs -> 6x6x256 -> 4096, 4096, K.

    11x11x64 at stride 4, 5x5x192, 3x3x384, 3x3x256, 3x3x256, each with ReLU; max-pool 3/2 after the first, second and
    last. Other sizes give the first dense layer another number of inputs, where torchvision would resample to 6x6.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of every kernel; biases start at zero.
      gate_width: width of the surrogate gates of ReLUs and maxima (see `gates`); 0 is exact.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    gate_width: float = 0.0

    check_input = staticmethod(pictures_from(63, "AlexNet"))

    def layers(self, input_shape: tuple[int, ...]) -> list[tell.Layer]:
        """See `description`."""
        layers: list[tell.Layer] = []
        for i, (features, size, stride, padding) in enumerate(_CONVOLUTIONS, start=1):
            layers.append(tell.convolution(f"conv{i}", features, size, padding, stride))
            layers += [tell.max_pool(3, 2), tell.RELU] if i in _POOLED else [tell.RELU]
        return [*layers, *tell.mlp((4096, 4096), self.num_classes)]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, kernel_init=self.kernel_init)
        for i, (features, size, stride, padding) in enumerate(_CONVOLUTIONS, start=1):
            x = conv(features, size, padding, stride=stride, name=f"conv{i}")(x)
            x = max_pool_3x3(x, padding=0, gate_width=self.gate_width) if i in _POOLED else x
            x = relu(x, self.gate_width)
        x = x.reshape(x.shape[0], -1)
        for i in (1, 2):
            x = relu(Dense(4096, self.kernel_init, name=f"dense{i}")(x), self.gate_width)
        return Dense(self.num_classes, self.kernel_init, name="dense3")(x)
