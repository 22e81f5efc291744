"""ddjax.core.inner in float64: meta-gradients against an unroll written by hand, finite differences and a closed form."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from ddjax.core import losses
from ddjax.core.distilled import DistilledData, fixed_labels, learned_labels
from ddjax.core.inner import inner_update, mixed_mode_gradient, trajectory, unroll
from ddjax.experiment import DIRECTIONS as RECIPE_DIRECTIONS
from ddjax.models import MLP, WEIGHT_INITS, LeNet, from_linen

pytestmark = pytest.mark.usefixtures("x64")

STEPS, EPOCHS, CLASSES = 3, 2, 3
DIRECTIONS = {"gd": optax.identity, "momentum": lambda: optax.trace(0.9), "adam": optax.scale_by_adam}


def free_labels(labels):
    """Labels that are probabilities themselves and learned all the same."""
    return labels


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), tree)


def network(name, activation: Callable[[jax.Array], jax.Array] | None = jnp.tanh, gate_width=0.0):
    init = WEIGHT_INITS["xavier"]
    if name == "lenet":
        shape: tuple[int, ...] = (12, 12, 1)
        module: Any = LeNet(CLASSES, init, activation=activation, gate_width=gate_width)
    else:
        shape = (5,)
        module = MLP(CLASSES, init, widths=(6, 4), activation=activation, gate_width=gate_width)
    return from_linen(module, shape), shape


class Case(NamedTuple):
    """An inner problem with everything its outer loss depends on."""

    loss: losses.Loss
    params: Any
    distilled: DistilledData
    batch: tuple[jax.Array, jax.Array]

    def outer(self, run, params, distilled):
        return self.loss(run(params, distilled), *self.batch)


def make_case(name, seed=0, **options):
    model, shape = network(name, **options)
    rng = np.random.RandomState(seed)
    labels = rng.dirichlet(np.ones(CLASSES), (STEPS, CLASSES))
    distilled = DistilledData(
        images=jnp.asarray(rng.normal(size=(STEPS, CLASSES, *shape))),
        labels=jnp.asarray(labels),
        log_lrs=jnp.log(jnp.asarray(rng.uniform(0.05, 0.3, (EPOCHS, STEPS)))),
    )
    batch = jnp.asarray(rng.normal(size=(7, *shape))), jnp.asarray(np.eye(CLASSES)[rng.randint(0, CLASSES, 7)])
    params = double(jax.jit(model.init)(jax.random.key(seed)))
    return Case(losses.of_network(model.apply), params, distilled, batch)


def plain_unroll(loss, direction, targets, params, distilled):
    """The reference: loops of Python around `jax.grad`; nothing of ddjax, no scan, no custom rule, nothing recomputed."""

    @jax.jit
    def step(params, state, images, labels, log_lr):
        grads = jax.grad(loss)(params, images, targets(labels))
        updates, state = direction.update(grads, state, params)
        return jax.tree.map(lambda p, u: p - jnp.exp(log_lr) * u, params, updates), state

    state = direction.init(params)
    for e in range(distilled.log_lrs.shape[0]):
        for s in range(distilled.log_lrs.shape[1]):
            params, state = step(params, state, distilled.images[s], distilled.labels[s], distilled.log_lrs[e, s])
    return params


def relative_error(tree, reference):
    """The largest error of a leaf relative to that leaf's norm; leaves that are zero must be so in both."""

    def error(a, b):
        return np.linalg.norm(np.ravel(a) - np.ravel(b)) / (np.linalg.norm(np.ravel(b)) or 1.0)

    return max(jax.tree.leaves(jax.tree.map(error, *jax.device_get((tree, reference)))))


def assert_matters(tree):
    assert all(np.linalg.norm(np.ravel(leaf)) > 1e-6 for leaf in jax.device_get(jax.tree.leaves(tree)))


class Setting(NamedTuple):
    """A case with its direction and targets, and its outer loss and meta-gradient, compiled once for all tests."""

    case: Case
    direction: optax.GradientTransformation
    targets: Callable[[jax.Array], jax.Array]
    value_and_grad: Callable[..., Any]


@functools.cache
def setting(name, direction, labels):
    # Adam is smooth only on the scale of the gradients, of which LeNet has many tiny ones, unless softened.
    soft = direction == "adam" and name == "lenet"
    transformation = optax.scale_by_adam(eps_root=1e-4) if soft else DIRECTIONS[direction]()
    targets = {"learned": learned_labels, "free": free_labels}[labels]
    case = make_case(name)
    if direction == "adam":  # whose steps have the size of the learning rate itself, however small the gradient
        case = case._replace(distilled=case.distilled._replace(log_lrs=case.distilled.log_lrs - 4))
    run = partial(unroll, case.loss, direction=transformation, targets=targets)
    return Setting(case, transformation, targets, jax.jit(jax.value_and_grad(partial(case.outer, run), argnums=(0, 1))))


