"""From a recipe to objects: data, networks, the problem, the distiller and its validation."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.core import inits, losses
from ddjax.core.distilled import DistilledData, fixed_labels, init_distilled, learned_labels
from ddjax.core.inner import unroll
from ddjax.core.meta import Layout, Problem
from ddjax.core.outer import Distiller, DistillState, Info, make_distiller
from ddjax.data import Dataset, Split, draw_batch, hold_out, load_dataset
from ddjax.errors import InputError
from ddjax.evaluation.measure import score
from ddjax.evaluation.real_sets import random_sets
from ddjax.models import Model, build_model
from ddjax.models.imagenet import load_imagenet_alexnet
from ddjax.recipes import Recipe
from ddjax.training.loop import Validate
from ddjax.training.pretrain import Pool, load_pool

DIRECTIONS: dict[str, Callable[[], optax.GradientTransformation | None]] = {
    "gd": lambda: None,
    "momentum": lambda: optax.trace(0.9),
    # Without eps_root the derivative of Adam is NaN at a gradient of exactly zero, which every dead ReLU unit has.
    "adam": lambda: optax.scale_by_adam(eps_root=1e-8),
}

# Streams of the run's one key. Outer step t uses fold_in(key, t), and these stay clear of every t.
_STREAMS = {name: 2**31 + i for i, name in enumerate(("weights", "images", "valid", "test", "baseline", "all data"))}


def stream(key: jax.Array, name: str) -> jax.Array:
    """The run's key for everything that is drawn outside the outer steps."""
    return jax.random.fold_in(key, _STREAMS[name])


class Experiment(NamedTuple):
    """A recipe made concrete: its data, its networks' initial weights and everything the run needs.

    `params` are the initial weights where they are fixed, else None; `pool` the trained networks they are drawn from where
    they are neither fixed nor fresh. `taken_for` int32 [K] is what the outer loss takes each class for.
    """

    recipe: Recipe
    dataset: Dataset
    train: Split
    valid: Split
    test: Split
    problem: Problem
    params: Any
    pool: Pool | None
    taken_for: np.ndarray
    key: jax.Array

    def stream(self, name: str) -> jax.Array:
        return stream(self.key, name)

    def outer(self, split: Split) -> Split:
        """Real examples labelled as the outer loss takes them."""
        return split._replace(labels=jnp.asarray(self.taken_for)[split.labels])

    @property
    def test_nets(self) -> int:
        """Networks of the final report: one is all there is where weights are fixed, and a pool's held-out ones where not."""
        if self.pool is not None:
            return len(jax.tree.leaves(self.pool.test)[0])
        return 1 if self.params is not None else self.recipe.test_nets

    @property
    def train_pool(self) -> Any:
        """The networks [P - V, ...] that a distillation draws from, or None; the pool's first V choose the iterate."""
        return self._of_pool(slice(self.recipe.valid_nets, None))

    @property
    def valid_params(self) -> Any:
        """What the networks of a validation start from [V, ...]: a fixed one, or ones that the distillation never draws."""
        if self.pool is not None:
            return self._of_pool(slice(0, self.recipe.valid_nets))
        count = 1 if self.params is not None else self.recipe.valid_nets
        return jax.jit(jax.vmap(self.problem.init))(jax.random.split(self.stream("valid"), count))

    def _of_pool(self, part: slice) -> Any:
        return None if self.pool is None else jax.tree.map(lambda leaf: leaf[part], self.pool.train)

    @property
    def data(self) -> tuple[Split, Any]:
        """What a step of the outer loop draws from: real examples and, or None, trained networks."""
        return self.outer(self.train), self.train_pool

    @property
    def test_params(self) -> Any:
        """What the networks of the final report start from, where a pool holds them [Q, ...]; None: `problem.init` says."""
        return None if self.pool is None else self.pool.test


def set_up(
    recipe: Recipe, *, dataset: Dataset | None = None, model: Model | None = None, data_dir: str | None = None
) -> Experiment:
    """Loads the data and draws the initial weights; `dataset` and `model` stand in for those the recipe names.

    Raises:
      InputError: a setting, the data set or the model is wrong.
    """
    recipe.validate()
    dataset = load_dataset(recipe.data, data_dir=data_dir, pictures=recipe.pictures) if dataset is None else dataset
    model = recipe_model(recipe, dataset) if model is None else model
    key = jax.random.key(recipe.seed)
    params, pool = initial_weights(recipe, model, dataset, stream(key, "weights"))
    problem = make_problem(model, recipe.direction, recipe.learn_labels, params)
    experiment = Experiment(
        recipe, dataset, *hold_out(dataset), problem, params, pool, outer_labels(recipe, dataset), key
    )
    if pool is None:
        return experiment
    return experiment._replace(problem=problem._replace(init=inits.pool_init(experiment.train_pool)))


def outer_labels(recipe: Recipe, dataset: Dataset) -> np.ndarray:
    """int32 [K]: the class that the outer loss takes real examples of each class for; itself, unless poisoned (sec. 3.6).

    Raises:
      InputError: the data have no such classes, or no test examples of the poisoned one.
    """
    taken_for = np.arange(dataset.num_classes, dtype=np.int32)
    if recipe.poison:
        from_class, to_class = recipe.poisoned_classes()
        flag = f"--poison is {recipe.poison!r}"
        if max(from_class, to_class) >= dataset.num_classes:
            raise InputError(
                f"{flag}, but {dataset.name} has classes 0 to {dataset.num_classes - 1}: choose among them"
            )
        if not np.any(dataset.y_test == from_class):
            raise InputError(f"{flag}, but {dataset.name} has no test examples of class {from_class}: choose another")
        taken_for[from_class] = to_class
    return taken_for


