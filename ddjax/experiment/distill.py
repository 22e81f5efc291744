"""A whole distillation: from a recipe to the folder that holds what came of it."""

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from ddjax.core.spread import place, replicated
from ddjax.data import Dataset
from ddjax.errors import InputError
from ddjax.experiment.folder import Config, claim_folder
from ddjax.experiment.outcome import Distillation, finish, finished
from ddjax.experiment.outer import build_distiller, feeding, first_iterate, make_diagnosis, make_frame, make_validation
from ddjax.experiment.setup import Experiment, set_up
from ddjax.experiment.trust import digest_of_data
from ddjax.models import Model
from ddjax.recipes import Recipe, get_recipe, known_trouble
from ddjax.storage import provenance
from ddjax.storage.board import Board
from ddjax.storage.processes import agreed, first_process, several, together
from ddjax.training.devices import make_layout
from ddjax.training.loop import run
from ddjax.training.progress import say
from ddjax.training.under_way import RunState, Watch


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
    checkpoint_every: float | None = None,
    strict: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
) -> Distillation:
    """Runs a recipe from data to artefact.

    Writes into `out`: config.json, metrics.jsonl, checkpoints/, distilled.safetensors, summary.json and, of pictures,
    frames.npz. The test set is read once, for the summary; the iterate is chosen on held-out training data.

    Args:
      recipe: the settings, or the name of a recipe.
      out: folder of the run: new, empty, or with `resume` that of the same run; None keeps nothing.
      name: what the recipe is called in reports; by default its name.
      resume: continue what `out` holds: a run that has not begun is begun, one that is finished is read, and one that took
        fewer outer steps than the recipe has now, or ended for want of patience, goes on, its rates on the cosine of the
        new length, be it shorter or longer.
      accept_changes: resume with other code, versions or inputs than the run was begun with, which it then tells.
      dataset, model: used instead of those the recipe names.
      data_dir: folder of prepared data sets.
      compare: whether to measure, too, what random real images do in the same steps and training on all the data does.
      checkpoint_every: seconds between checkpoints, at most; None: 60.
      strict: whether one outer step that is not finite ends the run; otherwise it is skipped, and ten in a row end it.
      tensorboard: whether to write curves and pictures for TensorBoard into `out`/tensorboard, too.
      progress: whether to show progress on the terminal.

    Raises:
      InputError: bad settings, data or output folder; nothing has been written then.
      InterruptedRunError, NonFiniteError: see `training.loop.run`; the folder can be resumed.
      LostProcessError: another process of this run has ended; the folder can be resumed, with any number of processes.
      StorageError: the folder takes no more; what was saved before is intact.
    """
    if isinstance(recipe, str):
        name = name or recipe
        recipe = get_recipe(recipe)
    if not isinstance(recipe, Recipe):
        raise InputError(f"a recipe is wanted, or the name of one, not {type(recipe).__name__}: see ddjax.get_recipe")
    say("loading the data", progress)
    experiment = set_up(recipe, dataset=dataset, model=model, data_dir=data_dir)
    recipe = experiment.recipe
    for line in known_trouble(recipe):
        say(f"note: {line}", progress)
    origin = provenance.origin(recipe.outer.outer_steps, inputs(experiment))
    config = Config(name or "custom", recipe.network.model, recipe, (origin,))
    if several() and out is None:
        raise InputError("several processes keep their run in a folder that all of them see: say which, with out=")
    with together(), contextlib.ExitStack() as stack:

        def nowhere() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        folder = nowhere() if out is None else Path(out)
        # All processes write, since all do the same; what the first one writes is kept.
        mine = folder if first_process() else nowhere()
        board = Board(folder / "tensorboard") if tensorboard and first_process() else None
        if board is not None:
            stack.callback(board.close)
        done = agreed(lambda: finished(folder, recipe, compare=compare))
        going_on: Any = {
            "resume": resume or out is None,
            "accept_changes": accept_changes,
            "finished": done is not None,
        }
        config = agreed(lambda: stack.enter_context(claim_folder(folder, config, **going_on)))
        if done is None:
            how: Any = {"checkpoint_every": checkpoint_every, "strict": strict, "progress": progress}
            state = carry_out(experiment, folder, board, records=mine, **how)
            done = finish(experiment, state, mine, config, compare=compare, progress=progress)
        return done._replace(folder=None if out is None else folder)


def inputs(experiment: Experiment) -> dict[str, str]:
    """A digest of everything that a run reads, by what it is."""
    dataset, network = experiment.dataset, experiment.recipe.network
    found = {"data": f"{Path(dataset.source).name} {digest_of_data(dataset)}"}
    if experiment.starts.pool is not None:
        found["pool"] = experiment.starts.pool.digest
    if network.checkpoint:
        found["checkpoint"] = provenance.digest_of_file(Path(network.checkpoint).expanduser())
    if ".py:" in network.model:
        found["model"] = provenance.digest_of_file(Path(network.model.rpartition(":")[0]).expanduser())
    return found


def carry_out(
    experiment: Experiment,
    folder: Path,
    watch: Watch | None = None,
    *,
    records: Path | None = None,
    checkpoint_every: float | None = None,
    strict: bool = False,
    progress: bool,
) -> RunState:
    """The outer loop from where `folder` has it to its end; arguments as of `training.loop.run`."""
    recipe = experiment.recipe
    size = math.prod(experiment.dataset.input_shape)
    layout = make_layout(recipe.outer.num_nets, recipe.outer.batch_size, example_size=size, remat=recipe.inner.remat)
    if recipe.outer.basis == "components":
        say("finding the principal components of the data", progress)
    key, data = place((experiment.key, experiment.data), replicated(layout.mesh))
    with feeding(experiment, key, data, layout.mesh) as feed:
        return run(
            key,
            build_distiller(experiment, layout),
            first_iterate(experiment),
            feed,
            make_validation(experiment),
            folder,
            records,
            outer_steps=recipe.outer.outer_steps,
            eval_every=recipe.report.eval_every,
            patience=recipe.report.patience,
            checkpoint_every=checkpoint_every,
            strict=strict,
            diagnose=make_diagnosis(experiment),
            frame=make_frame(experiment),
            watch=watch,
            progress=progress,
        )
