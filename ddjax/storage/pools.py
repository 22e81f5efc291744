"""Pools of trained networks on the disk: the initial weights of the paper's pretrained settings (sec. 3.5).

One safetensors file holds them all, stacked: tensors `nets/...` float32 [Q + P, ...], of which the first Q are held out for
tests and never seen by a distillation. Its header tells what they were trained on, how, and how well each does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.errors import InputError
from ddjax.storage import tensorfile
from ddjax.storage.files import is_file
from ddjax.storage.provenance import digest_of_file

_AGAIN = "copy it again, or make it again with `ddjax pretrain`"

# key -> one network's weights, a nested dict of arrays; only their names and shapes are asked for.
Init = Callable[[jax.Array], Any]


class Pool(NamedTuple):
    """Trained networks: `train` [P, ...] to distil with, `test` [Q, ...] held out, the header's `metadata`, and the file's
    `digest` (see `provenance.digest_of_file`)."""

    train: Any
    test: Any
    metadata: dict[str, Any]
    digest: str


def write_pool(path: Path, nets: Any, metadata: dict[str, Any]) -> None:
    """Writes stacked networks [n, ...], whole or not at all, and what the header tells of them."""
    tensorfile.write(path, tensorfile.named("nets", nets), metadata)


def load_pool(path: Path, init: Init) -> Pool:
    """Reads a finished pool of the networks that `init` draws.

    Raises:
      InputError: no such file, damaged, no pool, unfinished, or of networks of another architecture or class count.
    """
    if not is_file(path):
        raise InputError(f"there is no pool of trained networks at {path}: make it with `ddjax pretrain RECIPE` first")
    nets, metadata = read_pool(path, init)
    held_out, wanted, made = metadata["test_nets"], metadata["wanted"], len(metadata["accuracy"])
    if made < wanted:
        raise InputError(f"{path} is unfinished ({made} of {wanted} networks): go on with `ddjax pretrain --resume`")
    test, train = (
        jax.tree.map(lambda leaf, part=part: leaf[part], nets) for part in (slice(held_out), slice(held_out, None))
    )
    return Pool(train, test, metadata, digest_of_file(path))


def read_pool(path: Path, init: Init) -> tuple[Any, dict[str, Any]]:
    """The networks [n, ...] of a pool, finished or not, and its metadata; raises as `load_pool` does."""
    tensors, metadata = tensorfile.read(path, _AGAIN)
    nets = tensorfile.nested("nets", tensors, path, _AGAIN)
    if metadata.get("kind") != "pool" or nets is None:
        raise InputError(f"{path} is not a pool of networks: give a file that `ddjax pretrain` wrote")
    accuracy, held_out, wanted = (metadata.get(name) for name in ("accuracy", "test_nets", "wanted"))
    counts = type(held_out) is type(wanted) is int and 0 < held_out < wanted
    good = isinstance(accuracy, list) and all(isinstance(value, float) and 0 <= value <= 100 for value in accuracy)
    if not (counts and good and accuracy):
        raise InputError(f"{path} has a damaged 'ddjax' header: {_AGAIN}")
    if not all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path} holds weights that are not finite float32: {_AGAIN}")
    expected = jax.tree.map(lambda leaf: (len(accuracy), *leaf.shape), jax.eval_shape(init, jax.random.key(0)))
    found = jax.tree.map(np.shape, nets)
    if found != expected:
        wrong = sorted(_difference(expected, found))[0]
        raise InputError(
            f"{path} holds networks of another architecture or class count ({wrong}): give a pool for this one"
        )
    return nets, metadata


def _difference(expected: Any, found: Any) -> list[str]:
    """What the shapes of weights differ in, by name."""

    def flat(tree: Any) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, tuple))
        return {"/".join(str(key.key) for key in keys): shape for keys, shape in leaves}

    a, b = flat(expected), flat(found)
    names = [name for name in a | b if a.get(name) != b.get(name)]
    return [f"{name}: {list(b.get(name, ()))} there, {list(a.get(name, ()))} wanted" for name in names]
