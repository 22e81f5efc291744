"""A whole distillation: from a recipe to the artefact, its scores beside its baselines, and the folder that holds them."""

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.core.distilled import DistilledData, fixed_labels
from ddjax.core.meta import replicated
from ddjax.data import Dataset
from ddjax.errors import InputError
from ddjax.evaluation import baselines
from ddjax.evaluation.measure import confusion, evaluate, measure_trained
from ddjax.evaluation.poisoning import poisoning_summary
from ddjax.experiment.setup import Experiment, build_distiller, first_iterate, make_validation, set_up
from ddjax.models import Model
from ddjax.recipes import Recipe
from ddjax.storage import artifact, provenance
from ddjax.storage.files import write_json
from ddjax.training import fit
from ddjax.training.devices import make_layout
from ddjax.training.loop import RunState, run


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
        write_json(path, config)
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"cannot use {out} as output folder ({error}): choose another --out") from error


def _require_same(held: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    before, now = ({**c.get("recipe", {}), "data set": c.get("data_source")} for c in (held, wanted))
    changed = [f"{k} {before.get(k)} there, {v} now" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise InputError(
            f"{out} holds a run with other settings ({'; '.join(changed)}): repeat its settings, choose another --out, or "
            "delete it"
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
    compare: bool = True,
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
      compare: whether to measure, too, what random real images do in the same steps and training on all the data does.
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
        jax.device_put(experiment.data, everywhere),
        make_validation(experiment),
        out,
        outer_steps=recipe.outer_steps,
        eval_every=recipe.eval_every,
        progress=progress,
    )
    return finish(experiment, finished, out, name=name, model_name=model_name, compare=compare)


def finish(
    experiment: Experiment, finished: RunState, out: Path, *, name: str, model_name: str, compare: bool
) -> dict[str, Any]:
    """Measures the best iterate on the test set, and what to `compare` it with, and writes the artefact and `summary.json`."""
    recipe, problem = experiment.recipe, experiment.problem
    best = finished.best._replace(labels=problem.targets(finished.best.labels))
    plain = problem._replace(targets=fixed_labels)
    test_set = experiment.outer(experiment.test)
    nets = {"num_nets": experiment.test_nets, "params_N": experiment.test_params}
    test = evaluate(experiment.stream("test"), plain, best, test_set, **nets)
    metadata = {
        **describe(experiment, model_name),
        "name": name,
        "outer_steps": int(finished.state.step),
        "best_step": int(finished.best_step),
        "valid_accuracy": 100 * float(finished.best_accuracy),
        "accuracy": test.summary(),
    }
    artifact.save(out / artifact.FILE_NAME, best, metadata, experiment.params)
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
    }
    if experiment.pool is not None:
        accuracy, held_out = np.array(experiment.pool.metadata["accuracy"]), experiment.test_nets
        parts = {"train": accuracy[held_out:], "test": accuracy[:held_out]}
        summary["pool"] = {
            name: {"num_nets": len(part), "accuracy_mean": part.mean(), "accuracy_std": part.std()}
            for name, part in parts.items()
        }
    if compare:
        summary |= comparison(experiment, best)
    if recipe.poison:
        measure = functools.partial(confusion, plain.apply, num_classes=experiment.dataset.num_classes)
        confusions = measure_trained(measure, experiment.stream("test"), plain, best, experiment.test, **nets)
        summary["poisoning"] = poisoning_summary(confusions, experiment.taken_for)
    write_json(out / "summary.json", summary)
    return summary


def comparison(experiment: Experiment, best: DistilledData) -> dict[str, Any]:
    """What the same steps on random real images reach, and ordinary training on all the data."""
    plain = experiment.problem._replace(targets=fixed_labels)
    train, valid, test = experiment.train, experiment.outer(experiment.valid), experiment.outer(experiment.test)
    real = baselines.random_real(
        experiment.stream("baseline"), plain, best, train, valid, test, params_N=experiment.test_params
    )
    full = fit.full_data(experiment.stream("all data"), plain, experiment.outer(train), test)
    return {"random_real": real.summary(), "all_data": full.summary()}


def describe(experiment: Experiment, model_name: str) -> dict[str, Any]:
    """What a user of the artefact must know, JSON-serialisable; nothing in it depends on when or where it was made."""
    recipe, dataset = experiment.recipe, experiment.dataset
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
        "pool": None if experiment.pool is None else experiment.pool.metadata["data_source"],
        "direction": recipe.direction,
        "seed": recipe.seed,
        "recipe": dataclasses.asdict(recipe),
        "versions": provenance.versions(),
    }
