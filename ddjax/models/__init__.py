"""Networks behind `Model(init, apply)`, by name for recipes and artefacts. Flax is used here and nowhere else."""

import functools
from collections.abc import Callable

import flax.linen as nn

from ddjax.errors import InputError
from ddjax.models.alexnet import AlexCifarNet, AlexNet
from ddjax.models.imagenet import load_imagenet_alexnet
from ddjax.models.lenet import LeNet
from ddjax.models.mlp import MLP
from ddjax.models.model import Model, from_linen, from_nnx

__all__ = [
    "MLP",
    "MODELS",
    "WEIGHT_INITS",
    "AlexCifarNet",
    "AlexNet",
    "LeNet",
    "Model",
    "build_model",
    "from_linen",
    "from_nnx",
    "load_imagenet_alexnet",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "alexcifar": AlexCifarNet,
    "alexnet": AlexNet,
    "mlp": MLP,
    "linear": functools.partial(MLP, widths=()),
}

# Xavier (Glorot) normal with gain 1 is the authors' choice; He normal is for ReLU networks.
WEIGHT_INITS = {
    "xavier": nn.initializers.glorot_normal(),
    "he": nn.initializers.he_normal(),
}

_SMALLEST_PICTURE = {"lenet": 12, "alexcifar": 8, "alexnet": 63}


def build_model(
    name: str, input_shape: tuple[int, ...], num_classes: int, *, weights: str = "xavier", gate_width: float = 0.0
) -> Model:
    """The network `name` of `MODELS` for inputs of `input_shape` and `num_classes` classes.

    Args:
      name: key of `MODELS`.
      input_shape: shape of one example: [H, W, C] for the convolutional networks, anything for the others.
      num_classes: K.
      weights: key of `WEIGHT_INITS`, the distribution of fresh kernels.
      gate_width: of the surrogate gates in second derivatives (see `gates`); 0 is exact. Nothing else depends on it.

    Raises:
      InputError: unknown name, or a network that cannot read such inputs.
    """
    for value, known, what in ((name, MODELS, "model"), (weights, WEIGHT_INITS, "weight initialisation")):
        if value not in known:
            raise InputError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")
    smallest = _SMALLEST_PICTURE.get(name)
    if smallest and (len(input_shape) != 3 or min(input_shape[:2]) < smallest):
        raise InputError(
            f"model {name!r} reads pictures [height, width, channels] of at least {smallest}x{smallest}, "
            f"but the examples have shape {list(input_shape)}: choose --model mlp or linear, or resize the pictures"
        )
    module = MODELS[name](num_classes=num_classes, kernel_init=WEIGHT_INITS[weights], gate_width=gate_width)
    return from_linen(module, input_shape)
