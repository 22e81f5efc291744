"""Networks of which a part alone is trained: a pretrained backbone stands still, and the inner loop moves the rest."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from ddjax.errors import InputError
from ddjax.models.model import Model

Trainable = Callable[[str], bool] | Sequence[str] | None


def freeze(
    model: Model, params: Any, trainable: Trainable = None, *, input_shape: tuple[int, ...] | None = None
) -> Model:
    """The network with most of its weights fixed: a `Model` whose weights are the trained part alone.

    The inner loop keeps copies of the trained part only, whatever the size of the rest, and distilled examples pass through
    all of it. Fresh weights are the trained part of fresh weights of `model`; the rest is always `params`.

    Args:
      model: the network.
      params: its weights, as from `model.init`, a training, or `load_weights`.
      trainable: which weights are trained, of names such as "dense3/kernel": a function of the name, or beginnings of names,
        such as ["dense3"]. None: the last layer, which is the one whose weights are used last; this takes `input_shape`.
      input_shape: shape of one example, without the batch axis.

    Raises:
      InputError: the weights do not fit the network, or none of them, or all, would be trained.
    """
    expected = jax.eval_shape(model.init, jax.random.key(0))
    _require_fit(expected, params)
    named = _named(params)
    if trainable is None:
        if input_shape is None:
            raise InputError("without trainable= the last layer is trained, and to find it takes input_shape=")
        trainable = [_last_layer(model, expected, input_shape)]
    chosen = trainable if callable(trainable) else _begins_with(trainable)
    free = [name for name in named if chosen(name)]
    if not free or len(free) == len(named):
        what = "none" if not free else "all"
        raise InputError(f"{what} of the network's weights would be trained: choose some of {', '.join(named)}")
    fixed = {name: jnp.asarray(leaf) for name, leaf in named.items() if name not in free}
    structure, order = jax.tree.structure(params), list(named)

    def init(key: jax.Array) -> dict[str, Any]:
        fresh = _named(model.init(key))
        return _nested({name: fresh[name] for name in free})

    def apply(part: Any, inputs: jax.Array) -> jax.Array:
        every = fixed | _named(part)
        return model.apply(jax.tree.unflatten(structure, [every[name] for name in order]), inputs)

    return Model(init, apply, model.gated)


def trained_part(model: Model, params: Any) -> dict[str, Any]:
    """Of all weights of a network, those that `freeze` made the weights of `model`."""
    named = _named(params)
    return _nested({name: named[name] for name in _named(jax.eval_shape(model.init, jax.random.key(0)))})


def load_weights(path: str | os.PathLike[str], model: Model) -> Any:
    """The weights of a network from a safetensors file, by their names.

    Args:
      path: file whose tensors are called as the network's weights are, with "/" or "." between the parts of a name, and
        "params" before it or not, as `ddjax train` writes them; others that it holds are left out.
      model: the network.

    Returns: weights as from `model.init`, float32.

    Raises:
      InputError: no such file, no safetensors, or weights missing or of other shapes.
    """
    expected = jax.eval_shape(model.init, jax.random.key(0))
    try:
        with safe_open(Path(path), framework="numpy") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}): give a file of weights") from error
    tensors = {name.replace(".", "/").removeprefix("params/"): value for name, value in held.items()}
    names = _named(expected)
    if missing := [name for name in names if name not in tensors]:
        raise InputError(f"{path} lacks the weights {', '.join(missing)}: it has {', '.join(tensors) or 'none'}")
    leaves = [np.asarray(tensors[name], np.float32) for name in names]
    params = jax.tree.unflatten(jax.tree.structure(expected), leaves)
    _require_fit(expected, params, f"{path}: ")
    return params


def _named(params: Any) -> dict[str, Any]:
    """Leaves by their paths, in the order of the tree."""
    found = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in found}


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of leaves by their paths."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *above, last = name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def _begins_with(beginnings: Sequence[str]) -> Callable[[str], bool]:
    return lambda name: any(name == start or name.startswith(f"{start.rstrip('/')}/") for start in beginnings)


def _require_fit(expected: Any, params: Any, where: str = "") -> None:
    wanted, found = _named(expected), _named(params)
    if [*wanted] != [*found]:
        raise InputError(f"{where}the weights are {', '.join(found)}, but the network has {', '.join(wanted)}")
    for name, leaf in wanted.items():
        if leaf.shape != np.shape(found[name]):
            shapes = f"{list(np.shape(found[name]))}, but the network's is {list(leaf.shape)}"
            raise InputError(f"{where}{name} is {shapes}: give weights of this network")


def _last_layer(model: Model, params: Any, input_shape: tuple[int, ...]) -> str:
    """The layer, by the name that its weights share, that is used last in the network's own program."""
    program = jax.make_jaxpr(model.apply)(params, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)).jaxpr
    names = list(_named(params))
    numbers = {variable: names[i] for i, variable in enumerate(program.invars[: len(names)])}
    uses = [numbers[v] for equation in program.eqns for v in equation.invars if not hasattr(v, "val") and v in numbers]
    return uses[-1].rpartition("/")[0] or uses[-1]
