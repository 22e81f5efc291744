"""A network as a pair of pure functions, adapters that make one of a user's own Flax module, and the check of what it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError, ModifyScopeVariableError, ScopeCollectionNotFound

from ddjax.errors import InputError, one_line
from ddjax.models.ops.fast import fast_convolutions

if TYPE_CHECKING:
    from flax import nnx

_RUNNING_STATE = (
    "the inner loop differentiates through a pure function of the weights. Use GroupNorm, LayerNorm or InstanceNorm "
    "instead of BatchNorm, and leave dropout out (or make it deterministic)"
)


class _Parts(NamedTuple):
    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    gated: bool = False


class Model(_Parts):
    """A network without state.

    Attributes:
      init: `key -> params`, fresh weights as a pytree of float arrays.
      apply: `(params, inputs [b, ...]) -> logits [b, K]`, float32; what is given, by `fast_convolutions`.
      gated: whether the `gate_width` given to `build_model` reached it; a network without gates never sees one.
    """

    __slots__ = ()

    def __new__(
        cls, init: Callable[[jax.Array], Any], apply: Callable[[Any, jax.Array], jax.Array], gated: bool = False
    ) -> "Model":
        return super().__new__(cls, init, fast_convolutions(apply), gated)


def pictures_from(smallest: int, name: str) -> Callable[[tuple[int, ...]], None]:
    """The `check_input` of a network that reads pictures [height, width, channels] of `smallest` pixels a side or more."""

    def check_input(input_shape: tuple[int, ...]) -> None:
        if len(input_shape) != 3 or min(input_shape[:2]) < smallest:
            raise InputError(
                f"{name} reads pictures [height, width, channels] of at least {smallest}x{smallest}, but the examples have "
                f"shape {list(input_shape)}: choose --model mlp or linear, or resize the pictures"
            )

    return check_input


def from_linen(module: nn.Module, input_shape: tuple[int, ...], num_classes: int | None = None) -> Model:
    """A Flax Linen module `(inputs [b, ...]) -> logits [b, K]` as a `Model`.

    Args:
      module: the module; it is called with the inputs alone. If it has a method `check_input(input_shape)`, that is asked
        first, and raises InputError for inputs that the network is not made for.
      input_shape: shape of one example, without the batch axis.
      num_classes: K, if it is to be checked.

    Raises:
      InputError: the module keeps running state (BatchNorm) or draws random numbers when applied (dropout), cannot read such
        examples, or is no network in the sense of `check_model`.
    """
    name = type(module).__name__
    if hasattr(module, "check_input"):
        module.check_input(input_shape)
    example = jnp.zeros((1, *input_shape), jnp.float32)
    with _in_one_line(name, input_shape):
        variables = jax.eval_shape(module.init, jax.random.key(0), example)
    state = sorted(set(variables) - {"params"})
    if state:
        raise InputError(f"{name} keeps running state ({', '.join(state)}), but {_RUNNING_STATE}")

    def init(key: jax.Array) -> Any:
        return module.init(key, example).get("params", {})

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return cast(jax.Array, module.apply({"params": params}, inputs))

    _check(variables.get("params", {}), apply, input_shape, num_classes, name)
    return Model(init, apply)


def from_nnx(
    make: Callable[["nnx.Rngs"], "nnx.Module"],
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
) -> Model:
    """A Flax NNX module as a `Model`.

    Args:
      make: `rngs -> module`; the module is called with inputs [b, ...] and returns logits [b, K].
      input_shape: shape of one example, without the batch axis, if that is to be checked.
      num_classes: K, if that too is to be checked.

    Raises:
      InputError: the module keeps running state (BatchNorm) or draws random numbers (dropout), or, for a given
        `input_shape`, is no network in the sense of `check_model`.
    """
    from flax import nnx  # which takes long to import, and most never need it

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
        return cast(jax.Array, nnx.merge(graph, abstract)(inputs))

    model = Model(init, apply)
    if input_shape is not None:
        check_model(model, input_shape, num_classes, name="the NNX module")
    return model


def check_model(
    model: Model, input_shape: tuple[int, ...], num_classes: int | None = None, *, name: str = "the network"
) -> None:
    """Sees to it that a network is one, from shapes and types alone: nothing is computed.

    Args:
      model: the network.
      input_shape: shape of one example, without the batch axis.
      num_classes: K; None: any.
      name: what messages call the network.

    Raises:
      InputError: `init` gives no weights, or others than float arrays; `apply` cannot read examples of that shape, draws
        random numbers or updates state, or returns anything but float32 logits [b, K].
    """
    with _in_one_line(name, input_shape):
        params = jax.eval_shape(model.init, jax.random.key(0))
    _check(params, model.apply, input_shape, num_classes, name)


def _check(
    params: Any, apply: Callable[..., Any], input_shape: tuple[int, ...], num_classes: int | None, name: str
) -> None:
    """`check_model` of a network whose weights have the shapes and types of `params`."""
    others = sorted(
        {str(leaf.dtype) for leaf in jax.tree.leaves(params) if not jnp.issubdtype(leaf.dtype, jnp.floating)}
    )
    if others or not jax.tree.leaves(params):
        what = f"weights of type {', '.join(others)}" if others else "no weights"
        raise InputError(f"{name} has {what}, but gradient descent needs float arrays: return those alone from init")
    count = (num_classes or 1) + 1  # of examples: never as many as classes, so that no axis is taken for the other
    with _in_one_line(name, input_shape):
        logits = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((count, *input_shape), jnp.float32))
    one = isinstance(logits, jax.ShapeDtypeStruct)
    if one and logits.dtype == jnp.float32 and logits.shape in ((count, num_classes or k) for k in logits.shape[1:]):
        return
    found = f"{logits.dtype} {list(logits.shape)}" if one else f"a {type(logits).__name__}"
    raise InputError(
        f"{name} returns {found} for {count} examples: let it return float32 logits [{count}, {num_classes or 'K'}], one "
        "score for each class"
    )


@contextmanager
def _in_one_line(name: str, input_shape: tuple[int, ...]) -> Iterator[None]:
    """What a network raises that is given examples of `input_shape`, as InputError."""
    try:
        yield
    except InputError:
        raise
    except (InvalidRngError, ModifyScopeVariableError, ScopeCollectionNotFound) as error:
        raise InputError(f"{name} draws random numbers or updates state when applied, but {_RUNNING_STATE}") from error
    except Exception as error:  # a user's code may raise anything
        raise InputError(f"{name} cannot read examples of shape {list(input_shape)}: {one_line(error)}") from error
