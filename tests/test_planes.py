"""Convolution as matrix products, batch last: layout and derivatives against JAX's own operations in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import all_derivatives, assert_same_derivatives, native_conv_max_pool, random_arrays

from ddjax.core import losses
from ddjax.core.distilled import DistilledData, learned_labels
from ddjax.core.meta import Problem, meta_gradient
from ddjax.models import build_model
from ddjax.models.ops import layers, planes

pytestmark = pytest.mark.usefixtures("x64")


def test_planes_of_any_blocks_are_read_back():
    (pictures,) = random_arrays((3, 6, 4, 2))
    ones = planes.to_planes(pictures)
    assert ones.rows.shape == (2, 6 * 4 * 3) and (ones.block, ones.channels, ones.shape) == (1, 2, (6, 4, 3))
    np.testing.assert_array_equal(planes.from_planes(ones), pictures)
    # A row for each pixel of a block and channel, a column for each block and example.
    rows = np.empty((2, 2, 2, 3, 2, 3))
    for i, j, c, r, q, n in np.ndindex(rows.shape):
        rows[i, j, c, r, q, n] = pictures[n, 2 * r + i, 2 * q + j, c]
    pairs = planes.Planes(jnp.asarray(rows.reshape(8, -1)), 2, 2, (3, 2, 3))
    np.testing.assert_array_equal(planes.from_planes(pairs), pictures)


def test_mean_of_example_is_that_of_each_picture():
    (pictures,) = random_arrays((3, 6, 4, 2))
    ones = planes.to_planes(pictures)
    mean = jnp.broadcast_to(ones.mean_of_example(ones.rows), ones.rows.shape)
    expected = jnp.broadcast_to(jnp.mean(pictures, axis=(1, 2, 3), keepdims=True), pictures.shape)
    np.testing.assert_allclose(planes.from_planes(ones.apply(lambda _: mean)), expected, rtol=1e-12)
    candidates = jnp.stack([ones.rows, 2 * ones.rows, 3 * ones.rows, 6 * ones.rows])
    np.testing.assert_allclose(ones.mean_of_example(candidates)[0], 3 * mean[:1], rtol=1e-12)


def chain(pictures, first, second, *, padding):
    """The two convolutions of LeNet, in planes throughout."""
    hidden = planes.conv_max_pool(planes.to_planes(pictures), first, padding=padding).apply(jnp.tanh)
    return planes.from_planes(planes.conv_max_pool(hidden, second))


def native_chain(pictures, first, second, *, padding):
    return native_conv_max_pool(jnp.tanh(native_conv_max_pool(pictures, first, padding)), second, 0)


# Pictures, padding, kernel size: LeNet's two inputs, and sides that leave an odd row between the two or after them.
CHAINS = [((28, 28, 1), 2, 5), ((32, 32, 3), 0, 5), ((16, 22, 2), 1, 3), ((17, 14, 1), 0, 3)]


@pytest.mark.parametrize(("shape", "padding", "k"), CHAINS, ids=str)
def test_a_chain_in_planes_equals_native_operations(shape, padding, k):
    arguments = random_arrays((2, *shape), (k, k, shape[-1], 6), (k, k, 6, 16))
    ours, native = (partial(f, padding=padding) for f in (chain, native_chain))
    assert_same_derivatives(ours, native, *arguments)


def test_vmap_over_the_kernels_of_a_chain_equals_native_operations():
    """Of the chain, which is then differentiated, and of its derivatives; the pictures are common to all networks."""
    arguments = random_arrays((2, 16, 16, 1), (3, 5, 5, 1, 2), (3, 5, 5, 2, 4))
    ours, native = (partial(f, padding=2) for f in (chain, native_chain))
    over = (None, 0, 0)
    assert_same_derivatives(jax.vmap(ours, over), jax.vmap(native, over), *arguments)
    found, expected = (jax.jit(jax.vmap(partial(all_derivatives, f), over))(*arguments) for f in (ours, native))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)], ids=str)
def test_both_formulations_of_lenet_give_one_meta_gradient_through_surrogate_gates(monkeypatch, shape):
    """So that the width of a gate, relative to each example, is the same in every layout."""
    rng = np.random.RandomState(0)
    scales = np.array([0.3, 1.0, 3.0]).reshape(3, 1, 1, 1)  # of the examples, whose gates must not share a width
    distilled = DistilledData(
        images=jnp.asarray(scales * rng.normal(size=(2, 3, *shape))),
        labels=jnp.asarray(rng.normal(size=(2, 3, 4))),
        log_lrs=jnp.log(jnp.full((1, 2), 0.05)),
    )
    batch = jnp.asarray(rng.normal(size=(5, *shape))), jnp.asarray(np.eye(4)[rng.randint(0, 4, 5)])

    def result(on_cpu, gate_width):
        # Made on a CPU: the native convolution does not mix the float32 that weights start in with other inputs.
        monkeypatch.setattr(layers, "_on_cpu", lambda: True)
        model = build_model("lenet", shape, 4, gate_width=gate_width)
        params_N = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(1), 2))
        params_N = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params_N)
        monkeypatch.setattr(layers, "_on_cpu", lambda: on_cpu)
        loss = losses.of_network(model.apply)
        problem = Problem(model.apply, loss, loss, model.init, targets=learned_labels)
        return jax.jit(partial(meta_gradient, problem))(params_N, distilled, batch)

    exact_value, exact_grads = result(True, 0.0)
    (value, planes_grads), (native_value, native_grads) = result(True, 0.2), result(False, 0.2)
    np.testing.assert_allclose(value, native_value, rtol=1e-12)
    np.testing.assert_allclose(value, exact_value, rtol=1e-12)
    for name, ours, native, exact in zip(distilled._fields, planes_grads, native_grads, exact_grads, strict=True):
        size = np.linalg.norm(native)
        assert np.linalg.norm(ours - native) < 1e-10 * size, name
        # The gates count: the comparison is of surrogates, not of what both formulations would share without them.
        assert name != "images" or np.linalg.norm(ours - exact) > 1e-2 * size
