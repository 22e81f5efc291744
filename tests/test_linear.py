"""ddjax.core.linear: the paper's section 3.3 in numbers, and the numerical distiller at the same optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddjax.core import linear, losses
from ddjax.core.distilled import DistilledData
from ddjax.core.inner import unroll
from ddjax.core.meta import Problem
from ddjax.core.outer import make_distiller

pytestmark = pytest.mark.usefixtures("x64")

D, K = 5, 3
LOSS = losses.of_network(lambda theta, inputs: inputs @ theta, losses.half_squared_error)


def arrays(*shapes, seed=0):
    random = np.random.RandomState(seed)
    return tuple(jnp.asarray(random.normal(size=shape)) for shape in shapes)


def free(labels):
    return labels


def train(theta, distilled):
    return unroll(LOSS, theta, distilled, targets=free)


def test_the_map_is_one_step_of_the_inner_loop():
    theta, inputs, targets = arrays((D, K), (4, D), (4, K))
    distilled = DistilledData(inputs[None], targets[None], jnp.log(jnp.full((1, 1), 0.3)))
    np.testing.assert_allclose(linear.one_step(theta, inputs, targets, 0.3), train(theta, distilled), rtol=1e-12)


def test_optimum_solves_the_normal_equations():
    inputs, targets = arrays((20, D), (20, K))
    theta = linear.optimum(inputs, targets)
    np.testing.assert_allclose(inputs.T @ inputs @ theta, inputs.T @ targets, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_initialisation_needs_as_many_samples_as_the_rank_of_the_way(rank):
    theta_0, left, right = arrays((D, K), (D, rank), (rank, K))
    theta_star = theta_0 + left @ right
    distilled = linear.for_one_initialisation(theta_0, theta_star, 0.1)
    assert distilled.images.shape == (1, rank, D) and distilled.labels.shape == (1, rank, K)
    np.testing.assert_allclose(train(theta_0, distilled), theta_star, atol=1e-12)
    (other,) = arrays((D, K), seed=1)
    assert np.linalg.norm(train(other, distilled) - theta_star) > 0.1  # made for this initialisation and no other
    # One sample fewer moves theta by a matrix of smaller rank, which misses by the smallest singular value at least.
    if rank > 1:
        scales = np.linalg.svd(theta_star - theta_0, compute_uv=False)
        inputs, targets = arrays((rank - 1, D), (rank - 1, K), seed=2)
        moved = linear.one_step(theta_0, inputs, targets, 0.1)
        assert np.linalg.norm(moved - theta_star, 2) >= scales[rank - 1] - 1e-9


@pytest.mark.parametrize(("steps", "samples"), [(1, 5), (2, 3), (3, 2), (5, 1), (7, 1)])
def test_all_initialisations_are_taken_to_the_optimum_by_as_many_samples_as_dimensions(steps, samples):
    (theta_star,) = arrays((D, K))
    distilled = linear.for_all_initialisations(theta_star, 0.2, steps=steps)
    assert distilled.images.shape == (steps, samples, D)
    assert linear.untouched(distilled.images).shape == (D, 0)
    for seed in range(3):
        (theta_0,) = arrays((D, K), seed=10 + seed)
        np.testing.assert_allclose(train(100 * theta_0, distilled), theta_star, atol=1e-10)


@pytest.mark.parametrize(("steps", "samples"), [(1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize("epochs", [1, 50])
def test_fewer_samples_than_dimensions_leave_a_direction_where_it_was(steps, samples, epochs):
    inputs, targets, theta_0 = arrays((steps, samples, D), (steps, samples, K), (D, K))
    distilled = DistilledData(inputs, targets, jnp.log(jnp.full((epochs, steps), 0.1)))
    still = linear.untouched(inputs)
    assert still.shape == (D, D - steps * samples)
    moved = train(theta_0, distilled)
    assert np.linalg.norm(moved - theta_0) > 0.1
    np.testing.assert_allclose(still.T @ moved, still.T @ theta_0, atol=1e-10)


@pytest.mark.parametrize(("samples", "reached"), [(3, True), (2, False)])
def test_the_distiller_finds_the_optimum_where_there_is_one_and_not_where_there_is_none(samples, reached):
    """Random initialisations in three dimensions: three samples do, two leave what the untouched direction brings along."""
    real_inputs, real_targets, start, start_targets = arrays((40, 3), (40, 1), (1, samples, 3), (1, samples, 1))
    theta_star = linear.optimum(real_inputs, real_targets)
    floor = float(LOSS(theta_star, real_inputs, real_targets))
    problem = Problem(
        apply=lambda theta, inputs: inputs @ theta,
        inner_loss=LOSS,
        outer_loss=LOSS,
        init=lambda key: jax.random.normal(key, (3, 1), jnp.float64),
        targets=free,
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500), b1=0.5)
    outer = make_distiller(problem, optimizer, lambda key, data: data, num_nets=16, ema_decay=0.0)
    state = outer.init(DistilledData(start, start_targets, jnp.zeros((1, 1))))
    step, key = jax.jit(outer.step), jax.random.key(0)
    for _ in range(1500):
        state, _ = step(key, state, (real_inputs, real_targets))
    ends = jax.vmap(lambda k: train(problem.init(k), state.distilled))(jax.random.split(jax.random.key(1), 200))
    excess = float(jnp.mean(jax.vmap(lambda theta: LOSS(theta, real_inputs, real_targets))(ends))) - floor
    if reached:
        assert excess < 1e-6
        lr, inputs = jnp.exp(state.distilled.log_lrs[0, 0]), state.distilled.images[0]
        np.testing.assert_allclose(lr / samples * inputs.T @ inputs, np.eye(3), atol=1e-2)
    else:
        # The best that two samples can do is to leave the direction in which the real data vary least.
        least = float(jnp.linalg.eigvalsh(real_inputs.T @ real_inputs / 40)[0])
        still = linear.untouched(state.distilled.images)
        spread = jnp.var(jax.vmap(lambda theta: (still.T @ theta)[0, 0])(ends))
        assert spread > 0.5 and excess > 0.4 * least


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: linear.for_one_initialisation(one, one, 0.1), "already"),
        (lambda one: linear.for_one_initialisation(one, 2 * one, 0.0), "learning rate is 0.0"),
        (lambda one: linear.for_all_initialisations(one, -1.0), "learning rate is -1.0"),
        (lambda one: linear.for_all_initialisations(one, 0.1, steps=0), "steps is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((D, K)))
