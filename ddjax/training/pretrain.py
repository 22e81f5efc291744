"""Pools of networks trained on real data: the initial weights of the paper's pretrained settings (sec. 3.5).

One safetensors file holds them all, stacked: tensors `nets/...` float32 [Q + P, ...], of which the first Q are held out for
tests and never seen by a distillation. Its header tells what they were trained on, how, and how well each does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from ddjax.core import losses
from ddjax.core.losses import Params
from ddjax.data import Dataset, Split, load_dataset, make_draw_batch
from ddjax.errors import InputError
from ddjax.evaluation.measure import score
from ddjax.models import Model, build_model
from ddjax.recipes import Recipe
from ddjax.storage import tensorfile
from ddjax.training.fit import fit

_AGAIN = "copy it again, or make it again with `ddjax pretrain`"


class Pool(NamedTuple):
    """Trained networks: `train` [P, ...] to distil with, `test` [Q, ...] held out, and the header's `metadata`."""

    train: Params
    test: Params
    metadata: dict[str, Any]


class Training(NamedTuple):
    """How each network of a pool is trained: Adam with cosine decay for `steps` batches of `batch_size`, at peak rate `lr`."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 2e-3


TRAINING = Training()


def pretrain(
    path: Path,
    model: Model,
    dataset: Dataset,
    *,
    num_nets: int,
    test_nets: int,
    training: Training = TRAINING,
    seed: int = 0,
    about: dict[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Pool:
    """Trains `test_nets + num_nets` networks and writes the pool; the file grows by one group of networks at a time.

    Network j depends on `seed` and j alone, so an interrupted pool that is resumed, or one enlarged later, holds bit for bit
    what one call would have made.

    Args:
      path: file to write.
      model: network; dataset: what it is trained on and, in the header's accuracies, tested on.
      num_nets, test_nets: P and Q.
      training: see `Training`.
      seed: of initial weights and batches.
      about: JSON-serialisable; what else the header should tell, such as the model's name.
      resume: go on with what `path` holds.
      progress: whether to show a bar.

    Raises:
      InputError: counts or settings that make no sense; or `path` holds something, and `resume` is not given or it differs.
    """
    given = {"--num-nets": num_nets, "--test-nets": test_nets, **{f"--{k}": v for k, v in training._asdict().items()}}
    for flag, value in given.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{flag.replace('_', '-')} is {value}: give a number above zero")
    settings = {
        "kind": "pool",
        "data": dataset.name,
        "data_source": Path(dataset.source).name,
        "test_nets": test_nets,
        "training": training._asdict(),
        "seed": seed,
        **(about or {}),
    }
    nets, accuracy, promised = _begun(path, settings, model, resume)
    if not accuracy:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error}): choose another --pool") from error
    wanted = test_nets + num_nets
    if promised > len(accuracy) >= wanted:  # enough of an unfinished pool is a finished one
        metadata = {**settings, "wanted": len(accuracy), "accuracy": accuracy}
        tensorfile.write(path, tensorfile.named("nets", nets), metadata)
    group = len(jax.devices()) * (1 if jax.default_backend() == "cpu" else 32)
    train = _trainer(model, dataset, training, seed)
    with tqdm(initial=len(accuracy), total=wanted, unit="net", disable=None if progress else True) as bar:
        for first in range(len(accuracy), wanted, group):
            new, scores = jax.device_get(train(np.arange(first, first + group)))
            kept = min(group, wanted - first)
            new = jax.tree.map(lambda leaf, kept=kept: leaf[:kept], new)
            nets = new if nets is None else jax.tree.map(lambda *leaves: np.concatenate(leaves), nets, new)
            accuracy += [100 * float(value) for value in scores[:kept]]
            metadata = {**settings, "wanted": wanted, "accuracy": accuracy}
            tensorfile.write(path, tensorfile.named("nets", nets), metadata)
            bar.set_postfix_str(f"test {np.mean(accuracy):.2f} ± {np.std(accuracy):.2f} %")
            bar.update(kept)
            if progress and bar.disable:
                print(
                    f"network {len(accuracy)}/{wanted}  test {np.mean(accuracy):.2f} ± {np.std(accuracy):.2f} %",
                    flush=True,
                )
    return load_pool(path, model)


def pretrain_for(recipe: Recipe, *, data_dir: str | None = None, **options: Any) -> Pool:
    """The pool that a recipe starts from: its network, trained on its source data in the shape of its pictures.

    Arguments and errors as for `pretrain`; and InputError where the recipe starts from no pool.
    """
    recipe.validate()
    network, pictures = recipe.network, recipe.data.pictures
    if not (network.source and network.pool):
        raise InputError(
            "this recipe starts from untrained networks: choose one with a source, or give --source and --pool"
        )
    dataset = load_dataset(network.source, data_dir=data_dir, pictures=pictures)
    model = build_model(network.model, dataset.input_shape, dataset.num_classes, weights=network.weights)
    about = {"model": network.model, "weights": network.weights}
    return pretrain(Path(network.pool), model, dataset, about=about, **options)


def _trainer(model: Model, dataset: Dataset, training: Training, seed: int) -> Callable[[np.ndarray], Any]:
    """Numbers of networks [group] -> (their weights, leaves [group, ...]; accuracies [group]): each device its share."""
    real = Split.on_device(dataset.x_train, dataset.y_train, dataset.transform)
    test = Split.on_device(dataset.x_test, dataset.y_test, dataset.transform)
    loss = losses.of_network(model.apply)
    draw_batch = make_draw_batch(training.batch_size, dataset.num_classes)

    def one_network(number: jax.Array, real: Split, test: Split) -> tuple[Params, jax.Array]:
        weights_key, batches_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        start = model.init(weights_key)
        params = fit(batches_key, loss, start, real, draw_batch, steps=training.steps, lr=training.lr)
        return params, score(model.apply, params, test)[0]

    each, whole = PartitionSpec("nets"), PartitionSpec()
    train = jax.jit(
        jax.shard_map(
            jax.vmap(one_network, in_axes=(0, None, None)),
            mesh=Mesh(np.array(jax.devices()), ("nets",)),
            in_specs=(each, whole, whole),
            out_specs=each,
            check_vma=False,
        )
    )
    return lambda numbers: train(jnp.asarray(numbers), real, test)


def _begun(path: Path, settings: dict[str, Any], model: Model, resume: bool) -> tuple[Params | None, list[float], int]:
    """Networks that `path` holds already, their accuracies, and how many it was to hold."""
    if not path.exists():
        return None, [], 0
    if not resume:
        raise InputError(f"{path} exists: go on with it or enlarge it with --resume, or choose another --pool")
    nets, metadata = _read(path, model)
    changed = [
        f"{name} {metadata.get(name)} there, {value} now"
        for name, value in settings.items()
        if metadata.get(name) != value
    ]
    if changed:
        raise InputError(
            f"{path} holds other networks ({'; '.join(changed)}): repeat its settings or choose another --pool"
        )
    return nets, list(metadata["accuracy"]), metadata["wanted"]


def load_pool(path: Path, model: Model) -> Pool:
    """Reads a finished pool for `model`.

    Raises:
      InputError: no such file, damaged, no pool, unfinished, or of networks of another architecture or class count.
    """
    if not path.is_file():
        raise InputError(f"there is no pool of trained networks at {path}: make it with `ddjax pretrain RECIPE` first")
    nets, metadata = _read(path, model)
    held_out, wanted = metadata["test_nets"], metadata["wanted"]
    if len(metadata["accuracy"]) < wanted:
        raise InputError(
            f"{path} is unfinished ({len(metadata['accuracy'])} of {wanted} networks): go on with `ddjax pretrain --resume`"
        )
    train = jax.tree.map(lambda leaf: leaf[held_out:], nets)
    return Pool(train, jax.tree.map(lambda leaf: leaf[:held_out], nets), metadata)


def _read(path: Path, model: Model) -> tuple[Params, dict[str, Any]]:
    tensors, metadata = tensorfile.read(path, _AGAIN)
    nets = tensorfile.nested("nets", tensors, path, _AGAIN)
    if metadata.get("kind") != "pool" or nets is None:
        raise InputError(f"{path} is not a pool of networks: give a file that `ddjax pretrain` wrote")
    accuracy, held_out, wanted = (metadata.get(name) for name in ("accuracy", "test_nets", "wanted"))
    counts = type(held_out) is type(wanted) is int and 0 < held_out < wanted
    if not (counts and isinstance(accuracy, list) and all(isinstance(value, float) for value in accuracy)):
        raise InputError(f"{path} has a damaged 'ddjax' header: {_AGAIN}")
    if not all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError(f"{path} holds weights that are not finite float32: {_AGAIN}")
    count = len(accuracy)
    expected = jax.tree.map(lambda leaf: (count, *leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))
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
