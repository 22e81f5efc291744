"""A whole distillation: from a recipe to the artefact, its scores beside its baselines, and the folder that holds them."""

import contextlib
import functools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.core.distilled import DistilledData, fixed_labels
from ddjax.core.meta import replicated
from ddjax.data import Dataset
from ddjax.errors import InputError
from ddjax.evaluation import baselines
from ddjax.evaluation.measure import confusion, evaluate, measure_trained
from ddjax.evaluation.poisoning import poisoning_summary
from ddjax.experiment.folder import SUMMARY, Config, claim_folder
from ddjax.experiment.outer import build_distiller, first_iterate, make_validation
from ddjax.experiment.setup import Experiment, set_up
from ddjax.models import Model
from ddjax.recipes import Recipe, get_recipe
from ddjax.storage import artifact, provenance, tensorfile
from ddjax.storage.artifact import Artifact
from ddjax.storage.files import write_json
from ddjax.storage.pools import Pool
from ddjax.training import fit
from ddjax.training.devices import make_layout
from ddjax.training.loop import RunState, run
from ddjax.training.progress import say


@dataclass(frozen=True)
class Summary:
    """The figures of a run, in percent where nothing else is said.

    Attributes:
      name, data, model: what the recipe, the data set and the network are called.
      images, inner_steps: distilled images in all, and steps of the inner loop.
      num_train, num_test: real examples that were learned from and tested on.
      outer_steps, best_step: updates in all, and after how many the saved iterate did best on held-out training data.
      valid_accuracy: the best iterate's, on held-out training data.
      distilled: `Evaluation.summary` of the test.
      accuracy_by_step: mean test accuracy by inner steps taken.
      pool: how well the networks of a pool do, those to distil with and those held out; None without one.
      random_real, all_data: `summary` of the two baselines; None where they were not asked for.
      poisoning: `poisoning_summary`; None where nothing is poisoned.
    """

    name: str
    data: str
    model: str
    images: int
    inner_steps: int
    num_train: int
    num_test: int
    outer_steps: int
    best_step: int
    valid_accuracy: float
    distilled: dict[str, Any]
    accuracy_by_step: dict[str, float]
    pool: dict[str, Any] | None = None
    random_real: dict[str, Any] | None = None
    all_data: dict[str, Any] | None = None
    poisoning: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """What there is of it, as `summary.json` has it."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Distillation(NamedTuple):
    """What `distill` returns: the artefact, its figures, and the folder that holds both, or None."""

    artifact: Artifact
    summary: Summary
    folder: Path | None


def distill(
    recipe: Recipe | str,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    dataset: Dataset | None = None,
    model: Model | None = None,
    data_dir: str | None = None,
    compare: bool = True,
    progress: bool = True,
) -> Distillation:
    """Runs a recipe from data to artefact.

    Writes into `out`: config.json, metrics.jsonl, checkpoints/, distilled.safetensors, summary.json. The test set is read
    once, for the summary; the iterate is chosen on held-out training data.

    Args:
      recipe: the settings, or the name of a recipe.
      out: folder of the run: new, empty, or with `resume` that of the same run; None keeps nothing.
      name: what the recipe is called in reports; by default its name.
      resume: continue what `out` holds: a run that has not begun is begun, one that is finished is read, and one that took
        fewer outer steps than the recipe has now goes on, its rates on the cosine of the new length.
      accept_changes: resume with other code, versions or inputs than the run was begun with, which it then tells.
      dataset, model: used instead of those the recipe names.
      data_dir: folder of prepared data sets.
      compare: whether to measure, too, what random real images do in the same steps and training on all the data does.
      progress: whether to show progress on the terminal.

    Raises:
      InputError: bad settings, data or output folder; nothing has been written then.
      InterruptedRunError, NonFiniteError: see `training.loop.run`; the folder can be resumed.
    """
    if isinstance(recipe, str):
        name = name or recipe
        recipe = get_recipe(recipe)
    if not isinstance(recipe, Recipe):
        raise InputError(f"a recipe is wanted, or the name of one, not {type(recipe).__name__}: see ddjax.get_recipe")
    say("loading the data", progress)
    experiment = set_up(recipe, dataset=dataset, model=model, data_dir=data_dir)
    recipe = experiment.recipe
    origin = provenance.origin(recipe.outer.outer_steps, inputs(experiment))
    config = Config(name or "custom", recipe.network.model, recipe, (origin,))
    with contextlib.ExitStack() as stack:
        folder = Path(out if out is not None else stack.enter_context(tempfile.TemporaryDirectory()))
        done = finished(folder, recipe, compare=compare)
        config = claim_folder(
            folder, config, resume=resume or out is None, accept_changes=accept_changes, finished=done is not None
        )
        if done is None:
            state = carry_out(experiment, folder, progress=progress)
            done = finish(experiment, state, folder, config, compare=compare, progress=progress)
        return done if out is not None else done._replace(folder=None)


def inputs(experiment: Experiment) -> dict[str, str]:
    """A digest of everything that a run reads, by what it is."""
    dataset, network = experiment.dataset, experiment.recipe.network
    arrays = (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test)
    found = {"data": f"{Path(dataset.source).name} {provenance.digest(arrays)}"}
    if experiment.starts.pool is not None:
        found["pool"] = experiment.starts.pool.digest
    if network.checkpoint:
        found["checkpoint"] = provenance.digest_of_file(Path(network.checkpoint).expanduser())
    return found


def finished(folder: Path, recipe: Recipe, *, compare: bool) -> Distillation | None:
    """What the folder holds of a run that went to its end, or None where it did not, or lacks the comparison."""
    try:
        summary = Summary(**json.loads((folder / SUMMARY).read_text()))
        held = artifact.load_artifact(folder)
    except (OSError, ValueError, TypeError):
        return None
    complete = summary.outer_steps == recipe.outer.outer_steps and (summary.random_real is not None or not compare)
    return Distillation(held, summary, folder) if complete else None


def carry_out(experiment: Experiment, folder: Path, *, progress: bool) -> RunState:
    """The outer loop from where `folder` has it to its end."""
    recipe = experiment.recipe
    layout = make_layout(recipe.outer.num_nets, recipe.outer.batch_size, remat=recipe.inner.remat)
    everywhere = replicated(layout.mesh)
    return run(
        jax.device_put(experiment.key, everywhere),
        build_distiller(experiment, layout),
        first_iterate(experiment),
        jax.device_put(experiment.data, everywhere),
        make_validation(experiment),
        folder,
        outer_steps=recipe.outer.outer_steps,
        eval_every=recipe.report.eval_every,
        progress=progress,
    )


def finish(
    experiment: Experiment, state: RunState, out: Path, config: Config, *, compare: bool, progress: bool
) -> Distillation:
    """Measures the best iterate on the test set, and what to `compare` it with, and writes the artefact and `summary.json`."""
    problem, starts, dataset = experiment.problem, experiment.starts, experiment.dataset
    best = state.best._replace(labels=problem.targets(state.best.labels))
    plain = problem._replace(targets=fixed_labels)
    nets = starts.test._asdict()
    say(f"testing on {len(dataset.y_test)} examples", progress)
    test = evaluate(experiment.stream("test"), plain, best, experiment.outer(experiment.test), **nets)
    chosen: dict[str, Any] = {"best_step": int(state.best_step), "valid_accuracy": 100 * float(state.best_accuracy)}
    steps = int(state.state.step)
    metadata = {
        **describe(experiment, config),
        "outer_steps": steps,
        **chosen,
        "accuracy": test.summary(),
    }
    artifact.save_artifact(out / artifact.FILE_NAME, best, metadata, starts.params)
    poisoning = None
    if experiment.recipe.data.poison:
        measure = functools.partial(confusion, plain.apply, num_classes=dataset.num_classes)
        confusions = measure_trained(measure, experiment.stream("test"), plain, best, experiment.test, **nets)
        poisoning = poisoning_summary(confusions, experiment.taken_for)
    summary = Summary(
        name=config.name,
        data=dataset.name,
        model=config.model,
        images=int(np.prod(best.images.shape[:2])),
        inner_steps=best.log_lrs.size,
        num_train=len(experiment.train.labels),
        num_test=len(dataset.y_test),
        outer_steps=steps,
        **chosen,
        distilled=test.summary(),
        accuracy_by_step=dict(zip(map(str, test.steps), test.accuracy.mean(axis=0).tolist(), strict=True)),
        pool=pool_summary(experiment),
        **(comparison(experiment, best, progress=progress) if compare else {}),
        poisoning=poisoning,
    )
    write_json(out / SUMMARY, summary.to_json())
    return Distillation(artifact.load_artifact(out), summary, out)


def pool_summary(experiment: Experiment) -> dict[str, Any] | None:
    """How well the networks of a pool do on their own test set, those to distil with and those held out."""
    starts = experiment.starts
    if starts.pool is None or starts.params is not None:
        return None
    accuracy, held_out = np.array(starts.pool.metadata["accuracy"]), starts.test.num_nets
    parts = {"train": accuracy[held_out:], "test": accuracy[:held_out]}
    return {
        name: {"num_nets": len(part), "accuracy_mean": float(part.mean()), "accuracy_std": float(part.std())}
        for name, part in parts.items()
    }


def comparison(experiment: Experiment, best: DistilledData, *, progress: bool) -> dict[str, Any]:
    """What the same steps on random real images reach, and ordinary training on all the data."""
    plain = experiment.problem._replace(targets=fixed_labels)
    train, valid, test = experiment.train, experiment.outer(experiment.valid), experiment.outer(experiment.test)
    count = 1 if experiment.starts.params is not None else None
    nets: dict[str, Any] = {"num_nets": count, "params_N": experiment.starts.test.params_N}
    say("comparing with random real images", progress)
    real = baselines.random_real(experiment.stream("baseline"), plain, best, train, valid, test, **nets)
    say("comparing with training on all the data", progress)
    full = fit.full_data(experiment.stream("all data"), plain, experiment.outer(train), test)
    return {"random_real": real.summary(), "all_data": full.summary()}


def told_of(pool: Pool) -> dict[str, Any]:
    """What networks were trained on and how, how many there are to distil with and held out, and the digest of their file."""
    told = {name: pool.metadata.get(name) for name in ("data_source", "training", "seed", "test_nets")}
    return {**told, "num_nets": len(pool.metadata["accuracy"]) - pool.metadata["test_nets"], "digest": pool.digest}


def describe(experiment: Experiment, config: Config) -> dict[str, Any]:
    """What a user of the artefact must know, JSON-serialisable; nothing in it depends on when or where it was made."""
    recipe, dataset, starts = experiment.recipe, experiment.dataset, experiment.starts
    weights = jax.eval_shape(experiment.model.init, experiment.key)
    return {
        "name": config.name,
        "data": dataset.name,
        "data_source": Path(dataset.source).name,
        "transform": dataset.transform.to_json(),
        "class_names": list(dataset.class_names),
        "model": {
            "name": config.model,
            "input_shape": list(dataset.input_shape),
            "num_classes": dataset.num_classes,
            "weights": {name: list(leaf.shape) for name, leaf in tensorfile.named("params", weights).items()},
        },
        "pool": None if starts.pool is None else told_of(starts.pool),
        "recipe": recipe.to_json(),
        "versions": provenance.versions(),
    }
