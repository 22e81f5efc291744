"""Surrogate gates: exact in value and first derivative, a sigmoid or softmax in the second."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.models import gates


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (6, 5))


def test_relu_is_exact_in_value_and_first_derivative(x):
    weights = jax.random.normal(jax.random.key(1), x.shape)
    for width in (0.0, 0.1, 2.0):
        np.testing.assert_array_equal(gates.relu(x, width), jnp.maximum(x, 0))
        gradient = jax.grad(lambda x, w=width: jnp.sum(weights * gates.relu(x, w)))(x)
        np.testing.assert_array_equal(gradient, jnp.where(x > 0, weights, 0))


def test_second_derivative_of_relu_is_that_of_a_sigmoid_gate(x):
    width = 0.3
    tau = width * jnp.sqrt(jnp.mean(x**2))
    second = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(gates.relu(x, width)))(x)))(x)
    np.testing.assert_allclose(second, jax.nn.sigmoid(x / tau) * jax.nn.sigmoid(-x / tau) / tau, rtol=1e-5)
    exact = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(gates.relu(x, 0.0)))(x)))(x)
    np.testing.assert_array_equal(exact, 0)


def test_a_layer_of_zeros_has_finite_second_derivative():
    second = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(gates.relu(x, 0.1)))(x)))(jnp.zeros((3, 2)))
    np.testing.assert_array_equal(second, 0)


def test_max_is_exact_in_value_and_first_derivative():
    x = jax.random.normal(jax.random.key(2), (7, 4, 3))
    weights = jax.random.normal(jax.random.key(3), (7, 3))
    expected = np.where(np.arange(4)[:, None] == np.argmax(np.asarray(x), axis=1)[:, None], weights[:, None], 0)
    for width in (0.0, 0.1):
        np.testing.assert_array_equal(gates.max_of_four(x, width), jnp.max(x, axis=1))
        gradient = jax.grad(lambda x, w=width: jnp.sum(weights * gates.max_of_four(x, w)))(x)
        np.testing.assert_array_equal(gradient, expected)
    tie = jnp.zeros((1, 4, 1))
    np.testing.assert_array_equal(jax.grad(lambda x: gates.max_of_four(x, 0.1)[0, 0])(tie)[0, :, 0], [1, 0, 0, 0])


def test_second_derivative_of_max_is_that_of_a_softmax():
    x = jax.random.normal(jax.random.key(4), (4, 1))
    width = 0.5
    tau = width * jnp.sqrt(jnp.mean(x**2))
    tangent = jax.random.normal(jax.random.key(5), x.shape)
    gradient = jax.grad(lambda x: gates.max_of_four(x, width)[0])
    _, moved = jax.jvp(gradient, (x,), (tangent,))
    _, expected = jax.jvp(lambda x: jax.nn.softmax(x / tau, axis=0), (x,), (tangent,))
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


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
