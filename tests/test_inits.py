"""ddjax.core.inits and the first iterate: what is drawn, and that a compiled program takes it as an argument."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.core.inits import fixed_init, pool_init

POOL = {"w": np.arange(10.0).reshape(5, 2), "b": np.arange(5)}


@pytest.mark.parametrize("make", [fixed_init, pool_init])
def test_initial_weights_are_an_argument_of_a_compiled_function(make):
    """Other weights of the same shapes are drawn without another compilation."""

    @jax.jit
    @chex.assert_max_traces(1)
    def draw(init, keys):
        return jax.vmap(init)(keys)

    keys = jax.random.split(jax.random.key(0), 200)
    params, others = POOL, jax.tree.map(lambda leaf: leaf + 100, POOL)
    first, second = draw(make(params), keys), draw(make(others), keys)
    chex.assert_trees_all_equal(second, jax.tree.map(lambda leaf: leaf + 100, first))
    if make is fixed_init:
        chex.assert_trees_all_equal(first, jax.tree.map(lambda leaf: jnp.tile(leaf, (200,) + leaf.ndim * (1,)), POOL))
    else:  # whole networks, and each of them as often as the others
        counts = np.bincount(first["b"], minlength=5)
        assert len(counts) == 5 and np.all(counts > 20)
        chex.assert_trees_all_equal(first, jax.tree.map(lambda leaf: leaf[first["b"]], POOL))
