"""Networks behind `Model(init, apply)`, by name for recipes and artefacts. Flax is used here and nowhere else."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ddjax.errors import InputError
from ddjax.models.alexnet import AlexCifarNet, AlexNet
from ddjax.models.convnet import ConvNet
from ddjax.models.description import Layer
from ddjax.models.frozen import freeze, load_weights, trained_part
from ddjax.models.imagenet import load_imagenet_alexnet
from ddjax.models.lenet import LeNet
from ddjax.models.mlp import MLP, Linear
from ddjax.models.model import Model, check_model, from_linen, from_nnx
from ddjax.models.ops.fast import fast_convolutions
from ddjax.models.ops.layers import (
    XAVIER,
    Conv,
    Dense,
    InstanceNorm,
    average_pool_2x2,
    max_pool_2x2,
    max_pool_3x3,
)
from ddjax.models.own import load_model
from ddjax.models.resnet import ResNet
from ddjax.recipes import Network

__all__ = [
    "MLP",
    "MODELS",
    "WEIGHT_INITS",
    "AlexCifarNet",
    "AlexNet",
    "Conv",
    "ConvNet",
    "Dense",
    "InstanceNorm",
    "LeNet",
    "Linear",
    "Model",
    "ResNet",
    "average_pool_2x2",
    "build_model",
    "check_model",
    "describe_model",
    "fast_convolutions",
    "freeze",
    "from_linen",
    "from_nnx",
    "load_imagenet_alexnet",
    "load_model",
    "load_weights",
    "max_pool_2x2",
    "max_pool_3x3",
    "model_of",
    "trained_part",
    "width_of",
]

# `(num_classes, kernel_init, **options) -> module`; its options are its other fields. What inputs it reads it says itself,
# in a method `check_input` if not in every shape.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "alexcifar": AlexCifarNet,
    "alexnet": AlexNet,
    "convnet": ConvNet,
    "resnet": ResNet,
    "mlp": MLP,
    "linear": Linear,
}

# The first is the authors' choice; He normal, of variance 2 / fan_in, not truncated either, is for ReLU networks.
WEIGHT_INITS = {
    "xavier": XAVIER,
    "he": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
}


def build_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    weights: str = "xavier",
    gate_width: float = 0.0,
    **options: Any,
) -> Model:
    """The network `name` for inputs of `input_shape` and `num_classes` classes.

    Args:
      name: key of `MODELS`, or a network of one's own as "path/to/file.py:Name" (see `load_model`), which brings its own
        distribution of weights and its own derivatives.
      input_shape: shape of one example: [H, W, C] for the convolutional networks, anything for the others.
      num_classes: K.
      weights: key of `WEIGHT_INITS`, the distribution of fresh kernels.
      gate_width: of the surrogate gates in second derivatives (see `gates`); 0 is exact. Nothing else depends on it, and a
        network without gates does not know it: `Model.gated` tells.
      options: of this network alone, such as `widths` of "mlp".

    Raises:
      InputError: unknown name or option, or a network that cannot read such inputs.
    """
    if weights not in WEIGHT_INITS:
        raise InputError(f"unknown weight initialisation {weights!r}: choose one of {', '.join(WEIGHT_INITS)}")
    own = ".py:" in name
    if name not in MODELS and not own:
        raise InputError(
            f"unknown model {name!r}: choose one of {', '.join(MODELS)}, or your own as path/to/file.py:Name"
        )
    parameters = {} if own else inspect.signature(MODELS[name]).parameters
    if unknown := sorted(set(options) - set(parameters)):
        raise InputError(f"model {name!r} has no option {', '.join(unknown)}: leave it out")
    if own:
        return load_model(name, input_shape, num_classes)
    gated = "gate_width" in parameters
    given = {"gate_width": gate_width, **options} if gated else options
    module = MODELS[name](num_classes=num_classes, kernel_init=WEIGHT_INITS[weights], **given)
    return from_linen(module, input_shape, num_classes)._replace(gated=gated)


def width_of(network: Network) -> int:
    """The width of the network that a recipe names, its own where none is given.

    Raises:
      InputError: it has none.
    """
    known = inspect.signature(MODELS[network.model]).parameters if network.model in MODELS else {}
    if "width" not in known:
        raise InputError(f"model {network.model!r} has no width that could be narrower: leave --narrow out")
    width: int = known["width"].default if network.width is None else network.width
    return width


def describe_model(network: Network, input_shape: tuple[int, ...], num_classes: int) -> list[Layer] | None:
    """The layers of the network that a recipe names, as `description` has them; None of one's own network, and of one
    whose layers are not in a row."""
    if network.model not in MODELS:
        return None
    module: Any = MODELS[network.model](num_classes=num_classes, kernel_init=XAVIER, **_options(network))
    layers: list[Layer] | None = module.layers(input_shape) if hasattr(module, "layers") else None
    return layers


def _options(network: Network) -> dict[str, int]:
    given = {"width": network.width, "depth": network.depth}
    return {name: value for name, value in given.items() if value is not None}


def model_of(network: Network, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """The network that the settings of a recipe name: distilling, pools and artefacts all have theirs from here.

    Raises:
      InputError: as `build_model`.
    """
    return build_model(
        network.model,
        input_shape,
        num_classes,
        weights=network.weights,
        gate_width=network.gate_width,
        **_options(network),
    )
