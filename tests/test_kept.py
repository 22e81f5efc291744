"""ddjax.core.kept: values that an inner step keeps for its backward pass, against the function without them, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_same_derivatives, random_arrays
from jax.sharding import Mesh, PartitionSpec

from ddjax.core.distilled import DistilledData
from ddjax.core.inner import unroll
from ddjax.core.kept import Steps, kept
from ddjax.core.losses import of_network
from ddjax.core.rules import mixed_mode, reverse_over_reverse
from ddjax.models import build_model


def network(mark):
    """Two layers; `mark` is `kept`, or a function that leaves a value as it is."""

    def apply(params, inputs):
        hidden = mark(jnp.tanh(inputs) @ params["first"], value=True)
        return jnp.tanh(mark(jax.nn.silu(hidden), cotangent=True)) @ params["second"]

    return apply


def bare(x, **_):
    return x


def params_and_inputs():
    first, second, inputs = random_arrays((5, 4), (4, 3), (6, 5))
    return {"first": first, "second": second}, inputs


def gradients(mark):
    apply = network(mark)
    return jax.value_and_grad(lambda params, inputs: jnp.sum(jnp.sin(apply(params, inputs))), argnums=(0, 1))


def test_a_mark_changes_no_derivative(x64):
    first, second, inputs = random_arrays((5, 4), (4, 3), (6, 5))

    def of(mark):
        return lambda first, second, inputs: network(mark)({"first": first, "second": second}, inputs)

    assert_same_derivatives(of(kept), of(bare), first, second, inputs)
    many = jax.vmap(of(kept), in_axes=(None, 0, 1))
    plain = jax.vmap(of(bare), in_axes=(None, 0, 1))
    assert_same_derivatives(many, plain, first, *random_arrays((2, 4, 3), (6, 2, 5)))


def test_what_is_noted_going_forwards_and_backwards(x64):
    params, inputs = params_and_inputs()
    found, noted = Steps(gradients(kept)).first(params, inputs)
    jax.tree.map(np.testing.assert_array_equal, found, gradients(bare)(params, inputs))
    hidden = jnp.tanh(inputs) @ params["first"]
    by_hidden = jax.grad(lambda h: jnp.sum(jnp.sin(jnp.tanh(h) @ params["second"])))(jax.nn.silu(hidden))
    for value, expected in zip(noted, (hidden, by_hidden), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_again_returns_the_same_with_the_same_derivatives(x64):
    """Forwards, which is all that the unroll asks of it, along every argument."""
    params, inputs = params_and_inputs()
    steps = Steps(gradients(kept))
    _, noted = steps.first(params, inputs)
    along = jax.tree.map(jnp.cos, (params, inputs))
    found = jax.jvp(lambda *given: steps.again(noted, *given), (params, inputs), along)
    expected = jax.jvp(gradients(bare), (params, inputs), along)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), found, expected)


def test_again_takes_what_it_is_given_and_computes_it_not(x64):
    params, inputs = params_and_inputs()
    steps = Steps(gradients(kept))
    _, noted = steps.first(params, inputs)
    other, _ = steps.again([value + 1 for value in noted], params, inputs)
    assert abs(other - gradients(bare)(params, inputs)[0]) > 1e-3

    def products(function, *given):
        return jax.jit(function).lower(*given).compile().as_text().count(" dot(")

    def value_and_inputs(found):
        return found[0], found[1][1]

    whole = products(lambda *given: value_and_inputs(gradients(kept)(*given)), params, inputs)
    rest = products(lambda noted, *given: value_and_inputs(steps.again(noted, *given)), noted, params, inputs)
    assert rest == whole - 2


def test_a_mark_within_a_loop_is_any_other_value(x64):
    (weight,) = random_arrays((3, 3))

    def function(weight):
        return jnp.sum(jax.lax.scan(lambda x, _: (kept(jnp.sin(x @ weight), value=True), None), weight, length=2)[0])

    steps = Steps(jax.grad(function))
    found, noted = steps.first(weight)
    assert noted == []
    np.testing.assert_array_equal(steps.again(noted, weight), found)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet", (28, 28, 1), []),
        # The second convolution, the first dense layer's inputs and outputs, and the cotangents of what both are given.
        ("alexcifar", (32, 32, 3), [(2, 16, 16, 64), (2, 4096), (2, 384), (2, 4096), (2, 16, 16, 64)]),
    ],
)
def test_what_networks_keep_of_a_step(name, shape, expected):
    model = build_model(name, shape, 10)
    params = jax.eval_shape(model.init, jax.random.key(0))
    loss = of_network(model.apply)
    batch = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2, 10), jnp.float32)
    noted = jax.eval_shape(lambda *given: Steps(jax.value_and_grad(loss)).first(*given)[1], params, *batch)
    assert [value.shape for value in noted] == expected


def distilled_data():
    images, labels, log_lrs = random_arrays((3, 4, 5), (3, 4, 3), (2, 3))
    return DistilledData(images, jax.nn.softmax(labels), log_lrs - 1)


def loss_of(mark):
    return of_network(network(mark))


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"window": (2, 3)}], ids=str)
@pytest.mark.parametrize(
    "direction", [None, optax.scale_by_adam(), optax.trace(0.9)], ids=["descent", "adam", "momentum"]
)
def test_the_unroll_keeps_them(x64, direction, options):
    """Value and every derivative of the end of the inner loop, against reverse over reverse without marks."""
    params, _ = params_and_inputs()

    def end(mark, rule):
        def function(params, distilled):
            end = unroll(loss_of(mark), params, distilled, direction=direction, rule=rule, **options)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(end))

        return jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(params, distilled_data())

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        end(kept, mixed_mode),
        end(bare, reverse_over_reverse),
    )


def test_the_unroll_of_shared_steps_keeps_them(x64):
    params, _ = params_and_inputs()
    data = PartitionSpec(None, "batch")
    specs = DistilledData(data, data, PartitionSpec())

    def by_distilled(axis):
        def function(params, distilled):
            def total(distilled):
                end = unroll(loss_of(kept), params, distilled, axis=axis)
                return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(end))

            return jax.grad(total)(distilled)

        return function

    mesh = Mesh(jax.devices()[:2], ("batch",))
    shared = jax.shard_map(
        by_distilled("batch"), mesh=mesh, in_specs=(PartitionSpec(), specs), out_specs=specs, check_vma=False
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        jax.jit(shared)(params, distilled_data()),
        by_distilled(None)(params, distilled_data()),
    )
