"""Windows and views of an unroll, drawn at random, and bounds of each network: against plain loops in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import relative_error
from test_inner import plain_unroll
from test_outer import BATCH, E, S, half_view as view, make_arguments, make_dataset, make_problem

import ddjax
from ddjax.core.distilled import init_distilled, learned_labels
from ddjax.core.inner import unroll
from ddjax.core.meta import Layout, meta_gradient, meta_loss
from ddjax.core.order import draw
from ddjax.core.outer import make_distiller
from ddjax.errors import InputError
from ddjax.experiment.outer import first_iterate
from ddjax.experiment.setup import directions, set_up
from ddjax.experiment.views import make_view
from ddjax.recipes import Inner, Recipe

KEY, T = jax.random.key(5), S * E


def see(t, *example):
    return view(jax.random.fold_in(KEY, t), example)


DIRECTIONS = {
    "gd": Inner(),
    "gd with decay": Inner(weight_decay=0.1),
    "momentum": Inner(direction="momentum", momentum=0.7),
    "nesterov with decay": Inner(direction="nesterov", weight_decay=0.05),
    "adam": Inner(direction="adam"),
    "adam with decay": Inner(direction="adam", weight_decay=0.1),
}


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("window", [None, (1, 3), (T - 2, 2)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_meta_gradients_of_views_and_windows_are_those_of_plain_loops(x64, direction, window, remat):
    problem, (params_N, distilled, batch) = make_problem(), make_arguments(1)
    params, moves = jax.tree.map(lambda leaf: leaf[0], params_N), directions(DIRECTIONS[direction])
    options = {"direction": moves, "targets": learned_labels, "window": window, "view": view, "key": KEY}

    def ours(distilled):
        return problem.outer_loss(unroll(problem.inner_loss, params, distilled, remat=remat, **options), *batch)

    def plain(distilled):
        end = plain_unroll(problem.inner_loss, moves, learned_labels, params, distilled, window, see)
        return problem.outer_loss(end, *batch)

    found, expected = (jax.jit(jax.value_and_grad(f))(distilled) for f in (ours, plain))
    assert all(np.linalg.norm(np.ravel(part)) > 1e-6 for part in jax.tree.leaves(expected))
    assert relative_error(found, expected) < 1e-10


def test_hyper_parameters_of_the_inner_optimiser_are_those_of_pytorch(x64):
    """Three steps by hand: the decay goes into the gradient of gradient descent and beside Adam's step, as AdamW has it."""
    grads, theta = [0.5, -0.2, 0.3], 2.0
    by_hand = {}
    for name, nesterov in (("momentum", False), ("nesterov", True)):
        p, v = theta, 0.0
        for g in grads:
            g += 0.1 * p
            v = 0.7 * v + g
            p -= 0.1 * (g + 0.7 * v if nesterov else v)
        by_hand[name] = p
    p, m, n = theta, 0.0, 0.0
    for t, g in enumerate(grads, 1):
        m, n = 0.9 * m + 0.1 * g, 0.999 * n + 0.001 * g * g
        p -= 0.1 * (m / (1 - 0.9**t) / np.sqrt(n / (1 - 0.999**t)) + 0.1 * p)
    by_hand["adam"] = p
    for name, expected in by_hand.items():
        moves = directions(Inner(direction=name, momentum=0.7, weight_decay=0.1))
        assert moves is not None
        p, state = jnp.asarray(theta), moves.init(jnp.asarray(theta))
        for g in grads:
            update, state = moves.update(jnp.asarray(g), state, p)
            p = p - 0.1 * update
        np.testing.assert_allclose(p, expected, rtol=1e-6)


def test_one_program_serves_every_window(x64):
    problem = make_problem(window=2)
    params_N, distilled, batch = jax.tree.map(lambda x: x.astype(jnp.float32), make_arguments())
    step = jax.jit(partial(meta_gradient, problem))
    losses = {float(step(params_N, distilled, batch, key=jax.random.key(i))[0]) for i in range(40)}
    assert len(losses) == T - 2 + 1 and step._cache_size() == 1


