"""The run's one key, and what is drawn from it outside the outer steps."""

import jax

# Outer step t uses fold_in(key, t), and these stay clear of every t.
_STREAMS = {name: 2**31 + i for i, name in enumerate(("weights", "images", "valid", "test", "baseline", "all data"))}


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of what `name` says: "weights", "images", "valid", "test", "baseline" or "all data"."""
    return jax.random.fold_in(key, _STREAMS[name])