each_setting = pytest.mark.parametrize(
    ("name", "direction", "labels"),
    [
        ("mlp", "gd", "learned"),
        ("mlp", "momentum", "free"),
        ("mlp", "adam", "learned"),
        ("lenet", "gd", "free"),
        ("lenet", "momentum", "learned"),
        ("lenet", "adam", "free"),
    ],
)


@each_setting
def test_meta_gradient_equals_plain_reverse_over_reverse(name, direction, labels):
    """For the initial weights and all of the distilled data."""
    case, transformation, targets, value_and_grad = setting(name, direction, labels)
    plain = partial(plain_unroll, case.loss, transformation, targets)
    value, grads = value_and_grad(case.params, case.distilled)
    reference = jax.jit(jax.value_and_grad(partial(case.outer, plain), argnums=(0, 1)))
    expected = reference(case.params, case.distilled)
    assert_matters(expected[1])
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    assert relative_error(grads, expected[1]) < 1e-10


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_rule_of_the_gradient_equals_plain_reverse_mode_with_exact_and_surrogate_gates(width):
    """The one product of the rule needs symmetric second derivatives, and those of the surrogates must be so too."""
    case = make_case("lenet", activation=None, gate_width=width)
    arguments = case.params, case.distilled.images[0], case.distilled.labels[0]
    cotangent = jax.tree.map(jnp.cos, case.params)

    def pull_back(rule):
        return jax.jit(lambda *arguments: jax.vjp(rule, *arguments)[1](cotangent))(*arguments)

    expected = pull_back(jax.grad(case.loss))
    assert_matters(expected)
    assert relative_error(pull_back(mixed_mode_gradient(case.loss)), expected) < 1e-10


def central_difference(function, point, tangent, h=2e-5):
    """Two central differences, combined so that the error is of fourth order in `h`."""

    def difference(h):
        return (function(point + h * tangent) - function(point - h * tangent)) / (2 * h)

    return (4 * difference(h / 2) - difference(h)) / 3


@each_setting
def test_meta_gradient_equals_finite_differences(name, direction, labels):
    """Along a random direction and the steepest coordinate of the weights and of each part of the distilled data."""
    case, _, _, value_and_grad = setting(name, direction, labels)
    flat, restore = ravel_pytree((case.params, case.distilled))
    gradient = ravel_pytree(value_and_grad(case.params, case.distilled)[1])[0]
    ends = np.cumsum([leaf.size for leaf in case.distilled]) + len(flat) - sum(leaf.size for leaf in case.distilled)
    rng = np.random.RandomState(1)
    tangents = [rng.normal(size=len(flat))]
    for part in np.split(np.arange(len(flat)), [len(flat) - sum(leaf.size for leaf in case.distilled), *ends[:-1]]):
        random, single = np.zeros((2, len(flat)))
        random[part] = rng.normal(size=len(part))
        single[part[np.argmax(np.abs(gradient[part]))]] = 1
        tangents += [random, single]
    for number, way in enumerate(tangents):
        tangent = jnp.asarray(way / np.linalg.norm(way))
        expected = float(central_difference(lambda point: value_and_grad(*restore(point))[0], flat, tangent))
        assert abs(float(gradient @ tangent) - expected) < 1e-6 * abs(expected), number


