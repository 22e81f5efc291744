"""What the inner loop keeps of a step for its backward pass, because it costs much to compute again and little to hold.

The unroll computes the activations of a step again when it differentiates it, forwards and backwards, for keeping them all is
slower: it is memory traffic. But a value that is a sum of a thousand products is worth the few bytes. Layers mark such values
by `kept`, going forwards or backwards; `Steps` evaluates a function once with them noted down, and again with them given, where
whatever only they needed is not computed.
"""

from collections.abc import Callable
from typing import Any, cast

import jax

from ddjax.core.jaxprs import Replace, rewritten
from ddjax.core.primitive import new_primitive


def kept(x: jax.Array, *, value: bool = False, cotangent: bool = False) -> jax.Array:
    """x itself, marked: its `value`, or its `cotangent`, is kept between the two evaluations of an inner step."""
    return cast(jax.Array, _kept_p.bind(x, now=value, then=cotangent))


class Steps:
    """A function of arrays that is evaluated twice for the same arguments.

    Marks are found in the function's own jaxpr; those within a `scan` or `jit` that it holds count as any other value.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def first(self, *arguments: Any) -> tuple[Any, list[jax.Array]]:
        """What it returns, and the values that are marked."""
        noted: list[jax.Array] = []

        def note(equation: Any, given: list[Any]) -> None:
            if _marked(equation):
                noted.extend(given)

        return rewritten(self.function, arguments, _if_marked(note)), noted

    def again(self, noted: list[jax.Array], *arguments: Any) -> Any:
        """What it returns, given the values that are marked; differentiable as it is without them."""
        values = iter(noted)

        def give(equation: Any, given: list[Any]) -> list[Any] | None:
            return [_instead(*given, next(values))] if _marked(equation) else None

        return rewritten(self.function, arguments, _if_marked(give))


def _marked(equation: Any) -> bool:
    return equation.primitive is _kept_p and bool(equation.params["now"])


def _if_marked(replace: Replace) -> Callable[[Any], Replace | None]:
    return lambda jaxpr: replace if any(map(_marked, jaxpr.eqns)) else None


@jax.custom_jvp
def _instead(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, with the derivative of x, whose value it is."""
    return value


@_instead.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return primals[1], tangents[0]


def _transposed(cotangent: jax.Array, x: Any, *, now: bool, then: bool) -> jax.Array:
    return cast(jax.Array, _kept_p.bind(cotangent, now=then, then=now))


def _batched(arguments: Any, axes: Any, **marks: bool) -> tuple[jax.Array, int]:
    return _kept_p.bind(*arguments, **marks), axes[0]


_kept_p = new_primitive(
    "kept", lambda x, **_: x, lambda x, **_: (x.shape, x.dtype), _batched, (_transposed,), ("now", "then")
)
