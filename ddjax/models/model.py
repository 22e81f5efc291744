"""A network as a pair of pure functions, and adapters that make one of a user's own Flax module."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import InvalidRngError

from ddjax.errors import InputError

_RUNNING_STATE = (
    "the inner loop differentiates through a pure function of the weights. Use GroupNorm, LayerNorm or InstanceNorm "
    "instead of BatchNorm, and leave dropout out (or make it deterministic)"
)


class Model(NamedTuple):
    """A network without state.

    Attributes:
      init: `key -> params`, fresh weights as a pytree of float arrays.
      apply: `(params, inputs [b, ...]) -> logits [b, K]`.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


def from_linen(module: nn.Module, input_shape: tuple[int, ...]) -> Model:
    """A Flax Linen module `(inputs [b, ...]) -> logits [b, K]` as a `Model`.

    Args:
      module: the module; it is called with the inputs alone.
      input_shape: shape of one example, without the batch axis.

    Raises:
      InputError: the module keeps running state (BatchNorm) or draws random numbers when applied (dropout).
    """
    example = jnp.zeros((1, *input_shape), jnp.float32)
    try:
        variables = jax.eval_shape(module.init, jax.random.key(0), example)
        state = sorted(set(variables) - {"params"})
        if state:  # which has to be known before it is applied: Flax fails in its own words where it is missing
            raise InputError(f"{type(module).__name__} keeps running state ({', '.join(state)}), but {_RUNNING_STATE}")
        jax.eval_shape(lambda v: module.apply(v, example), variables)
    except InvalidRngError as error:
        raise InputError(f"{type(module).__name__} draws random numbers when applied, but {_RUNNING_STATE}") from error
    return Model(
        init=lambda key: module.init(key, example)["params"],
        apply=lambda params, inputs: cast(jax.Array, module.apply({"params": params}, inputs)),
    )


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """A Flax NNX module as a `Model`.

    Args:
      make: `rngs -> module`; the module is called with inputs [b, ...] and returns logits [b, K].

    Raises:
      InputError: the module keeps running state (BatchNorm) or draws random numbers (dropout).
    """
    parts: Any = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)
    graph, _, rest = parts
    leaves = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
    if leaves:
        raise InputError(f"the NNX module keeps state besides its weights ({', '.join(leaves)}), but {_RUNNING_STATE}")

    def init(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        abstract = nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
        nnx.replace_by_pure_dict(abstract, params)
        return nnx.merge(graph, abstract)(inputs)

    return Model(init, apply)
