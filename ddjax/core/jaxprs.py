"""Functions evaluated equation by equation, as JAX traced them (docs.jax.dev, "Writing custom Jaxpr interpreters in JAX")."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

# (equation, its arguments) -> its results, where they are to be others than the equation's own; None elsewhere.
Replace = Callable[[Any, list[Any]], Sequence[Any] | None]


def evaluate(jaxpr: Any, arguments: Sequence[Any], replace: Replace) -> list[Any]:
    """What a jaxpr, open or closed, returns for its arguments; `replace` may give the results of any equation."""
    if hasattr(jaxpr, "consts"):
        jaxpr, arguments = jaxpr.jaxpr, (*jaxpr.consts, *arguments)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), arguments, strict=True))

    def value_of(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [value_of(atom) for atom in equation.invars]
        found = replace(equation, given)
        if found is None:
            found = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
            found = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found, strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def rewritten(function: Callable[..., Any], arguments: Sequence[Any], replace: Callable[[Any], Replace | None]) -> Any:
    """`function` of pytrees, evaluated so; `replace` makes the replacement of its jaxpr, or None to call it as it is."""
    # JAX keeps the jaxpr of each function and shape, so that this traces once.
    closed, returned = jax.make_jaxpr(function, return_shape=True)(*arguments)
    replacement = replace(closed)
    if replacement is None:
        return function(*arguments)
    return jax.tree.unflatten(jax.tree.structure(returned), evaluate(closed, jax.tree.leaves(arguments), replacement))
