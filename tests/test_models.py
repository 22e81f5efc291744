"""ddjax.models: layers against XLA's own operations and formulas, and the networks of the paper."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_same_derivatives,
    native_conv,
    native_conv_max_pool,
    native_pool,
    random_arrays,
)

from ddjax.errors import InputError
from ddjax.models import MLP, MODELS, WEIGHT_INITS, LeNet, Linear, build_model, from_linen
from ddjax.models.ops import gates, layers, winograd


@pytest.fixture(params=["cpu", "elsewhere"])
def formulation(request, monkeypatch):
    monkeypatch.setattr(layers, "_on_cpu", lambda: request.param == "cpu")


# height, width, kernel size, padding
CONV = [(7, 6, 3, 0), (5, 8, 3, 1), (9, 9, 5, 0), (6, 7, 5, 2), (5, 5, 5, 1), (5, 5, 5, 0)]


@pytest.mark.parametrize(("height", "width", "k", "padding"), CONV)
def test_conv_equals_the_native_one(x64, height, width, k, padding):
    inputs, kernel = random_arrays((2, height, width, 3), (k, k, 3, 4))
    assert_same_derivatives(
        partial(layers.conv, padding=padding), partial(native_conv, padding=padding), inputs, kernel
    )


# Of eight channels on, the form with few multiplications: tiles that fit, that do not, one tile larger than the picture.
@pytest.mark.parametrize(("height", "width", "k", "padding"), [(8, 12, 3, 1), (7, 9, 5, 2), (6, 5, 3, 0), (5, 5, 5, 3)])
def test_conv_of_many_channels_equals_the_native_one(x64, height, width, k, padding):
    inputs, kernel = random_arrays((2, height, width, 8), (k, k, 8, 3))
    assert winograd.suits(kernel, 1) and not winograd.suits(kernel, 2) and not winograd.suits(kernel[:, :, :3], 1)
    with jax.default_matmul_precision("bfloat16"):  # whose rounding it would make worse
        assert not winograd.suits(kernel, 1)
    ours, native = (partial(f, padding=padding) for f in (layers.conv, native_conv))
    assert_same_derivatives(ours, native, inputs, kernel)


@pytest.mark.parametrize("k", [3, 5])
def test_few_multiplications_lose_little_in_float32(k):
    inputs, kernel = (np.random.RandomState(0).normal(size=shape) for shape in ((2, 16, 16, 64), (k, k, 64, 64)))
    exact = native_conv(*(jnp.asarray(x, jnp.float32) for x in (inputs, kernel)), k // 2)
    ours = layers.conv(*(jnp.asarray(x, jnp.float32) for x in (inputs, kernel)), padding=k // 2)
    assert float(jnp.linalg.norm((ours - exact).ravel()) / jnp.linalg.norm(exact.ravel())) < 1e-5


@pytest.mark.parametrize(("height", "k", "padding", "stride"), [(19, 11, 2, 4), (8, 3, 0, 2), (9, 3, 1, 2)])
def test_conv_at_a_stride_equals_the_native_one(x64, formulation, height, k, padding, stride):
    inputs, kernel = random_arrays((2, height, height + 1, 3), (k, k, 3, 4))
    ours, native = (partial(f, padding=padding, stride=stride) for f in (layers.conv, native_conv))
    assert_same_derivatives(ours, native, inputs, kernel)


# Outputs that divide by 4 take tiles of two pools by two, others tiles of one; the last two are odd.
POOLED = [
    (8, 12, 5, 2),
    (6, 10, 3, 0),
    (8, 8, 3, 1),
    (8, 6, 3, 0),
    (8, 10, 5, 2),
    (10, 6, 5, 2),
    (6, 6, 5, 0),
    (9, 7, 5, 1),
    (7, 7, 3, 0),
]


@pytest.mark.parametrize(("height", "width", "k", "padding"), POOLED)
def test_conv_max_pool_equals_the_native_ones(x64, height, width, k, padding):
    inputs, kernel = random_arrays((2, height, width, 3), (k, k, 3, 4))
    assert_same_derivatives(
        partial(layers.conv_max_pool, padding=padding), partial(native_conv_max_pool, padding=padding), inputs, kernel
    )


@pytest.mark.parametrize("shape", [(8, 12, 5, 2), (10, 6, 5, 2)])
@pytest.mark.parametrize("pooled", [False, True])
def test_float32_is_right_within_rounding_in_both_formulations(formulation, pooled, shape):
    height, width, k, padding = shape
    inputs, kernel = random_arrays((2, height, width, 3), (k, k, 3, 4), dtype=np.float32)
    ours, native = (layers.conv_max_pool, native_conv_max_pool) if pooled else (layers.conv, native_conv)
    assert_same_derivatives(
        partial(ours, padding=padding), partial(native, padding=padding), inputs, kernel, tolerance=2e-5
    )


@pytest.mark.parametrize("shape", [(8, 8, 5, 2), (6, 6, 5, 0)])
def test_vmap_over_kernels_equals_the_native_ones(x64, shape):
    height, width, k, padding = shape
    inputs, kernels = random_arrays((2, height, width, 3), (3, k, k, 3, 4))

    def over_kernels(conv, pooled):
        def both(inputs, kernels):
            outs = [jax.vmap(partial(f, padding=padding), in_axes=(None, 0))(inputs, kernels) for f in (conv, pooled)]
            return jnp.concatenate([out.reshape(3, -1) for out in outs], axis=1)

        return both

    ours = over_kernels(layers.conv, layers.conv_max_pool)
    assert_same_derivatives(ours, over_kernels(native_conv, native_conv_max_pool), inputs, kernels)


@pytest.mark.parametrize("pool", ["conv_max_pool", "max_pool_2x2"])
def test_a_tie_goes_to_the_first_as_in_the_native_pooling(pool):
    """Small whole numbers, so that windows tie often and both ways of computing them agree exactly."""
    rng = np.random.RandomState(2)
    inputs, kernel = (jnp.asarray(rng.randint(0, 2, shape), np.float32) for shape in ((3, 8, 8, 1), (3, 3, 1, 5)))
    ours: Any = layers.max_pool_2x2
    native: Any = partial(native_pool, size=2, stride=2, padding=0)
    arguments: tuple[jax.Array, ...] = (inputs,)
    if pool == "conv_max_pool":
        ours = partial(layers.conv_max_pool, padding=1)
        native, arguments = partial(native_conv_max_pool, padding=1), (inputs, kernel)

    def gradients(function):
        numbers = tuple(range(len(arguments)))
        return jax.jit(jax.grad(lambda *a: jnp.sum(function(*a) ** 2), argnums=numbers))(*arguments)

    jax.tree.map(np.testing.assert_array_equal, gradients(ours), gradients(native))


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 5, 2), (1, 2, 3, 1)])
def test_pooling_equals_the_native_one(x64, shape):
    """Torch's semantics: floor mode for 2x2, and 3x3 at stride 2 with one row of padding that never wins."""
    (inputs,) = random_arrays(shape)
    inputs = inputs - 5.0  # all below zero, where padding with zeros would win
    assert_same_derivatives(layers.max_pool_2x2, partial(native_pool, size=2, stride=2, padding=0), inputs)
    assert_same_derivatives(layers.max_pool_3x3, partial(native_pool, size=3, stride=2, padding=1), inputs)
    if shape[1] >= 3:
        ours = partial(layers.max_pool_3x3, padding=0)
        assert_same_derivatives(ours, partial(native_pool, size=3, stride=2, padding=0), inputs)


