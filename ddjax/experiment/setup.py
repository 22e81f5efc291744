"""From a recipe to objects: data, network, initial weights and the problem to distil for."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.core import losses
from ddjax.core.distilled import fixed_labels, learned_labels
from ddjax.core.inits import Init
from ddjax.core.matching import Match, cosine_distance
from ddjax.core.meta import Problem
from ddjax.data import (
    Augment,
    Dataset,
    Split,
    alike,
    check_covariance,
    hold_out,
    load_dataset,
    make_augment,
    principal_axes,
    whitened,
)
from ddjax.data.host import Ahead
from ddjax.errors import InputError
from ddjax.experiment import streams
from ddjax.experiment.starts import Starts, make_starts
from ddjax.experiment.views import make_view
from ddjax.models import Model, check_model, model_of, width_of
from ddjax.recipes import Data, Inner, Recipe

DIRECTIONS: dict[str, Callable[[Inner], optax.GradientTransformation | None]] = {
    "gd": lambda inner: None,
    "momentum": lambda inner: optax.trace(inner.momentum),
    "nesterov": lambda inner: optax.trace(inner.momentum, nesterov=True),
    # Without eps_root the derivative of Adam is NaN at a gradient of exactly zero, which every dead ReLU unit has.
    "adam": lambda inner: optax.scale_by_adam(eps_root=1e-8),
}
OBJECTIVES: dict[str, Match | None] = {"loss": None, "gradient": cosine_distance}


OWN = "custom"  # what a recipe calls a network that was given as it is, and that has no name to be made from


class StepData(NamedTuple):
    """What a step of the outer loop is handed beside its key and state; a pytree.

    examples: real ones, labelled as the outer loss takes them. init: p(theta_0). axes: float32 [D, D], those that the outer
    optimiser moves images along (see `principal_axes`), or None where they are the values themselves.
    """

    examples: Split | Ahead
    init: Init
    axes: jax.Array | None


class Experiment(NamedTuple):
    """A recipe made concrete: everything a run needs.

    `augment` is what real examples go through, and `siamese` what those of the outer loop do after it; `taken_for` int32 [K]
    is what the outer loss takes each class for; the problem's `init` is `starts.draw`. `narrow` is what the first outer steps
    distil for instead, and how much higher the logarithms of its learning rates are; None: there are no such steps.
    """

    recipe: Recipe
    dataset: Dataset
    train: Split
    valid: Split
    test: Split
    augment: Augment | None
    siamese: Augment | None
    model: Model
    problem: Problem
    narrow: tuple[Problem, float] | None
    starts: Starts
    taken_for: np.ndarray
    key: jax.Array

    def stream(self, name: str) -> jax.Array:
        return streams.stream(self.key, name)

    def outer(self, split: Split) -> Split:
        """Real examples labelled as the outer loss takes them."""
        return split._replace(labels=jnp.asarray(self.taken_for)[split.labels])

    @property
    def data(self) -> StepData:
        """Axes are found anew at each call, which takes seconds where examples have thousands of values."""
        along = self.recipe.outer.basis == "components"
        axes = jnp.asarray(principal_axes(self.dataset.x_train, self.dataset.transform)) if along else None
        return StepData(self.outer(self.train), self.starts.draw, axes)


def set_up(
    recipe: Recipe, *, dataset: Dataset | None = None, model: Model | None = None, data_dir: str | None = None
) -> Experiment:
    """Loads the data and draws the initial weights; `dataset` and `model` stand in for those the recipe names.

    Raises:
      InputError: a setting, the data set or the model is wrong.
    """
    recipe.validate()
    if dataset is None:
        dataset = load_dataset(recipe.data.data, data_dir=data_dir, pictures=recipe.data.pictures)
    if recipe.outer.basis == "components":
        check_covariance(dataset, "--basis components")
    if recipe.data.zca is not None:
        dataset = whitened(dataset, recipe.data.zca)
    if model is None:
        model = recipe_model(recipe, dataset)
    else:
        recipe = recipe.replace(model=OWN, width=None, depth=None)
        check_model(model, dataset.input_shape, dataset.num_classes)
    if not model.gated:  # what is written down says nothing of gates that the network never saw
        recipe = recipe.replace(gate_width=0.0)
    augment = make_augment(recipe.data.augment, dataset.input_shape)
    key = jax.random.key(recipe.seed)
    starts = make_starts(recipe, model, dataset, key)
    inner, outer = recipe.inner, recipe.outer
    siamese = make_augment(recipe.data.siamese, dataset.input_shape, "--siamese")
    matched = outer.objective == "gradient"
    if siamese is not None and matched:
        siamese = alike(siamese)
    view = make_view(inner, dataset.num_classes, siamese)
    real_view = make_view(Inner(), dataset.num_classes, siamese) if matched else None
    problem = make_problem(model, inner.direction, inner.learn_labels, starts.draw, outer.objective)._replace(
        direction=directions(inner),
        window=outer.window,
        window_early=outer.window_early,
        view=view,
        real_view=real_view,
        bound=outer.clip_nets,
    )
    narrow = _narrower(recipe, dataset, problem)
    taken_for = outer_labels(recipe.data, dataset)
    return Experiment(
        recipe, dataset, *hold_out(dataset), augment, siamese, model, problem, narrow, starts, taken_for, key
    )


def _narrower(recipe: Recipe, dataset: Dataset, problem: Problem) -> tuple[Problem, float] | None:
    """The same for networks of `Outer.narrow` channels, whose rates are higher by the root of how much narrower they are, as
    was measured (docs/beyond.md): images of width 32 were best at width 128 with a third to a half of their rates.

    Raises:
      InputError: the network has no width, or none that is more.
    """
    width = recipe.outer.narrow
    if width is None:
        return None
    own = width_of(recipe.network)
    if width >= own:
        raise InputError(f"--narrow is {width}, but networks have {own} channels: lower it, or leave it out")
    model = model_of(dataclasses.replace(recipe.network, width=width), dataset.input_shape, dataset.num_classes)
    loss = losses.of_network(model.apply)
    init = jax.tree_util.Partial(model.init)
    return problem._replace(apply=model.apply, inner_loss=loss, outer_loss=loss, init=init), 0.5 * math.log(own / width)


def recipe_model(recipe: Recipe, dataset: Dataset) -> Model:
    """The network that the recipe names, for the data set's examples and classes."""
    return model_of(recipe.network, dataset.input_shape, dataset.num_classes)


