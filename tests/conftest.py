"""Every test runs on the CPU with strict rank promotion; the fixture `x64` turns on double precision.

Strict dtype promotion is out of reach: optax's own Adam does not hold up with it.
"""

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision, for comparisons far below the rounding of float32; compiled in haste, as none of it runs long."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
