"""The outer loop as a long-running process: progress, validation, checkpoints, interruption, resumption.

Knows nothing of data sets or networks: it drives a `Distiller` and a validation function.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.outer import Distiller
from ddjax.errors import InterruptedRunError
from ddjax.storage.processes import Votes
from ddjax.training import signals
from ddjax.training.progress import Bar, say
from ddjax.training.under_way import Diagnose, RunState, UnderWay, Validate, Watch

CHECKPOINT_SECONDS = 60.0


def run(
    key: jax.Array,
    distiller: Distiller,
    distilled: DistilledData,
    feed: Callable[[int], Any],
    validate: Validate,
    folder: Path,
    records: Path | None = None,
    *,
    outer_steps: int,
    eval_every: int,
    patience: int | None = None,
    checkpoint_every: float | None = None,
    strict: bool = False,
    diagnose: Diagnose | None = None,
    frame: Callable[[DistilledData], np.ndarray] | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> RunState:
    """Distils for `outer_steps` steps and returns the final state with the best iterate; resumes what `folder` holds.

    Step t depends on `fold_in(key, t)` and the state alone, so an interrupted and resumed run is bitwise equal to one that
    was never interrupted. A finished run goes on where `outer_steps` is more than it had.

    Args:
      key: the run's one key; distilled: starting point, when there is nothing to resume.
      distiller: see `core.outer.make_distiller`; its step is jitted here, its state donated.
      feed: the number of a step -> the data set that the step is handed: the same every time where it lives on the device.
      validate: scores of a candidate on held-out training data.
      folder: receives `checkpoints/`, `metrics.jsonl` and, with `frame`, `frames.npz`; must exist.
      records: receives the last two instead, in a process that is not the first of several.
      outer_steps, eval_every: length, and steps between validations.
      patience: validations without a better iterate after which the run is over; None: it goes its whole length.
      checkpoint_every: seconds between checkpoints, at most; None: 60. The first come sooner, so that a run that is killed
        loses no more than half of what it did, or this.
      strict: whether one step that is not finite ends the run; otherwise it is skipped and counted (`skipped` in
        metrics.jsonl), and ten in a row end the run.
      diagnose: says more of what ended it.
      watch: is given the row of each validation, and its frame or None, when they are written.
      frame: the pictures uint8 [n, H, W, C] that are kept of an iterate at each validation; None: none are.
      progress: whether to show a bar (or, where standard error is no terminal, a line for each validation and each minute).

    Raises:
      InterruptedRunError: SIGINT, SIGTERM or SIGHUP, to this process or another one of the run, after saving.
      OSError: the folder takes no checkpoint, which is tried before anything else.
      NonFiniteError: a loss or meta-gradient that is not finite, ten times in a row or once, after saving the state before
        it.
    """
    step_fn = jax.jit(distiller.step, donate_argnums=1)
    start = distiller.init(distilled)
    info = step_fn.eval_shape(key, start, feed(0))[1]
    places = (folder / "checkpoints", folder if records is None else records)
    going = UnderWay(start, info, validate, *places, eval_every, frame, watch, strict, diagnose)
    votes = Votes()
    if not going.over(outer_steps, patience):
        going.save()
        # Before the bar, whose clock would count it as a step's; and before signals wait for the end of a step.
        say("compiling the outer step", progress)
        step_fn.lower(key, going.current.state, feed(going.step)).compile()
    every = CHECKPOINT_SECONDS if checkpoint_every is None else checkpoint_every
    going.begin()
    with signals.noted() as noted, Bar(going.step, outer_steps, "step", progress) as bar:
        over = going.over(outer_steps, patience)
        while not over:
            going.advance(*step_fn(key, going.current.state, feed(going.step)))
            bar.update()
            if going.step % eval_every == 0 or going.step == outer_steps:
                _report(bar, going.validated(bar), outer_steps)
                if going.apart:
                    bar.note(_come_apart(going.step, int(going.current.best_step)))
            over = going.over(outer_steps, patience)
            # Looked at once: a signal between two looks would be obeyed without having been saved for.
            stop, due = votes.count(next(iter(noted), 0), going.due(every), over)
            if stop or over or due:
                going.save()
            if stop:
                raise InterruptedRunError(stop, going.step)
    if going.step < outer_steps:
        best = int(going.current.best_step)
        say(f"ended at step {going.step} of {outer_steps}: nothing was better than step {best} (--patience)", progress)
    return going.current


def _report(bar: Bar, row: dict[str, Any], total: int) -> None:
    accuracy = f"{100 * row['valid_accuracy']:.2f} %" + f", {row['skipped']} steps skipped" * bool(row["skipped"])
    bar.report(
        f"loss {row['loss']:.3f}, valid {accuracy}",
        f"step {row['step']}/{total}  loss {row['loss']:.4f}  valid {accuracy}  {row['seconds']:.0f} s",
    )


def _come_apart(step: int, best: int) -> str:
    return (
        f"note: at step {step} accuracy on held-out data has been far below that of step {best} for three validations: "
        "training on the images has most likely become chaotic. Interrupt this: with --resume --patience 3 the run then ends "
        f"with the iterate of step {best}, and one with lower --inner-lr, --lr or --lr-log-lrs may stay together"
    )
