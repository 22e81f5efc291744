"""A network trained on a distilled set in plain JAX, from the file alone; ddjax is not needed.

    pip install jax safetensors
    python examples/train_in_jax.py runs/digits/distilled.safetensors --test digits.npz

`--test` is as for `train_in_pytorch.py`.
"""

import argparse
import base64
import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file


def network(layers, weights, x):
    """Logits [n, K] of inputs [n, H, W, C] or [n, ...]: the layers that the file's header lists, one after the other."""
    for layer in layers:
        kind, name = layer["layer"], layer.get("name")
        if kind == "convolution":
            strides, padding = (layer["stride"],) * 2, ((layer["padding"],) * 2,) * 2
            dimensions = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(
                x, weights[f"{name}/kernel"], strides, padding, dimension_numbers=dimensions
            )
            x += weights[f"{name}/bias"]
        elif kind == "dense":
            x = x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]
        elif kind == "relu":
            x = jax.nn.relu(x)
        elif kind == "max_pool":
            x = over_windows(x, -jnp.inf, jax.lax.max, layer)
        elif kind == "average_pool":
            x = over_windows(x, 0.0, jax.lax.add, layer) / layer["window"] ** 2
        elif kind == "instance_norm":
            mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
            x = (x - mean) / jnp.sqrt(variance + layer["epsilon"]) * weights[f"{name}/scale"] + weights[f"{name}/bias"]
        elif kind == "local_response_norm":
            before, after = layer["size"] // 2, (layer["size"] - 1) // 2
            window = (1, 1, 1, layer["size"])
            square = jax.lax.reduce_window(x**2, 0.0, jax.lax.add, window, (1,) * 4, ((0, 0),) * 3 + ((before, after),))
            x = x / (layer["k"] + layer["alpha"] * square / layer["size"]) ** layer["beta"]
        elif kind == "flatten":
            x = x.reshape(len(x), -1)  # in the order row, column, channel
        else:
            raise ValueError(f"unknown layer {kind!r}")
    return x


def over_windows(x, start, join, layer):
    window, stride = (1, layer["window"], layer["window"], 1), (1, layer["stride"], layer["stride"], 1)
    around = ((0, 0), *((layer["padding"],) * 2,) * 2, (0, 0))
    return jax.lax.reduce_window(x, start, join, window, stride, around)


def fresh_weights(shapes, distribution, key):
    """Normal kernels, of variance 2 / (inputs + outputs) for "xavier" and 2 / inputs for "he"; scales one, biases zero."""
    weights = {}
    for number, (name, shape) in enumerate(shapes.items()):
        if name.endswith("kernel"):
            field = int(np.prod(shape[:-2]))
            inputs, outputs = field * shape[-2], field * shape[-1]
            variance = 2 / (inputs + outputs) if distribution == "xavier" else 2 / inputs
            weights[name] = variance**0.5 * jax.random.normal(jax.random.fold_in(key, number), shape)
        else:
            weights[name] = jnp.ones(shape) if name.endswith("scale") else jnp.zeros(shape)
    return weights


def train(layers, weights, images, labels, learning_rates):
    """Plain gradient descent: each epoch takes the steps in their order, each with its own learning rate."""

    def loss(weights, inputs, targets):
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(network(layers, weights, inputs)), axis=1))

    @jax.jit
    def step(weights, inputs, targets, rate):
        gradients = jax.grad(loss)(weights, inputs, targets)
        return jax.tree.map(lambda weight, gradient: weight - rate * gradient, weights, gradients)

    for rates in learning_rates:
        for inputs, targets, rate in zip(images, labels, rates, strict=True):
            weights = step(weights, inputs, targets, rate)
    return weights


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
    right = [
        np.asarray(network(layers, weights, inputs[i : i + 1000])).argmax(1) == labels[i : i + 1000]
        for i in range(0, len(labels), 1000)
    ]
    return 100 * np.concatenate(right).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="distilled.safetensors")
    parser.add_argument("--test", required=True, help="an .npz file with x_test and y_test")
    parser.add_argument("--networks", type=int, default=5, help="fresh networks, where no weights are in the file")
    args = parser.parse_args()

    tensors = load_file(args.path)
    with safe_open(args.path, framework="numpy") as file:
        story = json.loads(file.metadata()["ddjax"])
    model, data = story["model"], np.load(args.test)
    if "layers" not in model:
        parser.error(f"{args.path} lists no layers: it is older than they are, or for a network of someone's own")
    if story["recipe"]["inner"]["direction"] != "gd":
        parser.error(f"{args.path} is for another optimiser than plain gradient descent")
    inputs, labels = transformed(data["x_test"], story["transform"]), data["y_test"]

    fixed = {name.removeprefix("params/"): t for name, t in tensors.items() if name.startswith("params/")}
    shapes = {name.removeprefix("params/"): shape for name, shape in model["weights"].items()}
    found = []
    for key in jax.random.split(jax.random.key(0), 1 if fixed else args.networks):
        weights = fixed or fresh_weights(shapes, story["recipe"]["network"]["weights"], key)
        trained = train(model["layers"], weights, *(tensors[n] for n in ("images", "labels", "learning_rates")))
        found.append([accuracy(model["layers"], now, inputs, labels) for now in (weights, trained)])
    before, after = np.array(found).T
    print(f"{len(labels)} test examples, {len(found)} network{'s' * (len(found) > 1)}")
    print(f"before {before.mean():.2f} %, after {after.mean():.2f} ± {after.std():.2f} %")


if __name__ == "__main__":
    main()
