"""The outer loop of a recipe: its steps, where it starts, and how a candidate is scored."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddjax.core.distilled import DistilledData, init_distilled
from ddjax.core.inits import Init
from ddjax.core.inner import step_norms, unroll
from ddjax.core.losses import Params
from ddjax.core.meta import Layout, Problem
from ddjax.core.order import draw
from ddjax.core.outer import Distiller, DistillState, Info, keys_of_step, make_distiller
from ddjax.core.spread import over_nets, place, side_by_side, spread_over_nets
from ddjax.data import Augment, Split, make_draw_batch
from ddjax.data.ahead import fetching
from ddjax.data.host import OnHost
from ddjax.data.sampling import drawn_rows
from ddjax.evaluation.real_sets import random_sets
from ddjax.evaluation.scoring import float32, score
from ddjax.experiment.optimizer import make_optimizer
from ddjax.experiment.setup import Experiment, StepData
from ddjax.training.under_way import Diagnose, Validate

# The number of an outer step -> what it is handed as its data set.
Feed = Callable[[int], StepData]
Step = Callable[[jax.Array, DistillState, Any], tuple[DistillState, Info]]


def build_distiller(experiment: Experiment, layout: Layout) -> Distiller:
    """The outer loop of a recipe; its step's data set is `Experiment.data`."""
    settings = experiment.recipe.outer
    draw_batch = make_draw_batch(settings.batch_size, experiment.dataset.num_classes, *_changes(experiment))

    def distiller(problem: Problem, axes: jax.Array | None) -> Distiller:
        return make_distiller(
            problem,
            make_optimizer(experiment.recipe, axes),
            draw_batch,
            num_nets=settings.num_nets,
            ema_decay=settings.ema,
            layout=layout,
        )

    def step(key: jax.Array, state: DistillState, data: StepData) -> tuple[DistillState, Info]:
        with jax.default_matmul_precision(settings.precision):
            own = distiller(experiment.problem._replace(init=data.init), data.axes).step
            if experiment.narrow is None:
                return own(key, state, data.examples)
            problem, higher = experiment.narrow
            early = _at_rates(distiller(problem, data.axes).step, higher)
            # One program of both, so that what drives it need not know.
            first, given = state.step < settings.narrow_steps, (key, state, data.examples)
            stepped: tuple[DistillState, Info] = jax.lax.cond(first, early, own, *given)
            return stepped

    return Distiller(distiller(experiment.problem, None).init, step)


def _at_rates(step: Step, higher: float) -> Step:
    """A step that trains at learning rates whose logarithms are so much higher than those of the state."""

    def shifted(state: DistillState, by: float) -> DistillState:
        distilled, average = (part._replace(log_lrs=part.log_lrs + by) for part in (state.distilled, state.average))
        return state._replace(distilled=distilled, average=average)

    def at_rates(key: jax.Array, state: DistillState, dataset: Any) -> tuple[DistillState, Info]:
        state, info = step(key, shifted(state, higher), dataset)
        return shifted(state, -higher), info

    return at_rates


def _changes(experiment: Experiment) -> tuple[Augment | None, Augment | None]:
    """What real batches go through as they are drawn."""
    # Where the problem changes both sides alike, batches come without.
    siamese = None if experiment.problem.real_view is not None else experiment.siamese
    return experiment.augment, siamese


@contextmanager
def feeding(experiment: Experiment, key: jax.Array, data: StepData, mesh: Mesh | None) -> Iterator[Feed]:
    """What each step of the outer loop is handed: `data` as it is where its examples are on the device; where they are on the
    host, the batch that the step draws of them, which is fetched while the step before runs.

    Args:
      key: the run's, and data: `Experiment.data`, both on the devices; mesh: as of the layout.
    """
    split = data.examples
    if not (isinstance(split, Split) and isinstance(split.inputs, OnHost)):
        yield lambda step: data
        return
    size, examples = experiment.recipe.outer.batch_size, split.labels.shape[0]
    changes = sum(change is not None for change in _changes(experiment))

    def rows(key: jax.Array, step: jax.Array) -> jax.Array:
        return drawn_rows(keys_of_step(key, step)[0], size, examples, changes)[0]

    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    rows_of = jax.jit(rows, out_shardings=everywhere)
    with fetching(split, lambda step: rows_of(key, np.int32(step)), mesh) as fetched:
        yield lambda step: data._replace(examples=fetched(step))