def test_linear_case_has_its_closed_form():
    """Paper, section 3.3: theta_1 = (I - eta/M d^T d) theta_0 + eta/M d^T t, and the derivatives that follow."""
    rng = np.random.RandomState(2)
    M, D, K = 4, 6, 2
    d, t, theta, G = (rng.normal(size=shape) for shape in ((M, D), (M, K), (D, K), (D, K)))
    eta = 0.3
    loss = losses.of_network(lambda params, inputs: inputs @ params, losses.half_squared_error)
    distilled = DistilledData(jnp.asarray(d[None]), jnp.asarray(t[None]), jnp.log(jnp.full((1, 1), eta)))

    def projected(params, distilled):
        return jnp.sum(G * unroll(loss, params, distilled, targets=free_labels))

    moved = (np.eye(D) - eta / M * d.T @ d) @ theta + eta / M * d.T @ t
    np.testing.assert_allclose(unroll(loss, jnp.asarray(theta), distilled), moved, rtol=1e-12)
    by_theta, by = jax.grad(projected, argnums=(0, 1))(jnp.asarray(theta), distilled)
    residual = d @ theta - t
    np.testing.assert_allclose(by_theta, (np.eye(D) - eta / M * d.T @ d) @ G, rtol=1e-12)
    np.testing.assert_allclose(by.images[0], -eta / M * (residual @ G.T + d @ G @ theta.T), rtol=1e-12)
    np.testing.assert_allclose(by.labels[0], eta / M * d @ G, rtol=1e-12)
    np.testing.assert_allclose(by.log_lrs[0, 0], -eta / M * np.sum(G * (d.T @ residual)), rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_epochs_visit_the_steps_in_order_with_their_own_rates_and_carry_the_state(decay):
    """A linear model in NumPy; every image and every learning rate differs, so any other order gives other weights."""
    rng = np.random.RandomState(3)
    S, E, M, D, K = 3, 4, 2, 5, 2
    images, labels = rng.normal(size=(S, M, D)), rng.normal(size=(S, M, K))
    lrs = rng.uniform(0.05, 0.5, (E, S))
    start = theta = rng.normal(size=(D, K))
    momentum, after_epochs = np.zeros_like(theta), []
    for e in range(E):
        for s in range(S):
            gradient = images[s].T @ (images[s] @ theta - labels[s]) / M
            momentum = decay * momentum + gradient
            theta = theta - lrs[e, s] * momentum
        after_epochs.append(theta)
    loss = losses.of_network(lambda params, inputs: inputs @ params, losses.half_squared_error)
    distilled = DistilledData(jnp.asarray(images), jnp.asarray(labels), jnp.log(jnp.asarray(lrs)))
    stacked = trajectory(loss, jnp.asarray(start), distilled, direction=optax.trace(decay))
    np.testing.assert_allclose(stacked, np.stack(after_epochs), rtol=1e-12)
    np.testing.assert_array_equal(
        unroll(loss, jnp.asarray(start), distilled, direction=optax.trace(decay)), stacked[-1]
    )


def test_inner_update_is_one_step():
    loss = losses.of_network(lambda params, inputs: inputs @ params["w"], losses.half_squared_error)
    rng = np.random.RandomState(4)
    x, y, w = rng.normal(size=(3, 2)), rng.normal(size=(3, 1)), rng.normal(size=(2, 1))
    params, direction = {"w": jnp.asarray(w)}, optax.trace(0.5)
    state = optax.TraceState({"w": jnp.ones((2, 1))})
    batch = jnp.asarray(x), jnp.asarray(y)
    moved, state = inner_update(mixed_mode_gradient(loss), params, state, batch, jnp.asarray(0.1), direction)
    momentum = 0.5 + x.T @ (x @ w - y) / 3
    np.testing.assert_allclose(moved["w"], w - 0.1 * momentum, rtol=1e-12)
    np.testing.assert_allclose(jax.tree.leaves(state)[0], momentum, rtol=1e-12)


def test_vmap_over_networks_equals_a_loop():
    case, _, _, value_and_grad = setting("mlp", "momentum", "free")
    model, _ = network("mlp")
    params_N = double(jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(5), 3)))
    together = jax.vmap(value_and_grad, in_axes=(0, None))(params_N, case.distilled)
    alone = [value_and_grad(jax.tree.map(lambda leaf, n=n: leaf[n], params_N), case.distilled) for n in range(3)]
    assert len({float(value) for value, _ in alone}) == 3
    assert relative_error(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)) < 1e-10


def test_fixed_labels_get_no_gradient():
    case = make_case("mlp")

    def grads(targets):
        run = partial(unroll, case.loss, targets=targets)
        return jax.jit(jax.grad(partial(case.outer, run), argnums=1))(case.params, case.distilled)

    fixed, free = grads(fixed_labels), grads(free_labels)
    assert not np.any(fixed.labels) and np.any(free.labels)
    np.testing.assert_allclose(fixed.images, free.images, rtol=1e-12)


@pytest.mark.parametrize("direction", RECIPE_DIRECTIONS)
def test_dead_units_leave_the_meta_gradient_finite(direction):
    """Their gradient is exactly zero, where the derivative of the root in Adam is infinite."""
    case = make_case("mlp", activation=jax.nn.relu)
    case.params["dense1"]["bias"] = jnp.full(6, -100.0).at[0].set(0.0)
    run = partial(unroll, case.loss, direction=RECIPE_DIRECTIONS[direction](), targets=learned_labels)
    grads = jax.jit(jax.grad(partial(case.outer, run), argnums=1))(case.params, case.distilled)
    assert_matters(grads)
    assert all(np.all(np.isfinite(leaf)) for leaf in grads)
