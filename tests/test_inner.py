"""ddjax.core.inner in float64: meta-gradients against an unroll written by hand, finite differences and a closed form."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddjax.core import losses
from ddjax.core.distilled import DistilledData, fixed_labels, learned_labels
from ddjax.core.inner import inner_update, mixed_mode_gradient, trajectory, unroll
from ddjax.models import MLP, WEIGHT_INITS, LeNet, from_linen

pytestmark = pytest.mark.usefixtures("x64")

STEPS, EPOCHS, CLASSES = 3, 2, 3
DIRECTIONS = {"gd": optax.identity, "momentum": lambda: optax.trace(0.9), "adam": optax.scale_by_adam}


def free_labels(labels):
    """Labels that are probabilities themselves and learned all the same."""
    return labels


def double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def network(name, activation: Callable[[jax.Array], jax.Array] | None = jnp.tanh, gate_width=0.0):
    init = WEIGHT_INITS["xavier"]
    if name == "lenet":
        shape = (12, 12, 1)
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
    params = double(model.init(jax.random.key(seed)))
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
    errors = jax.tree.map(
        lambda a, b: float(jnp.linalg.norm(jnp.ravel(a - b)) / (jnp.linalg.norm(jnp.ravel(b)) or 1.0)), tree, reference
    )
    return max(jax.tree.leaves(errors))


def assert_matters(tree):
    for leaf in jax.tree.leaves(tree):
        assert float(jnp.linalg.norm(jnp.ravel(leaf))) > 1e-6


SETTINGS = [
    ("mlp", "gd", free_labels),
    ("mlp", "momentum", learned_labels),
    ("mlp", "adam", free_labels),
    ("mlp", "adam", learned_labels),
    ("lenet", "gd", learned_labels),
    ("lenet", "momentum", free_labels),
    ("lenet", "adam", learned_labels),
]
IDS = [f"{network}-{direction}-{targets.__name__}" for network, direction, targets in SETTINGS]


@pytest.mark.parametrize(("name", "direction", "targets"), SETTINGS, ids=IDS)
def test_meta_gradient_equals_plain_reverse_over_reverse(name, direction, targets):
    """For the initial weights and all of the distilled data."""
    case, transformation = make_case(name), DIRECTIONS[direction]()
    ours = partial(unroll, case.loss, direction=transformation, targets=targets)
    plain = partial(plain_unroll, case.loss, transformation, targets)
    value, grads = jax.jit(jax.value_and_grad(partial(case.outer, ours), argnums=(0, 1)))(case.params, case.distilled)
    expected = jax.value_and_grad(partial(case.outer, plain), argnums=(0, 1))(case.params, case.distilled)
    assert_matters(expected[1])
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    assert relative_error(grads, expected[1]) < 1e-10


def test_meta_gradient_of_surrogate_gates_equals_plain_reverse_over_reverse():
    """The one-product rule needs a symmetric second derivative, and that of the surrogates must be one too."""
    case = make_case("lenet", activation=None, gate_width=0.1)
    plain = partial(plain_unroll, case.loss, optax.identity(), learned_labels)
    exact = make_case("lenet", activation=None)
    grads, expected, without = (
        jax.grad(partial(c.outer, run))(c.params, c.distilled)
        for c, run in (
            (case, partial(unroll, case.loss, targets=learned_labels)),
            (case, plain),
            (exact, partial(unroll, exact.loss, targets=learned_labels)),
        )
    )
    assert relative_error(grads, expected) < 1e-10
    assert relative_error(grads, without) > 1e-3


def central_difference(function, point, direction, h=2e-5):
    """Two central differences, combined so that the error is of fourth order in `h`."""

    def difference(h):
        return (function(point + h * direction) - function(point - h * direction)) / (2 * h)

    return (4 * difference(h / 2) - difference(h)) / 3


@pytest.mark.parametrize(("name", "direction", "targets"), SETTINGS, ids=IDS)
def test_meta_gradient_equals_finite_differences(name, direction, targets):
    case = make_case(name)
    # On LeNet a few of many gradients are tiny, and Adam is smooth only on the scale of the gradient unless softened.
    soft = direction == "adam" and name == "lenet"
    transformation = optax.scale_by_adam(eps_root=1e-4) if soft else DIRECTIONS[direction]()
    flat, restore = jax.flatten_util.ravel_pytree((case.params, case.distilled))
    sizes = [leaf.size for leaf in (*jax.tree.leaves(case.params), *case.distilled)]
    starts = np.cumsum([0, *sizes])

    def outer(flat):
        return case.outer(partial(unroll, case.loss, direction=transformation, targets=targets), *restore(flat))

    gradient = jax.jit(jax.grad(outer))(flat)
    outer = jax.jit(outer)
    rng = np.random.RandomState(1)
    directions = []
    parts = list(zip(starts[:-1], starts[1:], strict=True))
    groups = [(0, parts[-3][0]), *parts[-3:]]  # the weights, images, labels, log learning rates
    for start, end in groups:
        random, single = np.zeros((2, len(flat)))
        random[start:end] = rng.normal(size=end - start)
        single[start + int(np.argmax(np.abs(gradient[start:end])))] = 1
        directions += [random / np.linalg.norm(random), single]
    everything = rng.normal(size=len(flat))
    directions.append(everything / np.linalg.norm(everything))
    for number, tangent in enumerate(directions):
        tangent = jnp.asarray(tangent)
        expected = float(central_difference(outer, flat, tangent))
        # A random direction may be nearly orthogonal to the gradient: rounding is relative to what it could have been.
        scale = max(abs(expected), 1e-2 * float(jnp.linalg.norm(jnp.where(tangent != 0, gradient, 0.0))))
        assert abs(float(gradient @ tangent) - expected) < 1e-6 * scale, number


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
    np.testing.assert_array_equal(unroll(loss, jnp.asarray(start), distilled, direction=optax.trace(decay)), stacked[-1])


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
    case = make_case("lenet")
    model, _ = network("lenet")
    params_N = double(jax.vmap(model.init)(jax.random.split(jax.random.key(5), 3)))
    run = partial(case.outer, partial(unroll, case.loss, direction=optax.trace(0.9)))
    one = jax.jit(jax.value_and_grad(run, argnums=1))
    together = jax.jit(jax.vmap(jax.value_and_grad(run, argnums=1), in_axes=(0, None)))(params_N, case.distilled)
    alone = [one(jax.tree.map(lambda leaf, n=n: leaf[n], params_N), case.distilled) for n in range(3)]
    assert len({float(value) for value, _ in alone}) == 3
    assert relative_error(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)) < 1e-10


def test_fixed_labels_get_no_gradient():
    case = make_case("mlp")
    grads = jax.grad(partial(case.outer, partial(unroll, case.loss, targets=fixed_labels)), argnums=1)(
        case.params, case.distilled
    )
    free = jax.grad(partial(case.outer, partial(unroll, case.loss, targets=free_labels)), argnums=1)(
        case.params, case.distilled
    )
    assert not np.any(grads.labels) and np.any(free.labels)
    np.testing.assert_allclose(grads.images, free.images, rtol=1e-12)
