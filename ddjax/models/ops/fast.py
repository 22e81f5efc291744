"""The convolutions of any function in the form that this backend runs fastest.

The function is traced to a jaxpr, and that evaluated with other convolutions in place of XLA's, so that nothing need be known
of the library that its layers come from.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ddjax.core.jaxprs import evaluate, rewritten
from ddjax.models.ops import layers
from ddjax.models.ops.convolution import convolution


def fast_convolutions(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with its convolutions in our form where that is the faster one: on a CPU.

    Equal to rounding in value and every derivative. Replaced are convolutions of one or two dimensions of float32 or float64,
    with any strides, padding, dilation of the kernel, groups and layout; of these also what `jit`, `checkpoint`, `scan` and
    `cond` hold. Left as they are: transposed convolutions (dilated inputs), those of three dimensions and of half precision,
    and what stands inside of a function with derivatives of its own (`custom_jvp`, `custom_vjp`), which it must keep.
    `Model` does this to every network; a function without convolutions is called as it is.

    Args:
      apply: a pure function of arrays, or of pytrees of them, by position, such as `(params, inputs) -> logits`.
    """

    @functools.wraps(apply)
    def fast(*arguments: Any) -> Any:
        if not layers._on_cpu():
            return apply(*arguments)
        return rewritten(apply, arguments, lambda jaxpr: _replaced if _has_convolutions(jaxpr) else None)

    return fast


def _has_convolutions(jaxpr: Any) -> bool:
    """Whether there are any to replace in a jaxpr, open or closed."""
    return any(_replaceable(equation) or any(map(_has_convolutions, _held(equation))) for equation in jaxpr.eqns)


def _replaceable(equation: Any) -> bool:
    if equation.primitive.name != "conv_general_dilated":
        return False
    inputs, kernel, outputs = (variable.aval for variable in (*equation.invars, *equation.outvars))
    given = equation.params
    return (
        inputs.ndim in (3, 4)
        and inputs.dtype in (np.float32, np.float64)
        and inputs.dtype == kernel.dtype == outputs.dtype
        and min(inputs.size, kernel.size, outputs.size) > 0
        and set(given["lhs_dilation"]) == {1}
        and given["batch_group_count"] == 1
        and min(min(around) for around in given["padding"]) >= 0
    )


def _held(equation: Any) -> Sequence[Any]:
    """The jaxprs that an equation of those that are gone into holds."""
    if equation.primitive.name not in _EVALUATED:
        return ()
    held: Sequence[Any] = equation.params.get("branches") or (equation.params["jaxpr"],)
    return held


def _replaced(equation: Any, given: list[Any]) -> list[Any] | None:
    """What our form gives for an equation that is a convolution, or that holds one; None for others."""
    if _replaceable(equation):
        return [_convolution(*given, **equation.params)]
    if any(map(_has_convolutions, _held(equation))):
        return _EVALUATED[equation.primitive.name](given, **equation.params)
    return None


def _evaluate(jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
    return evaluate(jaxpr, arguments, _replaced)


def _convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    *,
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Any,
    feature_group_count: int,
    **_: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` of what is `_replaceable`, whose parameters these are; one of one dimension has one row."""
    (n, channels, *sides), (features, depth, *lengths), (first, last, *between) = dimension_numbers
    x, kernel = inputs.transpose(n, *sides, channels), kernel.transpose(*lengths, depth, features)
    if row := inputs.ndim == 3:
        x, kernel = x[:, None], kernel[None]
        window_strides, padding, rhs_dilation = (1, *window_strides), ((0, 0), *padding), (1, *rhs_dilation)
    (down, across), (tall, wide), (below, beside) = window_strides, padding, rhs_dilation
    x = convolution(x, kernel, (down, across), (tall, wide), (below, beside), feature_group_count)
    return (x[:, 0] if row else x).transpose(np.argsort([first, *between, last]))


def _jit(given: list[Any], *, jaxpr: Any, **_: Any) -> list[Any]:
    return _evaluate(jaxpr, given)


def _checkpoint(given: list[Any], *, jaxpr: Any, prevent_cse: Any, policy: Any, **_: Any) -> list[Any]:
    evaluate = jax.checkpoint(lambda *given: _evaluate(jaxpr, given), prevent_cse=prevent_cse, policy=policy)
    return list(evaluate(*given))


def _scan(
    given: list[Any], *, jaxpr: Any, num_consts: int, num_carry: int, length: int, reverse: bool, unroll: int, **_: Any
) -> list[Any]:
    consts, start, each = np.split(np.arange(len(given)), [num_consts, num_consts + num_carry])

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        found = _evaluate(jaxpr, [*(given[i] for i in consts), *carry, *x])
        return found[:num_carry], found[num_carry:]

    carry, stacked = jax.lax.scan(
        body, [given[i] for i in start], [given[i] for i in each], length=length, reverse=reverse, unroll=unroll
    )
    return [*carry, *stacked]


def _cond(given: list[Any], *, branches: Sequence[Any], **_: Any) -> list[Any]:
    index, *operands = given
    return list(jax.lax.switch(index, [lambda *x, b=b: _evaluate(b, x) for b in branches], *operands))


# How what holds jaxprs is evaluated. A loop of unknown length is not among them: nothing is trained through one.
_EVALUATED: dict[str, Callable[..., list[Any]]] = {
    "jit": _jit,
    "pjit": _jit,
    "remat2": _checkpoint,
    "checkpoint": _checkpoint,
    "scan": _scan,
    "cond": _cond,
}
