"""The outer optimiser beyond Adam, which test_wiring.py has: rates that are one, running norms, others by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddjax.core.distilled import DistilledData
from ddjax.errors import InputError
from ddjax.experiment.optimizer import clip_by_running_norm, make_optimizer
from ddjax.recipes import Inner, Outer, Recipe


def make_data(seed, scale=1.0):
    rng = np.random.RandomState(seed)
    shapes = {"images": (3, 4, 5), "labels": (3, 4, 2), "log_lrs": (2, 3)}
    return DistilledData(
        **{name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    )


def moved(recipe, steps=3):
    """By how much each part has moved after some updates, of rates that start alike."""
    optimizer = make_optimizer(recipe)
    start = make_data(0)._replace(log_lrs=jnp.zeros((2, 3)))
    data, state = start, optimizer.init(start)
    for t in range(steps):
        updates, state = optimizer.update(make_data(t + 1), state, data)
        data = optax.apply_updates(data, updates)
    return jax.tree.map(lambda a, b: np.asarray(a - b), data, start)


@pytest.mark.parametrize("learned, groups", [("each", 6), ("step", 3), ("one", 1), ("none", 1)])
def test_learning_rates_that_are_one_move_as_one(learned, groups):
    found = moved(Recipe(inner=Inner(learn_rates=learned))).log_lrs
    assert len(np.unique(found)) == groups and (np.all(found == 0) if learned == "none" else np.all(found != 0))
    if learned == "step":
        np.testing.assert_array_equal(found[0], found[1])
    # The gradient of what they share is the sum of theirs; with no bound and sgd it is that times the rate.
    plain = Recipe(inner=Inner(learn_rates=learned)).replace(
        optimizer="sgd", b1=0.0, clip=None, schedule="constant", lr_log_lrs=0.5
    )
    grads = np.asarray(make_data(1).log_lrs)
    axes = {"each": (), "step": (0,), "one": (0, 1)}.get(learned)
    expected = 0 * grads if axes is None else -0.5 * np.broadcast_to(grads.sum(axis=axes, keepdims=True), grads.shape)
    np.testing.assert_allclose(moved(plain, 1).log_lrs, expected, rtol=1e-6)
    # A bound is that of the gradients before they are summed: the images' part is what it is of rates each on its own.
    bound, each = plain.replace(clip=0.1), plain.replace(clip=0.1, learn_rates="each")
    np.testing.assert_array_equal(moved(bound, 1).images, moved(each, 1).images)


@pytest.mark.parametrize("name", ["sgd", "adam", "lion"])
def test_images_move_along_axes(name):
    """As these optimisers move coordinates c of x = A c, whose gradient is A^T g; labels and rates as without."""
    axes = np.random.RandomState(7).normal(size=(20, 20)).astype(np.float32)[:, ::-1]  # of images of 4 x 5 values
    plain = Recipe().replace(optimizer=name, clip=None, lr=0.1, schedule="constant")
    recipe = plain.replace(basis="components")
    optimizer = make_optimizer(recipe, jnp.asarray(axes))
    start = make_data(0)._replace(images=jnp.zeros((3, 2, 4, 5)))
    state, data, turned = optimizer.init(start), start, make_optimizer(plain)
    state_turned, coordinates = turned.init(start), start
    for t in range(3):
        grads = make_data(t + 1)._replace(images=jax.random.normal(jax.random.key(t), (3, 2, 4, 5)))
        updates, state = optimizer.update(grads, state, data)
        data = optax.apply_updates(data, updates)
        along = (np.asarray(grads.images).reshape(6, 20) @ axes).reshape(3, 2, 4, 5)
        updates, state_turned = turned.update(grads._replace(images=jnp.asarray(along)), state_turned, coordinates)
        coordinates = optax.apply_updates(coordinates, updates)
    expected = (np.asarray(coordinates.images).reshape(6, 20) @ axes.T).reshape(3, 2, 4, 5)
    np.testing.assert_allclose(data.images, expected, rtol=1e-4, atol=1e-5)
    for part in ("labels", "log_lrs"):
        np.testing.assert_array_equal(getattr(data, part), getattr(coordinates, part))
    with pytest.raises(InputError, match="give make_optimizer those of the data"):
        make_optimizer(recipe).update(start, make_optimizer(recipe).init(start), start)


def test_a_norm_is_bound_by_the_running_mean_of_those_before():
    clip = clip_by_running_norm(2.0)
    data = make_data(0)
    state, norms, kept = clip.init(data), [1.0, 1.5, 40.0, 0.1, 5.0], []
    for norm in norms:
        grads = jax.tree.map(lambda x, n=norm: x * n / optax.tree.norm(data), data)
        updates, state = clip.update(grads, state)
        if kept:
            weights = 0.9 ** np.arange(len(kept))[::-1]
            bound = 2 * np.sum(weights * kept) / np.sum(weights)
        else:
            bound = np.inf
        np.testing.assert_allclose(optax.tree.norm(updates), min(norm, bound), rtol=1e-5)
        for found, given in zip(updates, grads, strict=True):  # the direction is kept
            np.testing.assert_allclose(found, given * min(1.0, bound / norm), rtol=1e-5)
        kept.append(min(norm, bound))
    assert kept[2] < 40 and kept[0] == 1.0


def test_optimisers_of_other_names_are_those_of_optax():
    theirs = {
        "lion": optax.lion(0.1, b1=0.5, b2=0.9, weight_decay=0.0),
        "radam": optax.radam(0.1, b1=0.5, b2=0.9),
        "nadam": optax.nadam(0.1, b1=0.5, b2=0.9),
        "adabelief": optax.adabelief(0.1, b1=0.5, b2=0.9),
        "sgd": optax.sgd(0.1, momentum=0.5),
    }
    for name, optimizer in theirs.items():
        settings = Outer(optimizer=name, b1=0.5, b2=0.9, lr=0.1, clip=None, schedule="constant")
        data, state = make_data(0).images, optimizer.init(make_data(0).images)
        for t in range(3):
            updates, state = optimizer.update(make_data(t + 1).images, state, data)
            data = optax.apply_updates(data, updates)
        np.testing.assert_allclose(
            moved(Recipe(outer=settings)).images, data - make_data(0).images, rtol=1e-4, atol=1e-6
        )