def recipe_model(recipe: Recipe, dataset: Dataset) -> Model:
    """The network that the recipe names, for the data set's examples and classes."""
    return build_model(
        recipe.model, dataset.input_shape, dataset.num_classes, weights=recipe.weights, gate_width=recipe.gate_width
    )


def initial_weights(recipe: Recipe, model: Model, dataset: Dataset, key: jax.Array) -> tuple[Any, Pool | None]:
    """The one network to start from, or None; and the pool that others are drawn from, or None (paper, sec. 3.5)."""
    if recipe.checkpoint:
        if recipe.model != "alexnet":
            raise InputError(
                f"--checkpoint holds weights of alexnet, but --model is {recipe.model}: give --model alexnet"
            )
        return load_imagenet_alexnet(recipe.checkpoint, dataset.num_classes, input_shape=dataset.input_shape), None
    if recipe.pool:
        pool = load_pool(Path(recipe.pool), model)
        count = len(jax.tree.leaves(pool.train)[0])
        if recipe.init == "random" and count <= recipe.valid_nets:
            raise InputError(
                f"{recipe.pool} has {count} networks to distil with, of which --valid-nets {recipe.valid_nets} choose the "
                "iterate: lower it, or enlarge the pool with `ddjax pretrain --resume`"
            )
        if recipe.init == "random":
            return None, pool
        return jax.tree.map(lambda leaf: leaf[recipe.seed % count], pool.train), None
    return (model.init(key) if recipe.init == "fixed" else None), None


def make_problem(model: Model, direction: str, learn_labels: bool, params: Any) -> Problem:
    """Cross-entropy inside and outside; initial weights are `params`, or drawn by the model where that is None."""
    loss = losses.of_network(model.apply)
    return Problem(
        apply=model.apply,
        inner_loss=loss,
        outer_loss=loss,
        init=model.init if params is None else inits.fixed_init(params),
        direction=DIRECTIONS[direction](),
        targets=learned_labels if learn_labels else fixed_labels,
    )


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Adam with cosine decay to zero, on a meta-gradient clipped by its global norm; log learning rates at their own rate."""

    def adam(lr: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(lr, recipe.outer_steps), b1=recipe.b1, b2=recipe.b2)

    def part_of(distilled: Any) -> Any:
        return type(distilled)(images="images", labels="images", log_lrs="log_lrs")

    rates: dict[Hashable, optax.GradientTransformation] = {
        "images": adam(recipe.lr),
        "log_lrs": adam(recipe.lr_log_lrs),
    }
    return optax.chain(optax.clip_by_global_norm(recipe.clip), optax.partition(rates, part_of))


def build_distiller(experiment: Experiment, layout: Layout) -> Distiller:
    """The outer loop of a recipe; its step's data set is `Experiment.data`."""
    recipe, classes = experiment.recipe, experiment.dataset.num_classes

    def draw(key: jax.Array, split: Split) -> tuple[jax.Array, jax.Array]:
        inputs, labels = draw_batch(key, split, recipe.batch_size)
        return inputs, jax.nn.one_hot(labels, classes)

    optimizer = make_optimizer(recipe)

    def distiller(problem: Problem) -> Distiller:
        return make_distiller(problem, optimizer, draw, num_nets=recipe.num_nets, ema_decay=recipe.ema, layout=layout)

    def step(key: jax.Array, state: DistillState, data: tuple[Split, Any]) -> tuple[DistillState, Info]:
        split, pool_P = data
        with jax.default_matmul_precision(recipe.precision):
            return distiller(drawing_from(pool_P, experiment.problem)).step(key, state, split)

    return Distiller(distiller(experiment.problem).init, step)


def drawing_from(pool_P: Any, problem: Problem) -> Problem:
    """The problem with its initial weights drawn from a pool [P, ...] that is an argument of a jitted function, where there
    is one: a pool that the function closed over would be copied into the compiled program."""
    return problem if pool_P is None else problem._replace(init=inits.pool_init(pool_P))


def first_iterate(experiment: Experiment) -> DistilledData:
    """Where the outer loop starts: images from N(0, 1), or real ones of the same classes."""
    recipe, key = experiment.recipe, experiment.stream("images")
    distilled = init_distilled(
        key,
        input_shape=experiment.dataset.input_shape,
        num_classes=experiment.dataset.num_classes,
        steps=recipe.steps,
        epochs=recipe.epochs,
        per_class=recipe.per_class,
        learning_rate=recipe.inner_lr,
        targets=experiment.problem.targets,
    )
    if recipe.start == "real":
        distilled = distilled._replace(images=random_sets(key, distilled, experiment.train, 1)[0])
    return distilled


def make_validation(experiment: Experiment) -> Validate:
    """Mean accuracy and loss on held-out training data, over the same networks every time."""
    problem, params_V, valid = experiment.problem, experiment.valid_params, experiment.outer(experiment.valid)

    @jax.jit
    def scores(distilled: DistilledData, params_V: Any, valid: Split) -> tuple[jax.Array, jax.Array]:
        def one_network(params: Any) -> tuple[jax.Array, jax.Array]:
            params = unroll(problem.inner_loss, params, distilled, **problem.unroll_options)
            return score(problem.apply, params, valid)

        accuracy, loss = jax.vmap(one_network)(params_V)
        return jnp.mean(accuracy), jnp.mean(loss)

    return lambda distilled: scores(distilled, params_V, valid)