def first_iterate(experiment: Experiment) -> DistilledData:
    """Where the outer loop starts: images from N(0, 1), or real ones of the same classes."""
    settings, key = experiment.recipe.inner, experiment.stream("images")
    distilled = init_distilled(
        key,
        input_shape=experiment.dataset.input_shape,
        num_classes=experiment.dataset.num_classes,
        steps=settings.steps,
        epochs=settings.epochs,
        per_class=settings.per_class,
        learning_rate=settings.inner_lr,
        sharpness=4.0 if settings.learn_labels else 1.0,
        examples=settings.images,
    )
    if settings.start == "real":
        distilled = distilled._replace(images=random_sets(key, distilled, experiment.train, 1)[0])
    return distilled


def make_frame(experiment: Experiment) -> Callable[[DistilledData], np.ndarray] | None:
    """What an animation shows of an iterate: pictures of the first step, at most twenty; None where examples are no pictures.

    As in the picture of the result, each frame is scaled to its own 1st to 99th percentile: uint8 [n, H, W, C].
    """
    shape, transform = experiment.dataset.input_shape, experiment.dataset.transform
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return None

    def frame(distilled: DistilledData) -> np.ndarray:
        shown = np.asarray(transform.inverse(np.asarray(distilled.images[0, :20])))
        low, high = np.percentile(shown, (1, 99))
        scaled: np.ndarray = np.clip(255 * (shown - low) / max(high - low, 1e-12), 0, 255).astype(np.uint8)
        return scaled

    return frame


def make_diagnosis(experiment: Experiment) -> Diagnose:
    """Where an outer step that is not finite first goes wrong: in which step of the inner loop, or behind it."""
    settings = experiment.recipe.outer

    def diagnose(state: DistillState) -> str:
        problem, higher = experiment.problem, 0.0
        if experiment.narrow is not None and state.step < settings.narrow_steps:
            problem, higher = experiment.narrow
        _, nets_key, view_key = keys_of_step(experiment.key, state.step)
        distilled = state.distilled._replace(log_lrs=state.distilled.log_lrs + higher)
        drawn = draw(view_key, distilled.log_lrs.size, None, problem.view)
        options = {"direction": problem.direction, "targets": problem.targets, **drawn}

        def one_network(key: jax.Array, init: Init) -> jax.Array:
            return step_norms(problem.inner_loss, init(key), distilled, **options)

        keys = jax.random.split(nets_key, settings.num_nets)
        norms = np.array([jax.jit(one_network)(key, problem.init) for key in keys])
        bad = ~np.isfinite(norms).all(axis=0)
        if not bad.any():
            return f"its inner loop is finite, no step moves the weights by more than {norms.max():.3g}"
        first = int(np.argmax(bad))
        before = f", after moves of up to {norms[:, :first].max():.3g}" if first else ""
        return f"inner step {first + 1} of {len(bad)} is the first to go wrong{before}"

    return diagnose


def make_validation(experiment: Experiment) -> Validate:
    """Mean accuracy and loss on held-out training data, over the same networks every time; float32 throughout."""
    problem, valid = experiment.problem, experiment.outer(experiment.valid)
    count = len(jax.tree.leaves(experiment.starts.valid)[0])
    each, whole = spread_over_nets(count)
    nets = place(experiment.starts.valid, each)

    def one_network(params: Params, distilled: DistilledData, valid: Split) -> tuple[jax.Array, jax.Array]:
        params = unroll(problem.inner_loss, params, distilled, **problem.unroll_options)
        return score(problem.apply, params, valid)

    @functools.partial(jax.jit, out_shardings=whole)
    def scores(distilled: DistilledData, params_V: Params, valid: Split) -> tuple[jax.Array, jax.Array]:
        with float32():
            accuracy, loss = over_nets(one_network, count, side_by_side=side_by_side(count))(params_V, distilled, valid)
        return jnp.mean(accuracy), jnp.mean(loss)

    # An outer step may use other devices than all.
    return lambda distilled: scores(place(distilled, whole), nets, valid)