def test_gates_reach_the_overlapping_maxima(x64):
    """Those along one side, then along the other."""
    (inputs,) = random_arrays((2, 7, 9, 3))
    tangent = jnp.cos(jnp.arange(float(inputs.size))).reshape(inputs.shape)

    def by_hand(x, width):
        x = gates.max_of([x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2]], width)
        return gates.max_of([x[:, :, :-2:2], x[:, :, 1:-1:2], x[:, :, 2::2]], width)

    def moved(pool):
        return jax.jvp(jax.grad(lambda x: jnp.sum(pool(x))), (inputs,), (tangent,))[1]

    found = moved(partial(layers.max_pool_3x3, padding=0, gate_width=0.3))
    np.testing.assert_allclose(found, moved(partial(by_hand, width=0.3)), rtol=1e-12, atol=1e-14)
    assert np.any(found) and not np.any(moved(partial(layers.max_pool_3x3, padding=0)))


@pytest.mark.parametrize("size", [4, 5, None])
def test_local_response_norm_is_its_formula(x64, size):
    """With the constants of the paper's code where none are given: (4, 0.001 / 9, 0.75, 1), in PyTorch's order."""
    (inputs,) = random_arrays((2, 3, 3, 7))
    x, (alpha, beta, k) = np.asarray(inputs), (0.5, 0.6, 2.0) if size else (0.001 / 9, 0.75, 1.0)
    expected = np.empty_like(x)
    for c in range(7):
        window = x[..., max(c - (size or 4) // 2, 0) : c + ((size or 4) - 1) // 2 + 1]  # c-2 .. c+1 for size 4
        expected[..., c] = x[..., c] / (k + alpha * np.sum(window**2, axis=-1) / (size or 4)) ** beta
    options = {"size": size, "alpha": alpha, "beta": beta, "k": k} if size else {}
    np.testing.assert_allclose(layers.local_response_norm(inputs, **options), expected, rtol=1e-13)


def test_local_response_norm_sums_in_float32_whatever_the_precision():
    (inputs,) = random_arrays((2, 3, 3, 7), dtype=np.float32)
    squares = np.pad(np.asarray(inputs, np.float64) ** 2, ((0, 0), (0, 0), (0, 0), (1, 1)))
    expected = inputs / (1 + 0.5 * (squares[..., :-2] + squares[..., 1:-1] + squares[..., 2:]) / 3) ** 0.75
    with jax.default_matmul_precision("bfloat16"):
        found = layers.local_response_norm(inputs, size=3, alpha=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Networks


def shapes_of(model):
    params = jax.eval_shape(model.init, jax.random.key(0))
    return {layer: leaves["kernel"].shape for layer, leaves in params.items()}, params


def count(params):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "input_shape", "features", "total"),
    [
        ("lenet", (28, 28, 1), 400, 61706),
        ("lenet", (32, 32, 3), 400, 62006),
        ("alexcifar", (32, 32, 3), 4096, 1756426),
        ("alexnet", (224, 224, 3), 9216, 57044810),
        ("alexnet", (63, 66, 3), 256, 20344650),
        ("mlp", (28, 28, 1), 784, 101770),
        ("linear", (3, 5), 15, 160),
    ],
)
def test_weights_have_the_shapes_of_the_paper(name, input_shape, features, total):
    kernels, params = shapes_of(build_model(name, input_shape, 10))
    channels = input_shape[-1]
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "lenet": {
            "conv1": (5, 5, channels, 6),
            "conv2": (5, 5, 6, 16),
            "dense1": (features, 120),
            "dense2": (120, 84),
            "dense3": (84, 10),
        },
        "alexcifar": {
            "conv1": (5, 5, channels, 64),
            "conv2": (5, 5, 64, 64),
            "dense1": (features, 384),
            "dense2": (384, 192),
            "dense3": (192, 10),
        },
        "alexnet": {
            "conv1": (11, 11, channels, 64),
            "conv2": (5, 5, 64, 192),
            "conv3": (3, 3, 192, 384),
            "conv4": (3, 3, 384, 256),
            "conv5": (3, 3, 256, 256),
            "dense1": (features, 4096),
            "dense2": (4096, 4096),
            "dense3": (4096, 10),
        },
        "mlp": {"dense1": (features, 128), "dense2": (128, 10)},
        "linear": {"dense1": (features, 10)},
    }
    expected = shapes[name]
    assert kernels == expected and count(params) == total
    for layer, leaves in params.items():
        assert leaves["bias"].shape == expected[layer][-1:]


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_float32_in_double_precision_too(x64, name):
    leaves = jax.tree.leaves(jax.eval_shape(build_model(name, (64, 64, 1), 10).init, jax.random.key(0)))
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


