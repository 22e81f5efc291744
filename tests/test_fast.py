"""ddjax.models.ops.fast: the convolutions of any function in our form, against XLA's own."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import all_derivatives, assert_same_derivatives, random_arrays, relative_error
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

import ddjax
from ddjax.models import Model, fast_convolutions, from_linen, from_nnx
from ddjax.models.ops import layers

NHWC, SAME = ("NHWC", "HWIO", "NHWC"), "SAME"


def native(inputs, kernel, strides=(1, 1), padding=SAME, numbers=NHWC, **options):
    return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=numbers, **options)


def native_convolutions(function, *arguments):
    """How many of XLA's own convolutions are in what it is traced to, anew: JAX keeps the jaxpr of each function."""
    return str(jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)).count("= conv_general_dilated[")


# inputs, kernel, and what is told to `native`
REPLACED = {
    "same": ((2, 7, 6, 3), (3, 3, 3, 4), {}),
    "few multiplications": ((2, 7, 6, 8), (3, 3, 8, 4), {}),
    "few multiplications, uneven": ((2, 7, 6, 8), (5, 5, 8, 4), {"padding": [(1, 3), (0, 2)]}),
    "one pixel": ((2, 5, 6, 3), (1, 1, 3, 4), {}),
    "one pixel at a stride": ((2, 5, 6, 3), (1, 1, 3, 4), {"strides": (2, 3), "padding": "VALID"}),
    "strides": ((2, 9, 8, 3), (3, 3, 3, 4), {"strides": (2, 3)}),
    "strides, few multiplications": ((2, 9, 8, 8), (3, 3, 8, 4), {"strides": (1, 2)}),
    "oblong": ((2, 7, 9, 3), (2, 5, 3, 4), {"padding": [(2, 0), (1, 3)], "strides": (1, 2)}),
    "dilated": ((2, 9, 11, 3), (3, 2, 3, 4), {"rhs_dilation": (2, 3)}),
    "dilated and strided": ((2, 11, 12, 3), (3, 4, 3, 4), {"rhs_dilation": (3, 2), "strides": (2, 3)}),
    "dilated, many channels": ((2, 9, 11, 8), (3, 3, 8, 4), {"rhs_dilation": (2, 2)}),
    "groups": ((2, 6, 7, 6), (3, 3, 2, 9), {"feature_group_count": 3}),
    "groups, few multiplications": ((1, 6, 7, 16), (3, 3, 8, 4), {"feature_group_count": 2}),
    "depthwise": ((2, 6, 7, 5), (3, 3, 1, 5), {"feature_group_count": 5}),
    "depthwise, one pixel": ((2, 6, 7, 5), (1, 1, 1, 5), {"feature_group_count": 5}),
    "depthwise, strided": ((2, 6, 7, 5), (3, 3, 1, 10), {"feature_group_count": 5, "strides": (2, 2)}),
    "depthwise, two each": ((1, 6, 7, 3), (5, 5, 1, 6), {"feature_group_count": 3, "padding": [(1, 2), (2, 1)]}),
    "depthwise, oblong": (
        (2, 6, 7, 3),
        (3, 2, 1, 6),
        {"feature_group_count": 3, "strides": (2, 3), "padding": [(1, 0), (2, 1)], "rhs_dilation": (1, 2)},
    ),
    "channels first": ((2, 3, 7, 6), (4, 3, 3, 2), {"numbers": ("NCHW", "OIHW", "NCHW"), "strides": (1, 2)}),
    "one layout each": ((7, 2, 6, 3), (3, 4, 2, 3), {"numbers": ("HNWC", "IOHW", "WCNH"), "padding": [(1, 0), (0, 1)]}),
    "a sequence": (
        (2, 9, 3),
        (4, 3, 5),
        {"strides": (2,), "padding": [(3, 1)], "rhs_dilation": (2,), "numbers": ("NWC", "WIO", "NWC")},
    ),
    "a sequence, channels first": ((2, 8, 9), (5, 8, 3), {"strides": (1,), "numbers": ("NCW", "OIW", "NCW")}),
}


