"""ImageNet weights of torchvision's AlexNet as parameters of `AlexNet` (Dataset Distillation, table 3)."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddjax.errors import InputError, one_line

IMAGENET_SHAPE = (224, 224, 3)

# Our layer -> torchvision's, and the shape of its weight there: [out, in, height, width] or [out, in].
_LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "conv1": ("features.0", (64, 3, 11, 11)),
    "conv2": ("features.3", (192, 64, 5, 5)),
    "conv3": ("features.6", (384, 192, 3, 3)),
    "conv4": ("features.8", (256, 384, 3, 3)),
    "conv5": ("features.10", (256, 256, 3, 3)),
    "dense1": ("classifier.1", (4096, 256 * 6 * 6)),
    "dense2": ("classifier.4", (4096, 4096)),
}
_WANTED = "torchvision's AlexNet weights (the file alexnet-owt-7be5be79.pth, or the same tensors as .safetensors)"


def load_imagenet_alexnet(
    path: str | os.PathLike[str], num_classes: int, *, input_shape: tuple[int, ...] = IMAGENET_SHAPE
) -> dict[str, Any]:
    """Parameters of `AlexNet` from torchvision's file, the last layer restarted with W = 0 and b = 1 as in the paper.

    Args:
      path: a `.pth` file, which needs PyTorch to read and is read without running any code of its own, or a `.safetensors`
        file with the same names: `features.0.weight` to `classifier.4.bias`.
      num_classes: K, of the new last layer; the file's own is not used.
      input_shape: of the pictures that the network is meant for; these weights fit 224x224x3 alone.

    Returns:
      {layer: {"kernel", "bias"}}, float32; kernels [height, width, in, out] and [in, out].

    Raises:
      InputError: no such file, one that is damaged or holds something else, PyTorch missing, or other pictures.
    """
    if tuple(input_shape) != IMAGENET_SHAPE:
        raise InputError(
            f"the ImageNet weights of AlexNet read pictures of 224x224x3, but the examples have shape {list(input_shape)}: "
            "add --pictures 224x224x3"
        )
    tensors = _read(path)
    params: dict[str, Any] = {}
    for layer, (name, shape) in _LAYERS.items():
        kernel, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        if layer == "dense1":  # its inputs are ordered (channel, height, width) there and (height, width, channel) here
            kernel = kernel.reshape(4096, 256, 6, 6).transpose(0, 2, 3, 1).reshape(shape)
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        params[layer] = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    params["dense3"] = {"kernel": jnp.zeros((4096, num_classes)), "bias": jnp.ones(num_classes)}
    return params


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of the file by name, checked."""
    file = Path(path).expanduser()
    if not os.fspath(path) or not file.is_file():
        missing = f"{file}: there is no such file" if os.fspath(path) else "no ImageNet weights are given"
        raise InputError(f"{missing}: save {_WANTED} and say where with --checkpoint PATH")
    readers = {".safetensors": _read_safetensors, ".pth": _read_pth}
    if file.suffix not in readers:
        raise InputError(f"{file} ends in neither .pth nor .safetensors: give {_WANTED} with --checkpoint PATH")
    tensors = readers[file.suffix](file)
    for name, shape in _LAYERS.values():
        for part, expected in ((f"{name}.weight", shape), (f"{name}.bias", shape[:1])):
            if part not in tensors:
                raise InputError(f"{file} has no tensor {part}: give {_WANTED}")
            tensor = tensors[part]
            if tensor.shape != expected or tensor.dtype.kind != "f":
                raise InputError(
                    f"{file} has {part} as {tensor.dtype} {list(tensor.shape)}, not float32 {list(expected)}: give {_WANTED}"
                )
            if not np.isfinite(tensor).all():
                raise InputError(f"{file} has values in {part} that are not finite: save the file again")
    return tensors


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    import safetensors.numpy  # as PyTorch below: for those who have such a file alone

    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        # The last for number types that NumPy does not know.
        raise InputError(f"{file} is damaged or no safetensors file: save it again ({one_line(error)})") from error


def _read_pth(file: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {file} needs PyTorch: install torch, or convert the file to .safetensors where torch is installed"
        ) from error
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    except MemoryError:
        raise
    except Exception as error:  # pickle, zipfile, struct and PyTorch each raise their own
        raise InputError(f"{file} is damaged or holds no state dict: save it again ({one_line(error)})") from error