@pytest.mark.parametrize("early", [0.0, 3.0])
def test_a_window_begins_early_as_often_as_it_is_told(early):
    keys = jax.random.split(KEY, 20_000)
    starts = jax.vmap(lambda key: draw(key, 12, 3, None, early)["window"][0])(keys)
    odds = np.exp(-early * np.arange(10) / 9)
    assert starts.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(starts) / len(keys), odds / odds.sum(), atol=0.01)


def test_a_window_over_all_steps_is_the_whole_unroll(x64):
    whole = meta_gradient(make_problem(), *make_arguments())
    window = meta_gradient(make_problem(window=T), *make_arguments(), key=KEY)
    assert relative_error(window, whole) < 1e-13


LAYOUTS = [Layout(), Layout(together=1, chunk=2, remat=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_drawn_is_drawn_alike_in_every_layout(x64, layout):
    problem = make_problem(targets=learned_labels, window=3, window_early=2.0, view=view)
    expected = jax.jit(jax.value_and_grad(partial(meta_loss, problem, key=KEY), argnums=1))(*make_arguments())
    assert (
        relative_error(jax.jit(partial(meta_gradient, problem, layout=layout, key=KEY))(*make_arguments()), expected)
        < 1e-12
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_network_is_bounded_on_its_own(x64, layout):
    problem, (params_N, distilled, batch) = make_problem(targets=learned_labels), make_arguments()
    each = [
        meta_gradient(problem, jax.tree.map(lambda x, i=i: x[i : i + 1], params_N), distilled, batch)[1]
        for i in range(6)
    ]
    norms = [float(optax.tree.norm(grads)) for grads in each]
    bound = sorted(norms)[2]
    parts = [
        jax.tree.map(lambda x, n=norm: x * min(1.0, bound / n), grads) for grads, norm in zip(each, norms, strict=True)
    ]
    expected = jax.tree.map(lambda *xs: sum(xs) / len(xs), *parts)
    found = meta_gradient(problem._replace(bound=bound), params_N, distilled, batch, layout)[1]
    assert relative_error(found, expected) < 1e-12


def test_a_step_of_the_outer_loop_draws_from_its_own_key(x64):
    """Resumed runs see the same windows and views, and every step others."""
    outer = make_distiller(
        make_problem(window=2, view=view),
        optax.sgd(0.0),
        lambda key, dataset: tuple(part[:BATCH] for part in dataset),
        num_nets=1,
        ema_decay=0.5,
    )
    state, step = outer.init(make_arguments()[1]), jax.jit(outer.step)
    fixed = [step(jax.random.key(0), state._replace(step=jnp.int32(t)), make_dataset())[1].loss for t in (0, 1, 2, 0)]
    assert len({*map(float, fixed)}) == 3 and fixed[0] == fixed[3]


@pytest.mark.parametrize(
    "options, says",
    [
        ({"window": T + 1}, f"longer than the {T} there are"),
        ({"view": view}, "give key="),
        ({"window": 2}, "give key="),
    ],
)
def test_what_cannot_be_drawn_is_said(x64, options, says):
    key = KEY if "longer" in says else None
    with pytest.raises(InputError, match=says):
        meta_gradient(make_problem(**options), *make_arguments(), key=key)


@pytest.mark.parametrize("classes, each", [(2, 3), (None, 2), (4, 1), (1, None)])
def test_a_subset_is_of_so_many_images_of_so_many_classes(classes, each):
    """Class by class, without repetition, all of them about equally often; what is seen of them is augmented afterwards."""
    K, per_class = 4, 3
    inner = Inner(per_class=per_class, subset_classes=classes, subset_images=each)
    view = jax.jit(make_view(inner, K, lambda key, images: images + 0.25))
    images, targets = jnp.arange(K * per_class, dtype=jnp.float32)[:, None], jnp.repeat(jnp.eye(K), per_class, axis=0)
    counts = np.zeros(K * per_class)
    for i in range(200):
        seen, labels = map(np.asarray, view(jax.random.key(i), (images, targets)))
        rows = (seen[:, 0] - 0.25).astype(int)
        found = [list(rows[labels.argmax(axis=1) == k]) for k in range(K) if (labels.argmax(axis=1) == k).any()]
        assert len(found) == (classes or K) and all(len(set(own)) == len(own) == (each or per_class) for own in found)
        np.testing.assert_array_equal(labels.argmax(axis=1), rows // per_class)
        counts[rows] += 1
    assert counts.sum() == 200 * (classes or K) * (each or per_class) and counts.min() > 0.5 * counts.mean()
    assert make_view(Inner(), K, None) is None


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"subset_classes": 5}, "--subset-classes is 5, but there are 4 classes"),
        ({"subset_images": 2}, "--subset-images is 2, but --per-class 1"),
        ({"subset_images": 1, "images": 3}, "leave --images out"),
    ],
)
def test_a_subset_of_what_is_not_there_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        make_view(Inner(**settings), 4, None)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"window": 5, "steps": 2, "epochs": 2}, "--window is 5, but the inner loop has 4 steps"),
        ({"learn_labels": True, "poison": "0:1"}, "--learn-labels would learn the labels that --poison sets"),
        ({"images": 5}, "give --learn-labels"),
        ({"window_early": 1.0}, "--window-early moves the start of a window: give --window"),
        ({"warmup": 7, "outer_steps": 7}, "--warmup is 7 of 7"),
        ({"narrow": 2, "init": "random"}, "--narrow and --narrow-steps say how wide .*: give both"),
        ({"narrow_steps": 2, "init": "random"}, "--narrow and --narrow-steps say how wide .*: give both"),
        ({"narrow": 2, "narrow_steps": 2}, "--narrow draws other networks at first: give --init random"),
        ({"narrow": 2, "narrow_steps": 2, "init": "random", "pool": "p"}, "--narrow draws other networks .* no --pool"),
        ({"window": 0}, "--window is 0: give a finite number above zero"),
        ({"momentum": 1.0}, "--momentum is 1.0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        Recipe().replace(**settings).validate()


def test_fewer_images_than_classes_share_the_classes():
    """And more take turns: no class is without an image."""
    options = {"input_shape": (2,), "num_classes": 5, "steps": 2, "epochs": 1, "per_class": 1, "learning_rate": 0.1}
    for examples, each in ((2, [3, 2]), (5, [1] * 5), (7, [1] * 7)):
        labels = np.asarray(init_distilled(KEY, **options, examples=examples, sharpness=4.0).labels)
        assert labels.shape == (2, examples, 5) and list((labels[1] == 4).sum(axis=1)) == each
        assert np.all((labels == 4).any(axis=1)) and set(np.unique(labels)) == {0, 4}


@pytest.mark.parametrize("siamese", ["rotate-scale", "brightness-cutout"])
def test_both_sides_of_matched_gradients_are_changed_alike(siamese):
    """A real batch of the distilled images themselves is no way off, whatever is drawn; changed each by itself it is."""
    recipe = ddjax.get_recipe("digits").replace(model="linear", objective="gradient", siamese=siamese, gate_width=0.0)
    experiment = set_up(recipe)
    distilled = first_iterate(experiment)
    batch = jnp.tile(distilled.images[0], (2, 1, 1, 1)), jnp.tile(distilled.labels[0], (2, 1))
    params_N = jax.tree.map(lambda leaf: leaf[None] + 0.01, experiment.starts.draw(KEY))

    def off(problem, key):
        apart = [meta_loss(problem, params_N, distilled, batch, key)]
        apart.append(meta_gradient(problem, params_N, distilled, batch, Layout(chunk=5), key)[0])
        return apart

    alike = [off(experiment.problem, key) for key in jax.random.split(KEY, 3)]
    np.testing.assert_allclose(alike, 0, atol=1e-5)
    assert np.min(off(experiment.problem._replace(real_view=None), KEY)) > 1e-3
    with pytest.raises(InputError, match="give both"):
        off(experiment.problem._replace(view=None), KEY)
    # The batches of the outer loop come unchanged, then: what they go through is drawn with the step's own view.
    assert (
        experiment.problem.real_view is not None and set_up(recipe.replace(objective="loss")).problem.real_view is None
    )


def test_a_view_alone_has_no_key(x64):
    problem, (params_N, distilled, _) = make_problem(), make_arguments(1)
    with pytest.raises(InputError, match="give key="):
        unroll(problem.inner_loss, jax.tree.map(lambda x: x[0], params_N), distilled, view=view)
