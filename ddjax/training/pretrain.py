"""Training pools of networks on real data: the initial weights of the paper's pretrained settings (sec. 3.5)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.core import losses
from ddjax.core.losses import Params
from ddjax.core.spread import for_each_net, side_by_side
from ddjax.data import Augment, Dataset, Split, load_dataset, make_augment, make_draw_batch
from ddjax.errors import InputError
from ddjax.evaluation.scoring import score
from ddjax.models import Model, model_of
from ddjax.recipes import Recipe
from ddjax.storage.pools import Pool, load_pool, read_pool, write_pool
from ddjax.storage.processes import agreed, together
from ddjax.training.fit import fit
from ddjax.training.progress import Bar, say


class Training(NamedTuple):
    """How each network of a pool is trained: Adam with cosine decay for `steps` batches of `batch_size`, at peak rate `lr`."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 2e-3


TRAINING = Training()
_AT_ONCE = 32  # networks that an accelerator trains side by side

# Numbers of networks [group] -> their weights, leaves [group, ...], and accuracies [group] in [0, 1].
Train = Callable[[np.ndarray], tuple[Params, np.ndarray]]

# Networks [n, ...] that a file holds, their accuracies in percent, and how many it was to hold.
Begun = tuple[Params | None, list[float], int]


def pretrain(
    path: Path,
    model: Model,
    dataset: Dataset,
    *,
    num_nets: int,
    test_nets: int,
    training: Training = TRAINING,
    augment: str = "none",
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
      training: see `Training`; augment: what its batches go through, by name (see `make_augment`).
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
    changed_by = make_augment(augment, dataset.input_shape)
    settings = {
        "kind": "pool",
        "data": dataset.name,
        "data_source": Path(dataset.source).name,
        "test_nets": test_nets,
        "training": training._asdict(),
        "augment": None if changed_by is None else augment,  # nor do older headers have one
        "seed": seed,
        **(about or {}),
    }
    with together():
        begun = _begun(path, settings, model, resume)
        agreed(lambda: None)  # all have read before the first one writes
        _grow(
            path, settings, begun, test_nets + num_nets, _trainer(model, dataset, training, changed_by, seed), progress
        )
    return load_pool(path, model.init)


def pretrain_for(
    recipe: Recipe, *, num_nets: int, dataset: Dataset | None = None, data_dir: str | None = None, **options: Any
) -> Pool:
    """The pool that a recipe starts from: its network, trained on its source data in the shape of its pictures.

    `dataset` is used instead of the source that the recipe names. Other arguments as for `pretrain`.

    Raises:
      InputError: the recipe starts from no pool, or would have none left to distil with; and as `pretrain`.
    """
    recipe.validate()
    network, pictures = recipe.network, recipe.data.pictures
    if not (network.source and network.pool):
        raise InputError(
            "this recipe starts from untrained networks: choose one with a source, or give --source and --pool"
        )
    if network.init == "random" and num_nets <= recipe.report.valid_nets:
        raise InputError(
            f"--num-nets is {num_nets}, and the recipe's --valid-nets {recipe.report.valid_nets} of them choose the iterate, "
            "which leaves none to distil with: give more"
        )
    if dataset is None:
        dataset = load_dataset(network.source, data_dir=data_dir, pictures=pictures)
    # Without gates, which only second derivatives see.
    model = model_of(dataclasses.replace(network, gate_width=0.0), dataset.input_shape, dataset.num_classes)
    about = {name: getattr(network, name) for name in ("model", "width", "depth", "weights")}
    return pretrain(
        Path(network.pool), model, dataset, num_nets=num_nets, augment=recipe.data.augment, about=about, **options
    )


def _trainer(model: Model, dataset: Dataset, training: Training, augment: Augment | None, seed: int) -> Train:
    """Trains networks side by side, each device its share."""
    real = Split.of(dataset.x_train, dataset.y_train, dataset.transform)
    test = Split.of(dataset.x_test, dataset.y_test, dataset.transform)
    loss = losses.of_network(model.apply)
    draw_batch = make_draw_batch(training.batch_size, dataset.num_classes, augment)

    def one_network(number: jax.Array, real: Split, test: Split) -> tuple[Params, jax.Array]:
        weights_key, batches_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        start = model.init(weights_key)
        params = fit(batches_key, loss, start, real, draw_batch, steps=training.steps, lr=training.lr)
        return params, score(model.apply, params, test)[0]

    trained = for_each_net(one_network, _group(), side_by_side=side_by_side(_AT_ONCE))
    return lambda numbers: trained(numbers, real, test)


def _group() -> int:
    """Networks that all devices train at a time."""
    return len(jax.devices()) * side_by_side(_AT_ONCE)


def _begun(path: Path, settings: dict[str, Any], model: Model, resume: bool) -> Begun:
    """What `path` holds already; where that is nothing, its folder is made."""
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error}): choose another --pool") from error
        return None, [], 0
    if not resume:
        raise InputError(f"{path} exists: go on with it or enlarge it with --resume, or choose another --pool")
    nets, metadata = read_pool(path, model.init)
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


def _grow(
    path: Path,
    settings: dict[str, Any],
    begun: Begun,
    wanted: int,
    train: Train,
    progress: bool,
) -> None:
    """Trains what is missing of the pool, and writes it after each group of networks."""
    nets, accuracy, promised = begun

    def write(wanted: int) -> None:
        agreed(lambda: write_pool(path, nets, {**settings, "wanted": wanted, "accuracy": accuracy}))

    if promised > len(accuracy) >= wanted:  # enough of an unfinished pool is a finished one
        write(len(accuracy))
    group = _group()
    if len(accuracy) < wanted:
        say("compiling the training of the networks", progress)
    with Bar(len(accuracy), wanted, "net", progress) as bar:
        for first in range(len(accuracy), wanted, group):
            new, scores = train(np.arange(first, first + group))
            kept = min(group, wanted - first)
            new = jax.tree.map(lambda leaf, kept=kept: leaf[:kept], new)
            nets = new if nets is None else jax.tree.map(lambda *leaves: np.concatenate(leaves), nets, new)
            accuracy += [100 * float(value) for value in scores[:kept]]
            write(wanted)
            figure = f"test {np.mean(accuracy):.2f} ± {np.std(accuracy):.2f} %"
            bar.report(figure, f"network {len(accuracy)}/{wanted}  {figure}")
            bar.update(kept)