def outer_labels(settings: Data, dataset: Dataset) -> np.ndarray:
    """int32 [K]: the class that the outer loss takes real examples of each class for; itself, unless poisoned (sec. 3.6).

    Raises:
      InputError: the data have no such classes, or no test examples of the poisoned one.
    """
    taken_for = np.arange(dataset.num_classes, dtype=np.int32)
    poisoned = settings.poisoned_classes()
    if poisoned is not None:
        from_class, to_class = poisoned
        flag = f"--poison is {settings.poison!r}"
        if max(poisoned) >= dataset.num_classes:
            raise InputError(
                f"{flag}, but {dataset.name} has classes 0 to {dataset.num_classes - 1}: choose among them"
            )
        if not np.any(dataset.y_test == from_class):
            raise InputError(f"{flag}, but {dataset.name} has no test examples of class {from_class}: choose another")
        taken_for[from_class] = to_class
    return taken_for


def directions(inner: Inner) -> optax.GradientTransformation | None:
    """How the inner loop moves. As PyTorch has it, weight decay goes into the gradient, and beside Adam's step (AdamW)."""
    moves, decay = DIRECTIONS[inner.direction](inner), inner.weight_decay
    if decay == 0:
        return moves
    parts = [optax.add_decayed_weights(decay), *([] if moves is None else [moves])]
    return optax.chain(*(parts[::-1] if inner.direction == "adam" else parts))


def make_problem(model: Model, direction: str, learn_labels: bool, init: Init, objective: str = "loss") -> Problem:
    """Cross-entropy inside and outside, for a network that starts from `init`: `key -> params`.

    `direction` and `objective` are as a recipe names them; of the direction, hyper-parameters are its defaults.
    """
    loss = losses.of_network(model.apply)
    return Problem(
        apply=model.apply,
        inner_loss=loss,
        outer_loss=loss,
        init=init,
        match=OBJECTIVES[objective],
        direction=directions(Recipe().replace(direction=direction).inner),
        targets=learned_labels if learn_labels else fixed_labels,
    )
