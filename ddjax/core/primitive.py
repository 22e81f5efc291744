"""Primitives of our own (docs.jax.dev, "JAX Internals: primitives"), for derivatives that `custom_jvp` and `custom_vjp` cannot
give, since neither outlives the first one. All that they need of JAX is here, and says so where a future JAX lacks it.
"""

from collections.abc import Callable
from typing import Any

import jax

_TESTED = "0.10.0 to 0.12.0"


def new_primitive(
    name: str,
    compute: Callable[..., jax.Array],
    typed: Callable[..., tuple[tuple[int, ...], Any]],
    batched: Callable[..., tuple[jax.Array, int]],
    transposes: tuple[Callable[..., jax.Array], ...],
    parameters: tuple[str, ...],
) -> Any:
    """A primitive, linear in each of its arguments, with one result and parameters by keyword.

    Args:
      name: which jaxprs show.
      compute: (*arguments, **parameters) -> result, traceable.
      typed: (*abstract arguments, **parameters) -> shape and dtype of the result.
      batched: (arguments, axes, **parameters) -> result and its batch axis.
      transposes: one of one argument's map, (cotangent, argument, **parameters) -> cotangent of it; of two arguments' each,
        (cotangent, *arguments, **parameters).
      parameters: names of the parameters.

    Raises:
      ImportError: this JAX lacks a part.
    """
    try:
        from jax.core import ShapedArray
        from jax.extend.core import Primitive
        from jax.interpreters.ad import defbilinear, deflinear2
        from jax.interpreters.batching import primitive_batchers
        from jax.interpreters.mlir import lower_fun, register_lowering

        primitive: Any = Primitive(name)
        primitive.def_impl(jax.jit(compute, static_argnames=parameters))
        primitive.def_abstract_eval(lambda *arguments, **given: ShapedArray(*typed(*arguments, **given)))
        register_lowering(primitive, lower_fun(compute, multiple_results=False))
        if len(transposes) == 1:
            deflinear2(primitive, lambda *arguments, **given: [transposes[0](*arguments, **given)])
        else:
            defbilinear(primitive, *transposes)
        primitive_batchers[primitive] = batched
    except (ImportError, AttributeError, TypeError) as error:
        raise ImportError(
            f"ddjax was tested with jax {_TESTED}, and jax {jax.__version__} has changed what ddjax/core/primitive.py is "
            f"made of ({error}): install one of those versions, or a newer ddjax"
        ) from error
    return primitive
