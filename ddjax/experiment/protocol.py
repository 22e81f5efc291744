"""The protocol of today's benchmarks: fresh networks trained on a distilled set as on any other, whatever it was made for.

Stochastic gradient descent with momentum 0.9 and weight decay 5e-4 whose rate is a tenth in the second half of training, as
Dataset Condensation has it (arXiv 2006.05929), or Adam along a cosine. The rate is chosen on held-out training images, each
network's by networks that are not tested; the test images are only scored.
"""

import os
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.core.distilled import DistilledData
from ddjax.core.inits import Init
from ddjax.core.meta import Problem
from ddjax.core.spread import for_each_net
from ddjax.data import Augment, Split, hold_out, make_augment
from ddjax.errors import InputError
from ddjax.evaluation.measure import Scores
from ddjax.evaluation.scoring import float32, score
from ddjax.experiment.replay import Reopened, reopen
from ddjax.experiment.streams import stream
from ddjax.storage.processes import together
from ddjax.training.minibatches import by_minibatches, rows_of
from ddjax.training.progress import say

Way = Literal["sgd", "adam"]
RATES: dict[str, tuple[float, ...]] = {"sgd": (0.1, 0.03, 0.01, 0.003, 0.001), "adam": (0.01, 0.003, 0.001, 0.0003)}
_TRIALS = 2  # networks that choose a rate


def make_optimizer(way: Way, rate: float | jax.Array, steps: int) -> optax.GradientTransformation:
    """The optimiser of a training of so many steps."""
    if way == "adam":
        return optax.adam(optax.cosine_decay_schedule(rate, steps))
    falls = optax.piecewise_constant_schedule(rate, {steps // 2: 0.1})
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(falls, momentum=0.9))


def by_protocol(
    path: str | os.PathLike[str],
    models: Sequence[str] = (),
    *,
    num_nets: int = 5,
    way: Way = "sgd",
    epochs: int = 300,
    batch_size: int = 256,
    augment: str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    progress: bool = False,
) -> dict[str, Scores]:
    """Test accuracies of fresh networks, by the name of the network, and the rate that each was trained at.

    Args:
      path: artefact, or the folder of a run.
      models: names, or path/to/file.py:Name; none: the artefact's own.
      num_nets: networks of each that are tested.
      way, epochs, batch_size: how they are trained.
      augment: what the examples go through (see `make_augment`); None: what the artefact's images went through (`siamese`).
      data, data_dir: as of `evaluate_artifact`.

    Raises:
      InputError: the artefact, its data and a model cannot be used together, or a number makes no sense.
    """
    for flag, value in (("--num-nets", num_nets), ("--epochs", epochs), ("--batch-size", batch_size)):
        if value < 1:
            raise InputError(f"{flag} is {value}: give a number above zero")
    found = {name: reopen(path, model=name, data=data, data_dir=data_dir, fresh=True) for name in models or (None,)}
    scores = {}
    for name, opened in found.items():
        name = name or opened.recipe.network.model
        say(f"training networks of {name}", progress)
        scores[name] = train_and_score(
            opened.problem,
            opened.model.init,
            opened.artifact.distilled,
            _held_out(opened),
            opened.test,
            opened.key,
            num_nets=num_nets,
            way=way,
            epochs=epochs,
            batch_size=batch_size,
            augment=make_augment(
                opened.recipe.data.siamese if augment is None else augment, opened.dataset.input_shape
            ),
        )
    return scores


def _held_out(found: Reopened) -> Split:
    valid = hold_out(found.dataset)[1]
    return valid._replace(transform=found.test.transform, labels=jnp.asarray(found.taken_for)[valid.labels])


def train_and_score(
    problem: Problem,
    init: Init,
    distilled: DistilledData,
    valid: Split,
    test: Split,
    key: jax.Array,
    *,
    num_nets: int = 5,
    way: Way = "sgd",
    epochs: int = 300,
    batch_size: int = 256,
    augment: Augment | None = None,
) -> Scores:
    """Test accuracies of fresh networks, and the rate that they were trained at.

    Args:
      problem: whose inner loss is minimised; init: key -> weights.
      distilled: whose labels are probabilities.
      valid: held-out training examples, which choose the rate; test: those of the accuracies.
      key: what networks and orders are drawn from, by the streams of an experiment.
      num_nets, way, epochs, batch_size: as of `by_protocol`; augment: what the examples go through.
    """
    inputs, targets = rows_of(distilled)
    steps = epochs * max(1, len(inputs) // batch_size)

    def accuracy(net_key: jax.Array, rate: jax.Array, split: Split) -> jax.Array:
        start_key, order_key = jax.random.split(net_key)
        params = by_minibatches(
            problem.inner_loss,
            order_key,
            init(start_key),
            inputs,
            targets,
            optimizer=make_optimizer(way, rate, steps),
            epochs=epochs,
            batch_size=batch_size,
            augment=augment,
        )
        return 100.0 * score(problem.apply, params, split)[0]

    test_key, choice_key = jax.random.split(stream(key, "test"))
    trials, tested = for_each_net(accuracy, _TRIALS), for_each_net(accuracy, num_nets)

    def mean(rate: float) -> float:
        return float(np.mean(trials(jax.random.split(choice_key, _TRIALS), rate, valid)))

    with float32(), together():
        rate = max(RATES[way], key=mean)
        accuracies = tested(jax.random.split(test_key, num_nets), rate, test)
    return Scores(accuracies.astype(np.float64), f"rate {rate:g}")
