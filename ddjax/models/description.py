"""The words in which the header of an artefact tells a network: its layers in order, enough to build it again anywhere.

Each is a dict that JSON holds, `layer` what it is. Pictures are [height, width, channel]; `name` is what its weights are
called, `params/NAME/kernel` and so on: convolutions' kernels are [height, width, inputs, outputs], those of dense layers
[inputs, outputs]. Padding is on each side, zeros before a convolution and what never wins before a maximum; a last row or
column that no whole window reaches is dropped. `flatten` takes a picture's values in the order row, column, channel.
"""

from typing import Any

Layer = dict[str, Any]

RELU: Layer = {"layer": "relu"}
FLATTEN: Layer = {"layer": "flatten"}


def convolution(name: str, channels: int, kernel: int, padding: int, stride: int = 1) -> Layer:
    sizes = {"channels": channels, "kernel": kernel, "stride": stride, "padding": padding}
    return {"layer": "convolution", "name": name, **sizes}


def dense(name: str, units: int) -> Layer:
    return {"layer": "dense", "name": name, "units": units}


def max_pool(window: int, stride: int, padding: int = 0) -> Layer:
    return {"layer": "max_pool", "window": window, "stride": stride, "padding": padding}


def average_pool(window: int) -> Layer:
    return {"layer": "average_pool", "window": window, "stride": window, "padding": 0}


def instance_norm(name: str) -> Layer:
    """Of each channel of each picture; weights `scale` and `bias`."""
    return {"layer": "instance_norm", "name": name, "epsilon": 1e-5}


def local_response_norm() -> Layer:
    """x / (k + alpha * mean of x^2 over `size` channels, from size // 2 below on)^beta, as PyTorch's of that name."""
    return {"layer": "local_response_norm", "size": 4, "alpha": 0.001 / 9, "beta": 0.75, "k": 1.0}


def mlp(widths: tuple[int, ...], num_classes: int) -> list[Layer]:
    """Dense layers with ReLUs between."""
    hidden = [layer for i, width in enumerate(widths, start=1) for layer in (dense(f"dense{i}", width), RELU)]
    return [FLATTEN, *hidden, dense(f"dense{len(widths) + 1}", num_classes)]
