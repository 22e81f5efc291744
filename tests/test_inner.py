"""ddjax.core.inner in float64: meta-gradients against an unroll written by hand, finite differences and a closed form."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import relative_error
from jax.flatten_util import ravel_pytree

from ddjax.core import losses
from ddjax.core.distilled import DistilledData, fixed_labels, learned_labels
from ddjax.core.inner import trajectory, unroll
from ddjax.core.order import Data, Example, Place
from ddjax.core.rules import Weights, inner_update, mixed_mode, reverse_over_reverse
from ddjax.errors import InputError
from ddjax.experiment.setup import DIRECTIONS as RECIPE_DIRECTIONS
from ddjax.models import MLP, WEIGHT_INITS, LeNet, from_linen
from ddjax.recipes import Inner

pytestmark = pytest.mark.usefixtures("x64")

STEPS, EPOCHS, CLASSES = 3, 2, 3
DIRECTIONS: dict[str, Callable[[], optax.GradientTransformation | None]] = {
    "gd": lambda: None,
    "momentum": lambda: optax.trace(0.9),
    "adam": optax.scale_by_adam,
}


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


@functools.cache
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


def plain_unroll(loss, direction, targets, params, distilled, window=None, see=lambda t, *example: example):
    """The reference: loops of Python around `jax.grad`; nothing of ddjax, no scan, no custom rule, nothing recomputed.

    With `window`, (start, length), what the steps before `start` arrive at is a constant, and the loop ends with the window.
    `see` is what step t sees of its images and targets.
    """
    direction = optax.identity() if direction is None else direction

    @jax.jit
    def step(params, state, images, targets, log_lr):
        grads = jax.grad(loss)(params, images, targets)
        updates, state = direction.update(grads, state, params)
        return jax.tree.map(lambda p, u: p - jnp.exp(log_lr) * u, params, updates), state

    state = direction.init(params)
    epochs, steps = distilled.log_lrs.shape
    start, length = window or (None, epochs * steps)
    for t in range((start or 0) + length):
        if t == start:
            params, state = jax.lax.stop_gradient((params, state))
        e, s = divmod(t, steps)
        images, labels = see(t, distilled.images[s], targets(distilled.labels[s]))
        params, state = step(params, state, images, labels, distilled.log_lrs[e, s])
    return params


def one_step(rule):
    """The inner loop of a rule for a single step: (weights, example) -> weights."""

    def step(weights, example):
        inputs, targets, log_lr = jax.tree.map(lambda leaf: leaf[None], example)
        return rule.run(weights, Data(inputs, targets), log_lr, Place(jnp.zeros((), jnp.int32)))

    return step


def assert_matters(tree):
    assert all(np.linalg.norm(np.ravel(leaf)) > 1e-6 for leaf in jax.device_get(jax.tree.leaves(tree)))


class Setting(NamedTuple):
    """A case with its direction and targets, and its outer loss and meta-gradient, compiled once for all tests."""

    case: Case
    direction: optax.GradientTransformation | None
    targets: Callable[[jax.Array], jax.Array]
    value_and_grad: Callable[..., Any]


@functools.cache
def setting(name, direction, labels):
    transformation = DIRECTIONS[direction]()
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
        ("mlp", "momentum", "learned"),
        ("mlp", "adam", "learned"),
        ("lenet", "gd", "free"),
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


@pytest.mark.parametrize(("direction", "width"), [(None, 0.1), (optax.trace(0.9), 0.0)], ids=["gd", "momentum"])
def test_rule_of_a_step_equals_plain_reverse_mode_with_exact_and_surrogate_gates(direction, width):
    """The one product of the rule needs symmetric second derivatives, and those of the surrogates must be so too."""
    case = make_case("lenet", activation=None, gate_width=width)
    state = None if direction is None else optax.TraceState(jax.tree.map(jnp.sin, case.params))
    # A learning rate of 2, so that the second derivatives are not small beside the identity in theta - eta * direction.
    arguments = Weights(case.params, state), Example(case.distilled.images[0], case.distilled.labels[0], jnp.log(2.0))
    cotangent = Weights(*jax.tree.map(jnp.cos, (case.params, state)))

    def plain(weights, example):
        grads = jax.grad(case.loss)(weights.params, example.inputs, example.targets)
        if direction is not None:
            grads = jax.tree.map(lambda g, m: g + 0.9 * m, grads, weights.opt_state.trace)
        moved = jax.tree.map(lambda p, g: p - jnp.exp(example.log_lr) * g, weights.params, grads)
        return Weights(moved, None if direction is None else optax.TraceState(grads))

    def value_and_pull_back(step):
        value, pull = jax.vjp(step, *arguments)
        return value, pull(cotangent)

    found, expected = (
        jax.jit(value_and_pull_back, static_argnums=0)(step)
        for step in (one_step(mixed_mode(case.loss, direction)), plain)
    )
    assert_matters(expected)
    assert relative_error(found, expected) < 1e-10


def test_both_rules_give_the_same_meta_gradient():
    case, _, targets, value_and_grad = setting("mlp", "gd", "learned")
    run = partial(unroll, case.loss, targets=targets, rule=reverse_over_reverse)
    expected = jax.jit(jax.value_and_grad(partial(case.outer, run), argnums=(0, 1)))(case.params, case.distilled)
    assert_matters(expected)
    assert relative_error(value_and_grad(case.params, case.distilled), expected) < 1e-10


def test_no_direction_is_gradient_descent():
    """Which has a rule of its own: the derivative of log eta without the gradient."""
    case, _, targets, value_and_grad = setting("mlp", "gd", "learned")
    run = partial(unroll, case.loss, direction=optax.identity(), targets=targets)
    expected = jax.jit(jax.value_and_grad(partial(case.outer, run), argnums=(0, 1)))(case.params, case.distilled)
    assert relative_error(value_and_grad(case.params, case.distilled), expected) < 1e-12


# (start, length) out of six steps: across the end of an epoch, the last step alone, all of them.
WINDOWS = [(1, 4), (5, 1), (0, STEPS * EPOCHS)]


@functools.cache
def of_window(direction, length, traced):
    case, transformation, targets, _ = setting("mlp", direction, "learned")

    def outer(params, distilled, start):
        run = partial(unroll, case.loss, direction=transformation, targets=targets, window=(start, length))
        return case.outer(run, params, distilled)

    return jax.jit(jax.value_and_grad(outer, argnums=(0, 1)), static_argnums=() if traced else 2)


@functools.cache
def of_window_by_hand(direction, start, length):
    case, transformation, targets, _ = setting("mlp", direction, "learned")
    plain = partial(plain_unroll, case.loss, transformation, targets, window=(start, length))
    return jax.jit(jax.value_and_grad(partial(case.outer, plain), argnums=(0, 1)))(case.params, case.distilled)


@pytest.mark.parametrize(
    ("direction", "start", "length", "traced"),
    [*(("momentum", *window, True) for window in WINDOWS), ("momentum", 1, 4, False), ("gd", 1, 4, True)],
)
def test_window_forgets_how_the_steps_before_it_came_about(direction, start, length, traced):
    """Each step before it counts in the value, and neither it nor the weights it came from in the gradient."""
    case, _, _, value_and_grad = setting("mlp", direction, "learned")
    found = of_window(direction, length, traced)(case.params, case.distilled, start)
    expected = of_window_by_hand(direction, start, length)
    assert_matters(expected[1][1])
    assert relative_error(found, expected) < 1e-10
    whole_value, (_, whole) = value_and_grad(case.params, case.distilled)
    if start + length == STEPS * EPOCHS:
        np.testing.assert_allclose(found[0], whole_value, rtol=1e-12)
    if length == STEPS * EPOCHS:
        assert relative_error(found[1][1], whole) < 1e-12
    else:
        assert relative_error(found[1][1], whole) > 1e-3


@pytest.mark.parametrize("window", [(4, 4), (-2, 3), (0, 7), (0, 0), (2, -1), (jnp.int32(6), 1)])
def test_a_window_of_steps_that_are_not_there_is_refused(window):
    case = setting("mlp", "gd", "learned").case
    with pytest.raises(InputError, match=r"window \(.*\) of 6 steps: give \(start, length\), 0 <= start <= 6 - length"):
        unroll(case.loss, case.params, case.distilled, window=window)
    with pytest.raises(InputError, match="of 6 steps"):  # whatever the start, and traced
        jax.jit(lambda start: unroll(case.loss, case.params, case.distilled, window=(start, 7)))(0)


def test_a_traced_window_of_steps_that_are_not_there_trains_to_nan():
    """Nothing can be raised, and no other steps may be done in silence: a step of the outer loop sees it in its check."""
    case, _, _, _ = setting("mlp", "gd", "learned")
    for start, finite in ((1, True), (3, False), (-1, False), (2**32, False)):
        value, (_, by) = of_window("gd", 4, traced=True)(case.params, case.distilled, start)
        assert np.isfinite(value) == finite and np.all(np.isfinite(by.images)) == finite


@pytest.mark.parametrize(
    "damage",
    [
        {"images": np.zeros((STEPS + 1, CLASSES, 5))},
        {"images": np.zeros((STEPS, CLASSES + 1, 5))},
        {"labels": np.zeros((STEPS, CLASSES))},
        {"log_lrs": np.zeros((EPOCHS, STEPS + 1))},
        {"log_lrs": np.zeros(STEPS)},
        {"labels": np.zeros((STEPS, CLASSES, CLASSES), np.int32)},
    ],
)
def test_distilled_data_that_do_not_agree_are_refused(damage):
    case = make_case("mlp")
    with pytest.raises(InputError, match="distilled data are images") as caught:
        jax.jit(partial(unroll, case.loss))(case.params, case.distilled._replace(**damage))
    assert "\n" not in str(caught.value)


def test_outputs_and_targets_of_different_shapes_are_refused():
    """A network for four classes, and labels of three: as columns they would broadcast or fail far below."""
    case = make_case("mlp")
    with pytest.raises(InputError, match=r"outputs and the targets must both be \[b, K\]"):
        case.loss(case.params, case.batch[0], case.batch[1][:, :1])


@pytest.mark.parametrize(
    ("rule", "window"),
    [
        (mixed_mode, None),
        (mixed_mode, (1, 4)),  # one turn of S steps and a rest
        (mixed_mode, (5, 1)),  # a rest alone
        (reverse_over_reverse, None),
        (reverse_over_reverse, (1, 4)),
    ],
)
def test_remat_changes_nothing_but_what_is_kept(rule, window):
    """Which is, of S steps at a time, what the first of them starts from."""
    case, transformation, targets, value_and_grad = setting("mlp", "momentum", "learned")
    start, length = (0, STEPS * EPOCHS) if window is None else window
    options = {"direction": transformation, "targets": targets, "rule": rule, "window": window}

    def outer(remat):
        return partial(case.outer, partial(unroll, case.loss, remat=remat, **options))

    found = jax.jit(jax.value_and_grad(outer(remat=True), argnums=(0, 1)))(case.params, case.distilled)
    whole = window is None
    args = (case.params, case.distilled) if whole else (case.params, case.distilled, start)
    expected = (value_and_grad if whole else of_window("momentum", length, traced=True))(*args)
    assert relative_error(found, expected) < 1e-10
    one = case.params["dense1"]["kernel"].shape

    def copies_kept(remat):
        pull = jax.eval_shape(lambda *args: jax.vjp(outer(remat), *args)[1], case.params, case.distilled)
        return {leaf.shape[0] for leaf in jax.tree.leaves(pull) if leaf.shape[1:] == one}

    assert copies_kept(remat=False) == {length}
    assert copies_kept(remat=True) == ({length // STEPS} if length >= STEPS else set())


@pytest.mark.parametrize("direction", ["gd", "momentum"])
def test_steps_shared_out_over_an_axis_equal_whole_ones(direction):
    """One example of each step to a share; every share sees all of the outer loss and pulls the same cotangent back."""
    case, transformation, targets, value_and_grad = setting("mlp", direction, "learned")
    split = DistilledData(*(jnp.split(part, CLASSES, axis=1) for part in case.distilled[:2]), case.distilled.log_lrs)
    shares = DistilledData(jnp.stack(split.images), jnp.stack(split.labels), split.log_lrs)
    run = partial(unroll, case.loss, direction=transformation, targets=targets, axis="examples")
    share = jax.value_and_grad(partial(case.outer, run), argnums=(0, 1))
    axes = DistilledData(0, 0, None)
    values, (by_params, by) = jax.jit(jax.vmap(share, (None, axes), axis_name="examples"))(case.params, shares)
    value, (expected_by_params, expected) = value_and_grad(case.params, case.distilled)
    for n in range(CLASSES):  # what belongs to all of them is the same on each
        mine = values[n], jax.tree.map(lambda leaf, n=n: leaf[n], by_params), by.log_lrs[n]
        assert relative_error(mine, (value, expected_by_params, expected.log_lrs)) < 1e-10
    parts = [jnp.concatenate(part, axis=1) for part in (by.images, by.labels)]
    assert relative_error(parts, [expected.images, expected.labels]) < 1e-10


def test_plain_reverse_mode_refuses_shared_steps():
    case = make_case("mlp")
    with pytest.raises(ValueError, match="takes no axis"):
        unroll(case.loss, case.params, case.distilled, rule=reverse_over_reverse, axis="examples")


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


class TestLinearCase(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_linear_case_has_its_closed_form(self):
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
        trained = self.variant(partial(unroll, loss))(jnp.asarray(theta), distilled)
        np.testing.assert_allclose(trained, moved, rtol=1e-12)
        by_theta, by = self.variant(jax.grad(projected, argnums=(0, 1)))(jnp.asarray(theta), distilled)
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


@pytest.mark.parametrize("decay", [None, 0.5])
def test_inner_update_and_both_rules_are_one_step(decay):
    loss = losses.of_network(lambda params, inputs: inputs @ params["w"], losses.half_squared_error)
    rng = np.random.RandomState(4)
    x, y, w = rng.normal(size=(3, 2)), rng.normal(size=(3, 1)), rng.normal(size=(2, 1))
    direction = None if decay is None else optax.trace(decay)
    state = None if decay is None else optax.TraceState({"w": jnp.ones((2, 1))})
    weights, log_lr = Weights({"w": jnp.asarray(w)}, state), jnp.log(0.1)
    gradient = x.T @ (x @ w - y) / 3
    moved_by = gradient if decay is None else decay + gradient
    example = Example(jnp.asarray(x), jnp.asarray(y), log_lr)
    for moved in (
        inner_update({"w": jnp.asarray(gradient)}, weights, log_lr, direction),
        *(rule(loss, direction).step(weights, example) for rule in (mixed_mode, reverse_over_reverse)),
        *(one_step(rule(loss, direction))(weights, example) for rule in (mixed_mode, reverse_over_reverse)),
    ):
        np.testing.assert_allclose(moved.params["w"], w - 0.1 * moved_by, rtol=1e-12)
        assert len(jax.tree.leaves(moved.opt_state)) == (decay is not None)
        for leaf in jax.tree.leaves(moved.opt_state):
            np.testing.assert_allclose(leaf, moved_by, rtol=1e-12)


def test_vmap_over_networks_equals_a_loop():
    case, _, _, value_and_grad = setting("mlp", "momentum", "learned")
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


@pytest.mark.parametrize("direction", sorted({*RECIPE_DIRECTIONS} - {"gd"}))
def test_dead_units_leave_the_meta_gradient_finite(direction):
    """Their gradient is exactly zero, where the derivative of the root in Adam is infinite."""
    case = make_case("mlp", activation=jax.nn.relu)
    layers = case.params | {"dense1": case.params["dense1"] | {"bias": jnp.full(6, -100.0).at[0].set(0.0)}}
    run = partial(unroll, case.loss, direction=RECIPE_DIRECTIONS[direction](Inner()), targets=learned_labels)
    grads = jax.jit(jax.grad(partial(case.outer, run), argnums=1))(layers, case.distilled)
    assert_matters(grads)
    assert all(np.all(np.isfinite(leaf)) for leaf in grads)
