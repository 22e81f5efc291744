"""Surrogate gates: exact in value and first derivative, a sigmoid or softmax in the second."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.models.ops import gates


def max_of(x, width):
    """Of candidates [k, n, ...]."""
    return gates.max_of(list(x), width)


@pytest.fixture
def x():
    # Examples of very different sizes, each of which sets the width of its own gates.
    return jax.random.normal(jax.random.key(0), (6, 5)) * jnp.geomspace(0.01, 100, 6)[:, None]


def test_relu_is_exact_in_value_and_first_derivative(x):
    weights = jax.random.normal(jax.random.key(1), x.shape)
    for width in (0.0, 0.1, 2.0):
        np.testing.assert_array_equal(gates.relu(x, width), jnp.maximum(x, 0))
        gradient = jax.grad(lambda x, w=width: jnp.sum(weights * gates.relu(x, w)))(x)
        np.testing.assert_array_equal(gradient, jnp.where(x > 0, weights, 0))


def test_second_derivative_of_relu_is_that_of_a_sigmoid_gate_of_each_example(x):
    width = 0.3
    tau = width * jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True))
    second = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(gates.relu(x, width)))(x)))(x)
    np.testing.assert_allclose(second, jax.nn.sigmoid(x / tau) * jax.nn.sigmoid(-x / tau) / tau, rtol=1e-5)
    exact = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(gates.relu(x, 0.0)))(x)))(x)
    np.testing.assert_array_equal(exact, 0)


def test_a_layout_of_its_own_brings_its_own_mean(x):
    """Examples along the last axis give what examples along the first do."""
    tangent = jax.random.normal(jax.random.key(6), x.shape)

    def moved(x, tangent, **layout):
        return jax.jvp(jax.grad(lambda x: jnp.sum(gates.relu(x, 0.3, **layout))), (x,), (tangent,))[1]

    transposed = moved(x.T, tangent.T, mean=lambda x: jnp.mean(x, axis=0, keepdims=True)).T
    np.testing.assert_allclose(transposed, moved(x, tangent), rtol=1e-5)
    assert np.any(np.abs(moved(x.T, tangent.T).T / moved(x, tangent) - 1) > 0.1)


def test_mean_of_example():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_allclose(gates.mean_of_example(x), [[[5.5]], [[17.5]]])
    np.testing.assert_array_equal(gates.mean_of_example(x[:, 0, 0]), x[:, 0, 0])


@pytest.mark.parametrize("gate", [gates.relu, max_of], ids=["relu", "max"])
def test_examples_of_zeros_have_gates_that_never_move(gate):
    """Alone, and among examples that are not all zeros and keep their gates; and all are exact at width 0."""
    x = jax.random.normal(jax.random.key(7), (4, 2, 3))
    tangent = jnp.cos(jnp.arange(24.0)).reshape(x.shape)

    def second(x, width):
        return jax.jvp(jax.grad(lambda x: jnp.sum(gate(x, width))), (x,), (tangent,))[1]

    np.testing.assert_array_equal(second(0 * x, 0.1), 0)
    np.testing.assert_array_equal(second(x, 0.0), 0)
    example = (slice(None), 0) if gate is max_of else 0
    some, whole = second(x.at[example].set(0), 0.5), second(x, 0.5)
    np.testing.assert_array_equal(some[example], 0)
    np.testing.assert_array_equal(some.at[example].set(0), whole.at[example].set(0))
    assert np.any(some) and np.any(whole[example])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_max_is_exact_in_value_and_first_derivative(count):
    x = jax.random.normal(jax.random.key(2), (count, 7, 3))
    weights = jax.random.normal(jax.random.key(3), (7, 3))
    expected = np.where(np.arange(count)[:, None, None] == np.argmax(np.asarray(x), axis=0), weights, 0)
    for width in (0.0, 0.1):
        np.testing.assert_array_equal(max_of(x, width), jnp.max(x, axis=0))
        gradient = jax.grad(lambda x, w=width: jnp.sum(weights * max_of(x, w)))(x)
        np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_a_tie_goes_to_the_first(width):
    """For every set of candidates that share the maximum."""
    x = jnp.asarray(np.stack(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1))  # [4, 16]
    gradient = jax.grad(lambda x: jnp.sum(max_of(x, width)))(x)
    np.testing.assert_array_equal(gradient, np.arange(4)[:, None] == np.argmax(np.asarray(x), axis=0))


@pytest.mark.parametrize("count", [3, 4])
def test_second_derivative_of_max_is_that_of_a_softmax_of_each_example(count):
    x = jax.random.normal(jax.random.key(4), (count, 3, 2)) * jnp.array([0.01, 1.0, 100.0]).reshape(1, 3, 1)
    width = 0.5
    tau = width * jnp.sqrt(jnp.mean(x**2, axis=(0, 2), keepdims=True))
    tangent = jax.random.normal(jax.random.key(5), x.shape)
    gradient = jax.grad(lambda x: jnp.sum(max_of(x, width)))
    _, moved = jax.jvp(gradient, (x,), (tangent,))
    _, expected = jax.jvp(lambda x: jax.nn.softmax(x / tau, axis=0), (x,), (tangent,))
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6 * float(jnp.max(jnp.abs(expected[:, 2]))))


def test_a_gate_tells_the_meta_gradient_of_a_unit_that_would_switch_on():
    # One unit just off at theta_0 = 0: a step on x~ = -0.01 leaves it untrained, x~ > 0 would train it. The exact
    # meta-gradient is zero; the surrogate's points towards switching it on.
    def loss_after_one_step(x, width):
        def inner(theta):
            return 0.5 * (1.0 - theta[1] * gates.relu(theta[0] + x, width)) ** 2

        theta = jnp.array([0.0, 1.0])
        theta = theta - 0.5 * jax.grad(inner)(theta)
        return 0.5 * (theta[0] - 0.5) ** 2

    assert jax.grad(loss_after_one_step)(-0.01, 0.0) == 0
    assert jax.grad(loss_after_one_step)(-0.01, 1.0) < -0.01
    assert loss_after_one_step(0.01, 0.0) < loss_after_one_step(-0.01, 0.0)