@pytest.mark.parametrize(("weights", "variance"), [("xavier", lambda i, o: 2 / (i + o)), ("he", lambda i, o: 2 / i)])
def test_fresh_weights_have_the_right_spread(weights, variance):
    params = jax.jit(build_model("lenet", (28, 28, 1), 10, weights=weights).init)(jax.random.key(3))
    for layer, leaves in params.items():
        kernel = leaves["kernel"]
        field = int(np.prod(kernel.shape[:-2]))
        expected = np.sqrt(variance(field * kernel.shape[-2], field * kernel.shape[-1]))
        # Four standard errors of a deviation estimated from this many normal weights.
        assert abs(float(jnp.std(kernel)) / expected - 1) < 4 / np.sqrt(2 * kernel.size), layer
        assert abs(float(jnp.mean(kernel))) < 4 * expected / np.sqrt(kernel.size), layer
        assert not np.any(leaves["bias"])
        if kernel.size > 1000:  # normal, with tails where one cut off at two deviations, of this spread, ends at 2.28
            assert float(jnp.max(jnp.abs(kernel))) > 2.6 * expected, layer


def lenet_by_hand(params, x):
    """With XLA's own operations and the pooling after the activation, as the paper has it."""
    padding = 2 if x.shape[1] < 32 else 0
    for layer, pad in (("conv1", padding), ("conv2", 0)):
        x = native_conv(x, params[layer]["kernel"], pad) + params[layer]["bias"].reshape(1, 1, 1, -1)
        x = native_pool(jax.nn.relu(x), 2, 2, 0)
    return dense_by_hand(params, x)


