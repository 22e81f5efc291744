"""What several test files use: a cache of compiled programs, errors, operations of XLA's own, and derivatives compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache


def native_conv(inputs, kernel, padding, stride=1):
    dimensions, pads = ("NHWC", "HWIO", "NHWC"), [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(inputs, kernel, (stride, stride), pads, dimension_numbers=dimensions)


def native_pool(inputs, size, stride, padding):
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(inputs, -np.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), pads)


def native_conv_max_pool(inputs, kernel, padding):
    return native_pool(native_conv(inputs, kernel, padding), 2, 2, 0)


def random_arrays(*shapes, seed=0, dtype: Any = np.float64):
    rng = np.random.RandomState(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def all_derivatives(function, *arguments):
    """Value, gradient, and Hessian times a direction that moves every argument, of a function of any shape."""

    def scalar(*arguments):
        out = function(*arguments)
        weights = jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
        return jnp.sum(weights * (out + jnp.sin(out)))

    tangents = random_arrays(*(a.shape for a in arguments), seed=1, dtype=arguments[0].dtype)
    gradient = jax.grad(scalar, argnums=tuple(range(len(arguments))))
    return function(*arguments), *jax.jvp(gradient, arguments, tangents)


def assert_same_derivatives(ours, reference, *arguments, tolerance=1e-11):
    """Each array within `tolerance` of its largest entry."""
    found, expected = (jax.jit(partial(all_derivatives, f))(*arguments) for f in (ours, reference))

    def compare(a, b):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(b))))

    jax.tree.map(compare, found, expected)


def relative_error(found, expected):
    """The largest error of a leaf relative to that leaf's norm; leaves that are zero must be so in both."""

    def error(a, b):
        return np.linalg.norm(np.ravel(a) - np.ravel(b)) / (np.linalg.norm(np.ravel(b)) or 1.0)

    return max(jax.tree.leaves(jax.tree.map(error, *jax.device_get((found, expected)))))


@contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """While this lasts, JAX keeps what it compiles in `folder` and finds it there: for what compiles one program again and
    again."""
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
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
