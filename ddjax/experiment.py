"""From a recipe to objects, and from a finished loop to the artefact, the table and the pictures."""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax import artifact, baselines
from ddjax.core import inits, losses
from ddjax.core.distilled import DistilledData, fixed_labels, init_distilled, learned_labels
from ddjax.core.inner import unroll
from ddjax.core.outer import Distiller, DistillState, Info, Layout, Problem, make_distiller, replicated
from ddjax.data import Dataset, Split, draw_batch, hold_out, load_dataset
from ddjax.devices import make_layout
from ddjax.errors import InputError
from ddjax.evaluate import evaluate, score
from ddjax.models import Model, build_model
from ddjax.recipes import Recipe
from ddjax.run import RunState, Validate, run

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
    """A recipe made concrete: its data, its network's initial weights and everything the run needs."""

    recipe: Recipe
    dataset: Dataset
    train: Split
    valid: Split
    test: Split
    problem: Problem
    params: Any
    key: jax.Array

    def stream(self, name: str) -> jax.Array:
        return stream(self.key, name)

    @property
    def nets(self) -> tuple[int, int]:
        """Networks a validation and networks of the final report: one is all there is where weights are fixed."""
        return (1, 1) if self.params is not None else (self.recipe.valid_nets, self.recipe.test_nets)


def set_up(
    recipe: Recipe, *, dataset: Dataset | None = None, model: Model | None = None, data_dir: str | None = None
) -> Experiment:
    """Loads the data and draws the initial weights; `dataset` and `model` stand in for those the recipe names.

    Raises:
      InputError: a setting, the data set or the model is wrong.
    """
    recipe.validate()
    dataset = load_dataset(recipe.data, data_dir=data_dir) if dataset is None else dataset
    if model is None:
        model = build_model(
            recipe.model, dataset.input_shape, dataset.num_classes, weights=recipe.weights, gate_width=recipe.gate_width
        )
    train, valid, test = hold_out(dataset)
    key = jax.random.key(recipe.seed)
    params = model.init(stream(key, "weights")) if recipe.init == "fixed" else None
    problem = make_problem(model, recipe.direction, recipe.learn_labels, params)
    return Experiment(recipe, dataset, train, valid, test, problem, params, key)