def alexcifar_by_hand(params, x):
    def norm(x):
        squares = [jnp.roll(jnp.pad(x**2, ((0, 0),) * 3 + ((2, 2),)), -o, axis=-1)[..., 2:-2] for o in (-2, -1, 0, 1)]
        return x / (1 + 0.001 / 9 / 4 * sum(squares)) ** 0.75

    for layer, after in (("conv1", (0, 1)), ("conv2", (1, 0))):
        x = jax.nn.relu(native_conv(x, params[layer]["kernel"], 2) + params[layer]["bias"].reshape(1, 1, 1, -1))
        for operation in after:
            x = norm(x) if operation else native_pool(x, 3, 2, 1)
    return dense_by_hand(params, x)


def convnet_by_hand(params, x):
    for i in (1, 2, 3):
        layer, norm = params[f"conv{i}"], params[f"norm{i}"]
        x = native_conv(x, layer["kernel"], 3 if x.shape[1] == 28 else 1) + layer["bias"].reshape(1, 1, 1, -1)
        x = (x - jnp.mean(x, axis=(1, 2), keepdims=True)) / jnp.sqrt(jnp.var(x, axis=(1, 2), keepdims=True) + 1e-5)
        x = jax.nn.relu(x * norm["scale"].reshape(1, 1, 1, -1) + norm["bias"].reshape(1, 1, 1, -1))
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return x.reshape(len(x), -1) @ params["dense"]["kernel"] + params["dense"]["bias"].reshape(1, -1)


def dense_by_hand(params, x):
    x = x.reshape(len(x), -1)
    for i in (1, 2, 3):
        x = x @ params[f"dense{i}"]["kernel"] + params[f"dense{i}"]["bias"].reshape(1, -1)
        x = jax.nn.relu(x) if i < 3 else x
    return x


@pytest.mark.parametrize(
    ("name", "shape", "by_hand"),
    [
        ("lenet", (28, 28, 1), lenet_by_hand),
        ("lenet", (32, 32, 1), lenet_by_hand),
        ("lenet", (13, 14, 1), lenet_by_hand),
        ("alexcifar", (16, 13, 3), alexcifar_by_hand),
        ("convnet", (28, 28, 1), convnet_by_hand),
        ("convnet", (13, 18, 3), convnet_by_hand),
    ],
)
def test_logits_equal_those_of_native_operations(name, shape, by_hand):
    model = build_model(name, shape, 10)
    biased = jax.jit(lambda key: jax.tree.map(lambda leaf: leaf + 0.1, model.init(key)))(jax.random.key(0))
    inputs = 3 * jax.random.normal(jax.random.key(1), (4, *shape))
    expected = jax.jit(by_hand)(biased, inputs)
    assert float(jnp.std(expected)) > 0.1
    np.testing.assert_allclose(jax.jit(model.apply)(biased, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "by_hand"),
    [
        ("lenet", (14, 12, 1), lenet_by_hand),
        ("alexcifar", (8, 9, 3), alexcifar_by_hand),
        ("convnet", (9, 8, 3), convnet_by_hand),
    ],
)
def test_second_derivatives_equal_those_of_native_operations(x64, name, shape, by_hand):
    """A Hessian-vector product for weights and inputs, in double precision, at weights none of which is zero."""
    model = build_model(name, shape, 3, **({"width": 9} if name == "convnet" else {}))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    (inputs,) = random_arrays((2, *shape))
    if name == "convnet":  # whose convolutions' biases have derivatives of zero but for rounding
        for i in (1, 2, 3):
            shapes[f"conv{i}"]["bias"] = None
    leaves, structure = jax.tree.flatten(shapes)
    weights = [0.3 * w for w in random_arrays(*(leaf.shape for leaf in leaves), seed=2)]

    def of(apply):
        def logits(inputs, *leaves):
            params = jax.tree.unflatten(structure, leaves)
            filled = {
                layer: {part: jnp.full(9, 0.2) if leaf is None else leaf for part, leaf in parts.items()}
                for layer, parts in params.items()
            }
            return apply(filled, inputs)

        return logits

    assert_same_derivatives(of(model.apply), of(by_hand), inputs, *weights, tolerance=1e-9)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("lennet", (28, 28, 1), 10),
            {},
            f"unknown model 'lennet': choose one of {', '.join(MODELS)}, or your own as path/to/file.py:Name",
        ),
        (("mlp", (4,), 10), {"width": 3, "depth": 2}, "model 'mlp' has no option depth, width: leave it out"),
        (("net.py:Net", (4,), 10), {"width": 3}, "model 'net.py:Net' has no option width: leave it out"),
        (("mlp", (4,), 10), {"weights": "zero"}, "unknown weight initialisation 'zero': choose one of xavier, he"),
        (("lenet", (11, 12, 1), 10), {}, "at least 12x12, but the examples have shape [11, 12, 1]"),
        (("alexcifar", (32, 7, 3), 10), {}, "at least 8x8, but the examples have shape [32, 7, 3]"),
        (("alexnet", (62, 80, 3), 10), {}, "at least 63x63, but the examples have shape [62, 80, 3]"),
        (("lenet", (64,), 10), {}, "but the examples have shape [64]"),
        (
            ("convnet", (28, 7, 1), 10),
            {},
            "ConvNet of depth 3 reads pictures [height, width, channels] of at least 8x8",
        ),
        (("convnet", (32, 32, 3), 10), {"depth": 6}, "at least 64x64, but the examples have shape [32, 32, 3]"),
        (("convnet", (32, 32, 3), 10), {"width": 0}, "a ConvNet of width 0 and depth 3: give 1 or more of each"),
    ],
)
def test_wrong_choices_are_one_line(arguments, options, message):
    with pytest.raises(InputError) as excinfo:
        build_model(*arguments, **options)
    assert message in str(excinfo.value) and "\n" not in str(excinfo.value)