@pytest.mark.parametrize("what", REPLACED)
def test_convolutions_of_every_kind_equal_the_native_ones(x64, what):
    *shapes, options = REPLACED[what]
    inputs, kernel = random_arrays(*shapes)
    conv = partial(native, **options)
    assert native_convolutions(conv, inputs, kernel) == 1
    assert native_convolutions(fast_convolutions(conv), inputs, kernel) == 0
    assert_same_derivatives(fast_convolutions(conv), conv, inputs, kernel)


LEFT = {
    "transposed": ((2, 5, 6, 3), (3, 3, 3, 4), {"lhs_dilation": (2, 1), "padding": [(0, 0)] * 2}, np.float32),
    "groups of the batch": ((4, 5, 6, 3), (3, 3, 3, 4), {"batch_group_count": 2}, np.float32),
    "half precision": ((2, 5, 6, 3), (3, 3, 3, 4), {}, jnp.bfloat16),
    "half precision, summed in single": (
        (2, 5, 6, 3),
        (3, 3, 3, 4),
        {"preferred_element_type": np.float32},
        jnp.bfloat16,
    ),
    "whole numbers": ((2, 5, 6, 3), (3, 3, 3, 4), {}, np.int32),
    "cropped": ((2, 7, 6, 3), (3, 3, 3, 4), {"padding": [(-1, 0), (0, 0)]}, np.float32),
    "no windows": ((2, 2, 6, 3), (3, 3, 3, 4), {"padding": [(0, 0)] * 2}, np.float32),
    "three dimensions": (
        (2, 5, 6, 4, 3),
        (3, 3, 3, 3, 4),
        {"strides": (1, 1, 1), "numbers": ("NDHWC", "DHWIO", "NDHWC")},
        np.float32,
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_other_convolutions_are_left_as_they_are(what):
    *shapes, options, dtype = LEFT[what]
    inputs, kernel = random_arrays(*shapes, dtype=dtype)
    conv = partial(native, **options)
    assert native_convolutions(fast_convolutions(conv), inputs, kernel) == 1
    np.testing.assert_array_equal(fast_convolutions(conv)(inputs, kernel), conv(inputs, kernel))


@jax.custom_jvp
def bent(x):
    """A function whose derivative is, by decree, twice what it should be."""
    return jnp.sin(x)


bent.defjvp(lambda primals, tangents: (bent(*primals), 2 * jnp.cos(primals[0]) * tangents[0]))


@jax.custom_vjp
def bent_backwards(x):
    return jnp.sin(x)


bent_backwards.defvjp(lambda x: (jnp.sin(x), x), lambda x, slope: (3 * slope * jnp.cos(x),))


@jax.custom_jvp
def bent_conv(x, kernel):
    return native(x, kernel)


@bent_conv.defjvp
def _(primals, tangents):
    return bent_conv(*primals), 2 * native(tangents[0], primals[1]) + native(primals[0], tangents[1])


def around(wrap):
    """A function with a convolution that `wrap` is put around, and literals and constants besides."""
    table = np.linspace(0, 1, 24).reshape(2, 3, 4, 1)

    def function(x, kernel):
        return 2.0 * wrap(lambda x: jnp.sin(native(x, kernel) * table))(x) + 1

    return function


def repeated(function):
    def run(x):
        def body(carry, weight):
            carry = 0.5 * carry + function(carry) * weight
            return carry, jnp.sum(carry, axis=0)

        carry, sums = jax.lax.scan(body, x, jnp.arange(3, dtype=x.dtype), reverse=True)
        return carry + jnp.sum(sums * jnp.arange(3, dtype=x.dtype).reshape(3, 1, 1, 1), axis=0, keepdims=True)

    return run


def chosen(function):
    return lambda x: jax.lax.switch((x[0, 0, 0, 0] > 0).astype(int), [jnp.cos, function], x)


WRAPPED = {
    "nothing": lambda f: f,
    "jit": jax.jit,
    "jit twice": lambda f: jax.jit(lambda x: jax.jit(f)(x) + x),
    "checkpoint": jax.checkpoint,
    "scan": repeated,
    "cond": chosen,
    "vmap": lambda f: lambda x: jax.vmap(lambda x: f(x[None])[0])(x),
    "all": lambda f: jax.jit(jax.checkpoint(repeated(chosen(f)))),
}


@pytest.mark.parametrize("what", WRAPPED)
def test_convolutions_are_found_inside_of_what_holds_them(x64, what):
    arguments = random_arrays((2, 3, 4, 1), (3, 3, 1, 1), seed=3)
    assert float(arguments[0][0, 0, 0, 0]) > 0
    function = around(WRAPPED[what])
    assert native_convolutions(function, *arguments) >= 1
    assert native_convolutions(fast_convolutions(function), *arguments) == 0
    assert_same_derivatives(fast_convolutions(function), function, *arguments)


@pytest.mark.parametrize("rule", [bent, bent_backwards])
def test_derivatives_by_decree_survive(x64, rule):
    def function(x, kernel):
        return rule(native(rule(x), kernel))

    arguments = random_arrays((2, 3, 4, 1), (3, 3, 1, 2))
    gradient, ours, wrong = (
        jax.grad(lambda *a, f=f: jnp.sum(f(*a)), (0, 1))
        for f in (function, fast_convolutions(function), lambda x, k: jnp.sin(native(jnp.sin(x), k)))
    )
    assert native_convolutions(fast_convolutions(function), *arguments) == 0
    assert (
        relative_error(ours(*arguments), gradient(*arguments))
        < 1e-12
        < relative_error(ours(*arguments), wrong(*arguments))
    )


def test_a_convolution_with_derivatives_by_decree_keeps_them(x64):
    def function(x, kernel):
        return native(bent_conv(x, kernel), kernel)

    arguments = random_arrays((2, 3, 4, 1), (3, 3, 1, 1))
    assert native_convolutions(fast_convolutions(function), *arguments) == 1
    assert_same_derivatives(fast_convolutions(function), function, *arguments)


def test_every_transformation_goes_through(x64):
    def function(params, x):
        return {"logits": jnp.tanh(native(x, params["kernel"])), "number": 3.0, "none": None}

    x, kernel, more, moves = random_arrays((2, 5, 4, 2), (3, 3, 2, 3), (4, 3, 3, 2, 3), (3, 3, 2, 3))
    fast, params = fast_convolutions(function), {"kernel": kernel}

    def same(of, tolerance=1e-12):
        ours, reference = of(fast), of(function)
        assert jax.tree.structure(ours) == jax.tree.structure(reference)
        assert relative_error(ours, reference) < tolerance

    same(lambda f: f(params, x))
    same(lambda f: jax.jit(f)(params, np.asarray(x)))
    same(lambda f: jax.vmap(f, in_axes=({"kernel": 0}, None))({"kernel": more}, x)["logits"])
    same(lambda f: jax.linearize(lambda k: f({"kernel": k}, x)["logits"], kernel)[1](moves))
    same(lambda f: jax.vmap(jax.grad(lambda k: jnp.sum(f({"kernel": k}, x)["logits"] ** 2)))(more))
    same(lambda f: jax.jacfwd(jax.grad(lambda s: jnp.sum(f({"kernel": s * kernel}, x)["logits"] ** 2)))(1.0))
    same(lambda f: jax.grad(lambda s: jnp.sum(fast_convolutions(lambda p: f(p, s * x)["logits"])(params)))(2.0))
    mesh = Mesh(np.array(jax.devices()), ("d",))
    spread = partial(jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("d")))
    same(lambda f: jax.jit(spread(lambda p, x: f(p, x)["logits"], out_specs=PartitionSpec("d")))(params, x))
    assert jax.eval_shape(fast, params, x) == jax.eval_shape(function, params, x)


def test_float32_is_right_within_rounding():
    inputs, kernel = random_arrays((2, 8, 9, 16), (3, 3, 16, 8), dtype=np.float32)
    assert_same_derivatives(fast_convolutions(native), native, inputs, kernel, tolerance=2e-5)


def test_a_function_without_convolutions_is_called_as_it_is():
    """After one tracing for each shape, and at once on any backend but a CPU."""
    calls = []

    def function(x):
        calls.append(type(x))
        return jnp.sin(x)

    fast, x = fast_convolutions(function), np.ones(3, np.float32)
    for _ in range(3):
        fast(x)
    assert len(calls) == 4 and calls[1:] == [np.ndarray] * 3


def test_elsewhere_than_on_a_cpu_nothing_changes(monkeypatch):
    arguments = random_arrays((1, 5, 5, 8), (3, 3, 8, 4), dtype=np.float32)
    fast = fast_convolutions(native)
    assert native_convolutions(fast, *arguments) == 0
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    assert native_convolutions(fast, *arguments) == 1


# Networks


class Linen(nn.Module):
    """As people write them: strides, groups, a norm, pooling, a checkpoint."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(4)(nn.Conv(8, (3, 3))(x)))
        x = x + nn.remat(nn.Conv)(8, (3, 3), feature_group_count=8, name="depthwise")(x)
        x = nn.avg_pool(nn.gelu(nn.Conv(8, (1, 3), strides=(2, 1), padding="CIRCULAR")(x)), (2, 2), (2, 2))
        return nn.Dense(3)(x.reshape(len(x), -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.conv(x)).reshape(len(x), -1))


class Ours(nn.Module):
    """A network of one's own of our layers."""

    @nn.compact
    def __call__(self, x):
        x = ddjax.average_pool_2x2(nn.relu(ddjax.InstanceNorm()(ddjax.Conv(8, 3)(x))))
        x = ddjax.max_pool_3x3(ddjax.max_pool_2x2(ddjax.Conv(8, 2, padding=1, stride=1)(x)))
        return ddjax.Dense(3)(x.reshape(len(x), -1))


def a_file(tmp_path):
    (tmp_path / "net.py").write_text(
        "import flax.linen as nn\n\n\nclass Net(nn.Module):\n    @nn.compact\n    def __call__(self, x):\n"
        "        return nn.Dense(3)(nn.Conv(4, (3, 3))(x).reshape(len(x), -1))\n"
    )
    return ddjax.load_model(f"{tmp_path}/net.py:Net", (8, 8, 2), 3)


def by_hand(_):
    def apply(params, x):
        return jnp.mean(native(x, params), axis=(1, 2))

    return Model(lambda key: jax.random.normal(key, (3, 3, 2, 3)), apply)


def nnx_model(_):
    return from_nnx(Nnx, (8, 8, 2))


NETWORKS = {"linen": lambda _: from_linen(Linen(), (8, 8, 2)), "nnx": nnx_model, "file": a_file, "by hand": by_hand}


@pytest.mark.parametrize("what", NETWORKS)
def test_every_network_has_fast_convolutions(tmp_path, monkeypatch, what):
    model = NETWORKS[what](tmp_path)
    params = jax.jit(model.init)(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))
    assert native_convolutions(model.apply, params, inputs) == 0

    def derivatives():
        flat, unravel = ravel_pytree(params)
        return jax.jit(lambda *a: all_derivatives(lambda w, x: model.apply(unravel(w), x), *a))(flat, inputs)

    ours = derivatives()
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    assert native_convolutions(model.apply, params, inputs) >= 1
    assert relative_error(ours, derivatives()) < 1e-4


def test_our_layers_make_a_network_of_ones_own():
    pictures = jax.eval_shape(ddjax.Conv(4, 3).init_with_output, jax.random.key(0), jnp.zeros((1, 6, 5, 2)))[0]
    assert pictures.shape == (1, 6, 5, 4)
    model = from_linen(Ours(), (8, 8, 2), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    kernels = {name: part["kernel"].shape for name, part in params.items() if "kernel" in part}
    assert kernels == {"Conv_0": (3, 3, 2, 8), "Conv_1": (2, 2, 8, 8), "Dense_0": (8, 3)}
    logits = model.apply(params, jax.random.normal(jax.random.key(1), (2, 8, 8, 2)))
    assert logits.shape == (2, 3) and np.all(np.isfinite(logits)) and np.any(logits[0] != logits[1])
