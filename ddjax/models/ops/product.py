"""A matrix product whose derivatives are matrix products in the order in which they are used.

JAX differentiates a product into a product and a transposition. XLA folds that transposition away where it stands alone,
but not where two such products are added, which is what every second derivative does; then whole activations are copied
to be turned round. Here each derivative is asked for in its final order.
"""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from ddjax.core.primitive import new_primitive


def product(a: jax.Array, b: jax.Array, axis_a: int = 1, axis_b: int = 0) -> jax.Array:
    """Contracts axis `axis_a` of the matrix `a` with axis `axis_b` of the matrix `b`: [rest of a, rest of b].

    By default a @ b. Both are of one dtype; with more than two axes they are stacks of matrices, of equal leading axes, which
    are multiplied one by one. Derivatives of every order and `vmap` are supported.
    Under `jax.default_matmul_precision("bfloat16")` both are rounded to bfloat16 and their products summed in their own
    dtype, on every backend; any other precision is left to JAX.

    Raises:
      TypeError: a and b differ in dtype or in their leading axes.
    """
    if a.dtype != b.dtype:
        raise TypeError(f"product of {a.dtype} and {b.dtype}: give both one dtype")
    if a.shape[:-2] != b.shape[:-2]:
        raise TypeError(
            f"product of stacks {a.shape[:-2]} and {b.shape[:-2]} of matrices: give both the same leading axes"
        )
    precision = cast(Any, jax.config).jax_default_matmul_precision
    return cast(jax.Array, _product_p.bind(a, b, axis_a=axis_a, axis_b=axis_b, precision=precision))


def _dot(a: jax.Array, b: jax.Array, *, axis_a: int, axis_b: int, precision: str | None) -> jax.Array:
    stack = tuple(range(a.ndim - 2))
    dimensions = (((a.ndim - 2 + axis_a,), (b.ndim - 2 + axis_b,)), (stack, stack))
    if precision == "bfloat16":  # which XLA's own option of that name leaves undone on CPUs
        a16, b16 = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jax.lax.dot_general(a16, b16, dimensions, preferred_element_type=a.dtype)
    return jax.lax.dot_general(a, b, dimensions, precision=precision)


def _cotangent_a(
    cotangent: jax.Array, a: Any, b: jax.Array, *, axis_a: int, axis_b: int, precision: str | None
) -> jax.Array:
    other = 1 - axis_b
    return product(cotangent, b, 1, other) if axis_a == 1 else product(b, cotangent, other, 1)


def _cotangent_b(
    cotangent: jax.Array, a: jax.Array, b: Any, *, axis_a: int, axis_b: int, precision: str | None
) -> jax.Array:
    other = 1 - axis_a
    return product(a, cotangent, other, 0) if axis_b == 0 else product(cotangent, a, 0, other)


def _batched(arguments: Any, axes: Any, *, axis_a: int, axis_b: int, precision: str | None) -> tuple[jax.Array, int]:
    return jax.vmap(partial(_dot, axis_a=axis_a, axis_b=axis_b, precision=precision), in_axes=axes)(*arguments), 0


def _typed(a: Any, b: Any, *, axis_a: int, axis_b: int, precision: str | None) -> tuple[tuple[int, ...], Any]:
    return (*a.shape[:-2], a.shape[-1 - axis_a], b.shape[-1 - axis_b]), a.dtype


_product_p = new_primitive(
    "product", _dot, _typed, _batched, (_cotangent_a, _cotangent_b), ("axis_a", "axis_b", "precision")
)