@pytest.mark.parametrize(("name", "shape"), [("lenet", (12, 12, 1)), ("lenet", (40, 12, 1)), ("alexcifar", (8, 8, 1))])
def test_the_smallest_pictures_work(name, shape):
    model = build_model(name, shape, 4)
    logits = jax.eval_shape(lambda key: model.apply(model.init(key), jnp.zeros((2, *shape))), jax.random.key(0))
    assert logits.shape == (2, 4)


@pytest.mark.parametrize("name", MODELS)
def test_a_gate_width_reaches_the_networks_that_say_so_and_no_other(name):
    shape = (8, 8, 1) if name != "alexnet" else (63, 63, 1)
    if name == "lenet":
        shape = (12, 12, 1)
    exact, model = (build_model(name, shape, 2, gate_width=width) for width in (0.0, 0.3))
    params = jax.jit(exact.init)(jax.random.key(0))
    inputs, direction = (jax.random.normal(jax.random.key(seed), (2, *shape)) for seed in (1, 2))

    def second(model):
        slope = jax.grad(lambda x: jnp.sum(model.apply(params, x)[:, 0]))
        return jax.jit(lambda x: jax.jvp(slope, (x,), (direction,))[1])(inputs)

    assert model.gated == (name != "linear") == bool(np.any(second(model) != second(exact)))


def test_options_of_a_network_reach_it():
    params = jax.eval_shape(build_model("mlp", (4,), 3, widths=(6, 5)).init, jax.random.key(0))
    assert [params[f"dense{i}"]["kernel"].shape for i in (1, 2, 3)] == [(4, 6), (6, 5), (5, 3)]


def test_the_linear_model_is_a_perceptron_without_hidden_layers():
    """Its weights too, so that what was distilled for one is good for the other."""
    modules = Linear(3, WEIGHT_INITS["he"]), MLP(3, WEIGHT_INITS["he"], widths=())
    linear, perceptron = (from_linen(module, (2, 5)).init(jax.random.key(0)) for module in modules)
    jax.tree.map(np.testing.assert_array_equal, linear, perceptron)


def test_a_network_says_itself_what_it_reads_when_it_is_adapted_by_hand():
    with pytest.raises(
        InputError, match=r"LeNet reads pictures .* of at least 12x12, but the examples have shape \[8, 8, 1\]"
    ):
        from_linen(LeNet(10, WEIGHT_INITS["he"]), (8, 8, 1))