def make_problem(model: Model, direction: str, learn_labels: bool, params: Any) -> Problem:
    """Cross-entropy inside and outside; initial weights are `params`, or drawn by the model where that is None."""
    loss = losses.of_network(model.apply)
    return Problem(
        apply=model.apply,
        inner_loss=loss,
        outer_loss=loss,
        init=model.init if params is None else inits.fixed(params),
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
    recipe, classes = experiment.recipe, experiment.dataset.num_classes

    def draw(key: jax.Array, split: Split) -> tuple[jax.Array, jax.Array]:
        inputs, labels = draw_batch(key, split, recipe.batch_size)
        return inputs, jax.nn.one_hot(labels, classes)

    optimizer = make_optimizer(recipe)
    distiller = make_distiller(
        experiment.problem, optimizer, draw, num_nets=recipe.num_nets, ema_decay=recipe.ema, layout=layout
    )

    def step(key: jax.Array, state: DistillState, split: Split) -> tuple[DistillState, Info]:
        with jax.default_matmul_precision(recipe.precision):
            return distiller.step(key, state, split)

    return distiller._replace(step=step)


def first_iterate(experiment: Experiment) -> DistilledData:
    recipe = experiment.recipe
    return init_distilled(
        experiment.stream("images"),
        input_shape=experiment.dataset.input_shape,
        num_classes=experiment.dataset.num_classes,
        steps=recipe.steps,
        epochs=recipe.epochs,
        per_class=recipe.per_class,
        learning_rate=recipe.inner_lr,
        targets=experiment.problem.targets,
    )


def make_validation(experiment: Experiment) -> Validate:
    """Mean accuracy and loss on held-out training data, over the same networks every time."""
    count, _ = experiment.nets
    keys = jax.random.split(experiment.stream("valid"), count)
    problem = experiment.problem

    @jax.jit
    def scores(distilled: DistilledData, keys: jax.Array, valid: Split) -> tuple[jax.Array, jax.Array]:
        def one_network(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            params = unroll(problem.inner_loss, problem.init(key), distilled, **problem.unroll_options)
            return score(problem.apply, params, valid)

        accuracy, loss = jax.vmap(one_network)(keys)
        return jnp.mean(accuracy), jnp.mean(loss)

    return lambda distilled: scores(distilled, keys, experiment.valid)


def claim_folder(out: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Makes `out` this run's folder, or makes sure that it already is, before anything is written into it.

    Raises:
      InputError: it holds something else, another run, or cannot be written.
    """
    path = out / "config.json"
    try:
        if path.is_file():
            if not resume:
                raise InputError(f"{out} already holds a run: continue it with --resume, or choose another --out")
            _require_same(json.loads(path.read_text()), config, out)
            return
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out} is not empty and holds no run: choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".tmp")
        draft.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(draft, path)
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"cannot use {out} as output folder ({error}): choose another --out") from error


def _require_same(held: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    before, now = ({**c.get("recipe", {}), "data set": c.get("data_source")} for c in (held, wanted))
    changed = [f"{k} {before.get(k)} there, {v} now" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise InputError(
            f"{out} holds a run with other settings ({'; '.join(changed)}): repeat its settings, or choose another --out"
        )


def distill(
    recipe: Recipe,
    out: str | os.PathLike,
    *,
    name: str = "custom",
    resume: bool = False,
    dataset: Dataset | None = None,
    model: Model | None = None,
    data_dir: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs a recipe from data to artefact and returns its summary (also in `summary.json`).

    Writes into `out`: config.json, metrics.jsonl, checkpoints/, distilled.safetensors, summary.json. The test set is read
    once, for the summary; the iterate is chosen on held-out training data.

    Args:
      recipe: the settings.
      out: folder of the run: new, empty, or with `resume` that of the same run.
      name: what the recipe is called in reports.
      resume: continue what `out` holds; a run that has not begun is begun.
      dataset, model: used instead of those the recipe names.
      data_dir: folder of prepared data sets.
      progress: whether to show progress on the terminal.

    Raises:
      InputError: bad settings, data or output folder; nothing has been written then.
      InterruptedRunError, NonFiniteError: see `run.run`; the folder can be resumed.
    """
    experiment = set_up(recipe, dataset=dataset, model=model, data_dir=data_dir)
    out = Path(out)
    settings = dataclasses.asdict(recipe)
    model_name = recipe.model if model is None else "custom"
    claim_folder(
        out,
        {"name": name, "recipe": settings, "model": model_name, "data_source": experiment.dataset.source},
        resume=resume,
    )
    layout = make_layout(recipe.num_nets, recipe.batch_size, remat=recipe.remat)
    everywhere = replicated(layout.mesh)
    finished = run(
        jax.device_put(experiment.key, everywhere),
        build_distiller(experiment, layout),
        first_iterate(experiment),
        jax.device_put(experiment.train, everywhere),
        make_validation(experiment),
        out,
        outer_steps=recipe.outer_steps,
        eval_every=recipe.eval_every,
        progress=progress,
    )
    return finish(experiment, finished, out, name=name, model_name=model_name)


def finish(experiment: Experiment, finished: RunState, out: Path, *, name: str, model_name: str) -> dict[str, Any]:
    """Measures the best iterate on the test set beside its baselines, and writes the artefact and `summary.json`."""
    recipe, problem = experiment.recipe, experiment.problem
    best = finished.best._replace(labels=problem.targets(finished.best.labels))
    plain = problem._replace(targets=fixed_labels)
    test = evaluate(experiment.stream("test"), plain, best, experiment.test, num_nets=experiment.nets[1])
    metadata = {
        **describe(experiment, model_name),
        "name": name,
        "outer_steps": int(finished.state.step),
        "best_step": int(finished.best_step),
        "valid_accuracy": 100 * float(finished.best_accuracy),
        "accuracy": test.summary(),
    }
    artifact.save(out / artifact.FILE_NAME, best, metadata, experiment.params)
    real = baselines.random_real(
        experiment.stream("baseline"), plain, best, experiment.train, experiment.valid, experiment.test
    )
    full, full_steps = baselines.all_data(experiment.stream("all data"), plain, experiment.train, experiment.test)
    summary = {
        "name": name,
        "data": experiment.dataset.name,
        "images": int(np.prod(best.images.shape[:2])),
        "inner_steps": recipe.steps * recipe.epochs,
        "num_test": len(experiment.dataset.y_test),
        "num_train": len(experiment.train.labels),
        "best_step": int(finished.best_step),
        "valid_accuracy": 100 * float(finished.best_accuracy),
        "distilled": test.summary(),
        "accuracy_by_step": dict(zip(map(str, test.steps), test.accuracy.mean(axis=0).tolist(), strict=True)),
        "random_real": {**real.evaluation.summary(), "learning_rate": real.learning_rate},
        "all_data": {"accuracy": full, "adam_steps": full_steps},
    }
    draft = out / "summary.json.tmp"
    draft.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(draft, out / "summary.json")
    return summary


def describe(experiment: Experiment, model_name: str) -> dict[str, Any]:
    """What a user of the artefact must know, JSON-serialisable; nothing in it depends on when or where it was made."""
    recipe, dataset = experiment.recipe, experiment.dataset
    packages = ("ddjax", "jax", "jaxlib", "flax", "optax")
    return {
        "data": dataset.name,
        "data_source": Path(dataset.source).name,
        "mean": [float(value) for value in dataset.mean],
        "std": [float(value) for value in dataset.std],
        "class_names": list(dataset.class_names),
        "model": {
            "name": model_name,
            "weights": recipe.weights,
            "input_shape": list(dataset.input_shape),
            "num_classes": dataset.num_classes,
        },
        "init": recipe.init,
        "direction": recipe.direction,
        "seed": recipe.seed,
        "recipe": dataclasses.asdict(recipe),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
