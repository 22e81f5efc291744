"""A network trained on a distilled set in PyTorch, from the file alone; neither ddjax nor JAX is needed.

    pip install torch safetensors numpy
    python examples/train_in_pytorch.py runs/digits/distilled.safetensors --test digits.npz

`--test` is a file with `x_test` (pictures [N, H, W, C] of bytes, or what else the data set has) and `y_test` [N]. For a data
set of ddjax's catalogue, this makes it:

    python -c "import ddjax, numpy; d = ddjax.load_dataset('digits')
    numpy.savez('digits.npz', x_test=d.x_test, y_test=d.y_test)"
"""

import argparse
import base64
import json

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional


def network(layers, weights, x):
    """Logits [n, K] of inputs [n, H, W, C] or [n, ...]: the layers that the file's header lists, one after the other."""
    pictures = x.ndim == 4
    x = x.movedim(-1, 1) if pictures else x  # PyTorch has channels first
    for layer in layers:
        kind, name = layer["layer"], layer.get("name")
        if kind == "convolution":
            kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
            x = functional.conv2d(x, kernel, weights[f"{name}/bias"], layer["stride"], layer["padding"])
        elif kind == "dense":
            x = x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]
        elif kind == "relu":
            x = functional.relu(x)
        elif kind == "max_pool":
            x = functional.max_pool2d(x, layer["window"], layer["stride"], layer["padding"])
        elif kind == "average_pool":
            x = functional.avg_pool2d(x, layer["window"], layer["stride"])
        elif kind == "instance_norm":
            x = functional.instance_norm(
                x, weight=weights[f"{name}/scale"], bias=weights[f"{name}/bias"], eps=layer["epsilon"]
            )
        elif kind == "local_response_norm":
            x = functional.local_response_norm(x, layer["size"], layer["alpha"], layer["beta"], layer["k"])
        elif kind == "flatten":
            x = (x.movedim(1, -1) if x.ndim == 4 else x).flatten(1)  # in the order row, column, channel
        else:
            raise ValueError(f"unknown layer {kind!r}")
    return x


def fresh_weights(shapes, distribution, generator):
    """Normal kernels, of variance 2 / (inputs + outputs) for "xavier" and 2 / inputs for "he"; scales one, biases zero."""
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("kernel"):
            field = int(np.prod(shape[:-2]))
            inputs, outputs = field * shape[-2], field * shape[-1]
            variance = 2 / (inputs + outputs) if distribution == "xavier" else 2 / inputs
            weights[name] = variance**0.5 * torch.randn(shape, generator=generator)
        else:
            weights[name] = torch.ones(shape) if name.endswith("scale") else torch.zeros(shape)
    return weights


def train(layers, weights, images, labels, learning_rates):
    """Plain gradient descent: each epoch takes the steps in their order, each with its own learning rate."""
    weights = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    for rates in learning_rates:
        for inputs, targets, rate in zip(images, labels, rates, strict=True):
            loss = functional.cross_entropy(network(layers, weights, inputs), targets)
            gradients = torch.autograd.grad(loss, list(weights.values()))
            with torch.no_grad():
                for weight, gradient in zip(weights.values(), gradients, strict=True):
                    weight -= rate * gradient
    return {name: weight.detach() for name, weight in weights.items()}


def transformed(inputs, transform):
    """Real inputs as the distilled ones are: bytes become fractions of 255 first."""
    inputs = inputs / np.float32(255) if inputs.dtype == np.uint8 else inputs
    inputs = ((inputs - np.float32(transform["mean"])) / np.float32(transform["std"])).astype(np.float32)
    if transform["kind"] == "zca":  # a product with a symmetric matrix, of which the file has the lower triangle
        centre, lower = (np.frombuffer(base64.b64decode(transform[name]), "<f4") for name in ("centre", "matrix"))
        matrix = np.zeros((len(centre), len(centre)), np.float32)
        matrix[np.tril_indices(len(centre))] = lower
        matrix += np.tril(matrix, -1).T
        inputs = ((inputs.reshape(len(inputs), -1) - centre) @ matrix).reshape(inputs.shape)
    return inputs


def accuracy(layers, weights, inputs, labels):
    with torch.no_grad():
        parts = [network(layers, weights, part) for part in inputs.split(1000)]
    return 100 * (torch.cat(parts).argmax(1) == labels).double().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="distilled.safetensors")
    parser.add_argument("--test", required=True, help="an .npz file with x_test and y_test")
    parser.add_argument("--networks", type=int, default=5, help="fresh networks, where no weights are in the file")
    parser.add_argument("--double", action="store_true", help="train in float64, to see what rounding does")
    args = parser.parse_args()

    tensors = load_file(args.path)
    with safe_open(args.path, framework="pt") as file:
        story = json.loads(file.metadata()["ddjax"])
    model, data = story["model"], np.load(args.test)
    if "layers" not in model:
        parser.error(f"{args.path} lists no layers: it is older than they are, or for a network of someone's own")
    if story["recipe"]["inner"]["direction"] != "gd":
        parser.error(f"{args.path} is for another optimiser than plain gradient descent")
    kind = torch.float64 if args.double else torch.float32
    inputs = torch.from_numpy(transformed(data["x_test"], story["transform"])).to(kind)
    labels = torch.from_numpy(data["y_test"].astype(np.int64))

    fixed = {name.removeprefix("params/"): t for name, t in tensors.items() if name.startswith("params/")}
    shapes = {name.removeprefix("params/"): shape for name, shape in model["weights"].items()}
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(1 if fixed else args.networks):
        weights = fixed or fresh_weights(shapes, story["recipe"]["network"]["weights"], generator)
        weights = {name: weight.to(kind) for name, weight in weights.items()}
        steps = (tensors[name].to(kind) for name in ("images", "labels", "learning_rates"))
        trained = train(model["layers"], weights, *steps)
        found.append([accuracy(model["layers"], now, inputs, labels) for now in (weights, trained)])
    before, after = np.array(found).T
    print(f"{len(labels)} test examples, {len(found)} network{'s' * (len(found) > 1)}")
    print(f"before {before.mean():.2f} %, after {after.mean():.2f} ± {after.std():.2f} %")


if __name__ == "__main__":
    main()
