"""ddjax.core.inits and the first iterate: what is drawn, and that a compiled program takes it as an argument."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.core.distilled import init_distilled
from ddjax.core.inits import fixed_init, pool_init
from ddjax.experiment.outer import first_iterate
from ddjax.experiment.setup import set_up
from ddjax.recipes import get_recipe

POOL = {"w": np.arange(10.0).reshape(5, 2), "b": np.arange(5)}


def shifted(params):
    return jax.tree.map(lambda leaf: leaf + 100, params)


def test_a_pool_is_an_argument_of_a_compiled_function():
    """Another pool is drawn from without another compilation: whole networks, each as often as the others."""

    @jax.jit
    @chex.assert_max_traces(1)
    def draw(init, keys):
        return jax.vmap(init)(keys)

    keys = jax.random.split(jax.random.key(0), 200)
    drawn, others = draw(pool_init(POOL), keys), draw(pool_init(shifted(POOL)), keys)
    chex.assert_trees_all_equal(drawn, jax.tree.map(lambda leaf: leaf[drawn["b"]], POOL))
    chex.assert_trees_all_equal(others, shifted(drawn))
    counts = np.bincount(drawn["b"], minlength=5)
    assert len(counts) == 5 and np.all(counts > 20)


def test_a_fixed_network_is_the_same_whatever_the_key():
    init = fixed_init(POOL)
    drawn = jax.jit(lambda init, keys: jax.vmap(init)(keys))(init, jax.random.split(jax.random.key(0), 3))
    chex.assert_trees_all_equal(drawn, jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), POOL))


def test_labels_start_as_one_hot_times_their_sharpness():
    """Whatever they will be taken for: two examples of each class, class by class, in every step."""
    options = {"input_shape": (4, 5), "num_classes": 3, "steps": 2, "epochs": 6, "per_class": 2, "learning_rate": 0.1}
    plain = init_distilled(jax.random.key(0), **options)
    np.testing.assert_array_equal(plain.labels, np.tile(np.repeat(np.eye(3), 2, axis=0), (2, 1, 1)))
    np.testing.assert_array_equal(init_distilled(jax.random.key(0), sharpness=4.0, **options).labels, 4 * plain.labels)
    assert plain.images.shape == (2, 6, 4, 5)
    np.testing.assert_allclose(plain.log_lrs, np.full((6, 2), np.log(0.1)), rtol=1e-6)


@pytest.mark.parametrize("learn_labels", [False, True])
def test_a_recipe_starts_from_probabilities_or_from_logits(learn_labels):
    recipe = get_recipe("digits")
    recipe = dataclasses.replace(recipe, inner=dataclasses.replace(recipe.inner, learn_labels=learn_labels))
    labels = first_iterate(set_up(recipe)).labels
    np.testing.assert_array_equal(np.unique(labels), [0.0, 4.0 if learn_labels else 1.0])
