"""Every test runs on the CPU with strict rank promotion; the fixture `x64` turns on double precision.

Strict dtype promotion is out of reach: optax's own Adam does not hold up with it.
"""

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
