"""Compiled programs kept on the disk, for tests that call again and again what compiles the same program afresh."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

_OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """While this lasts, JAX keeps what it compiles in `folder`, and finds it there."""
    options = {"jax_compilation_cache_dir": str(folder), **_OPTIONS}
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # which is opened once, at the first compilation of a process
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
