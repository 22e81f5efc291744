"""The outer loop as a long-running process: progress, validation, checkpoints, interruption, resumption.

Knows nothing of data sets or networks: it drives a `Distiller` and a validation function.
"""

import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.outer import Distiller, DistillState, Info
from ddjax.errors import InterruptedRunError, NonFiniteError
from ddjax.storage.checkpoints import Checkpoints
from ddjax.storage.frames import Frames
from ddjax.storage.metrics import MetricsLog
from ddjax.training import signals
from ddjax.training.progress import Bar, say

CHECKPOINT_SECONDS = 60.0
MOST_SKIPPED = 10  # steps in a row that are not finite, after which a run ends
_SOON = 2.0  # seconds after which a run saves for the first time, then after twice as many and so on

# distilled -> (accuracy in [0, 1], mean loss), on held-out training data.
Validate = Callable[[DistilledData], tuple[jax.Array, jax.Array]]
# The state before a step that is not finite -> where that went wrong, in words.
Diagnose = Callable[[DistillState], str]
# (a row of metrics.jsonl, the frame that belongs to it or None) -> nothing.
Watch = Callable[[dict[str, Any], np.ndarray | None], None]


class RunState(NamedTuple):
    """Everything a resumed run needs: the distiller's state, the iterate that did best on held-out training data, and
    `recent`, the infos of the steps since the last multiple of the validation interval [such steps + 1], then zeros."""

    state: DistillState
    best: DistilledData
    best_accuracy: jax.Array
    best_step: jax.Array
    recent: Info


def run(
    key: jax.Array,
    distiller: Distiller,
    distilled: DistilledData,
    dataset: Any,
    validate: Validate,
    folder: Path,
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
      dataset: handed to the step; lives on the device.
      validate: scores of a candidate on held-out training data.
      folder: receives `checkpoints/`, `metrics.jsonl` and, with `frame`, `frames.npz`; must exist.
      outer_steps, eval_every: length, and steps between validations.
      patience: validations without a better iterate after which the run is over; None: it goes its whole length.
      checkpoint_every: seconds between checkpoints, at most; None: 60. The first come sooner, so that a run that is killed
        loses no more than half of what it did, or this.
      strict: whether one step that is not finite ends the run; otherwise it is skipped and counted (`skipped` in
        metrics.jsonl), and ten in a row end the run.
      diagnose: says more of what ended it.
      watch: is given the row of each validation, and its frame or None, when they are written.
      frame: the pictures uint8 [n, H, W, C] that are kept of an iterate at each validation; None: none are.
      progress: whether to show a bar (or, where standard error is no terminal, a line a validation).

    Raises:
      InterruptedRunError: SIGINT, SIGTERM or SIGHUP, after saving.
      OSError: the folder takes no checkpoint, which is tried before anything else.
      NonFiniteError: a loss or meta-gradient that is not finite, ten times in a row or once, after saving the state before
        it.
    """
    step_fn = jax.jit(distiller.step, donate_argnums=1)
    start = distiller.init(distilled)
    going = _Run(
        start, distilled, step_fn.eval_shape(key, start, dataset)[1], validate, folder, eval_every, frame, watch
    )
    going.most_skipped, going.diagnose = (1 if strict else MOST_SKIPPED), diagnose
    if not going.over(outer_steps, patience):
        going.save()
        # Before the bar, whose clock would count it as a step's; and before signals wait for the end of a step.
        say("compiling the outer step", progress)
        step_fn.lower(key, going.current.state, dataset).compile()
    every = CHECKPOINT_SECONDS if checkpoint_every is None else checkpoint_every
    going.begin()
    with signals.noted() as noted, Bar(going.step, outer_steps, "step", progress) as bar:
        over = going.over(outer_steps, patience)
        while not over:
            going.advance(*step_fn(key, going.current.state, dataset))
            bar.update()
            if going.step % eval_every == 0 or going.step == outer_steps:
                _report(bar, going.validated(bar), outer_steps)
            over = going.over(outer_steps, patience)
            stop = noted[:1]  # looked at once: a signal between two looks would be obeyed without having been saved for
            if stop or over or going.due(every):
                going.save()
            if stop:
                raise InterruptedRunError(stop[0], going.step)
    if going.step < outer_steps:
        best = int(going.current.best_step)
        say(f"ended at step {going.step} of {outer_steps}: nothing was better than step {best} (--patience)", progress)
    return going.current


class _Run:
    """A run under way: its state, the infos of its steps since the last multiple of the validation interval, its records."""

    def __init__(
        self,
        start: DistillState,
        distilled: DistilledData,
        info: Info,
        validate: Validate,
        folder: Path,
        eval_every: int,
        frame: Callable[[DistilledData], np.ndarray] | None,
        watch: Watch | None,
    ):
        def like(step: int) -> RunState:
            recent = jax.tree.map(lambda leaf: np.zeros((1 + step % eval_every, *leaf.shape), leaf.dtype), info)
            best = jax.tree.map(jnp.copy, distilled)
            return RunState(start, best, jnp.full((), -1.0), jnp.full((), -1, jnp.int32), recent)

        self._checkpoints: Checkpoints[RunState] = Checkpoints(folder / "checkpoints")
        self.current = self._checkpoints.restore(like)
        self.step = int(self.current.state.step)
        self._every = eval_every
        self._infos = [jax.tree.map(operator.itemgetter(i), self.current.recent) for i in range(self.step % eval_every)]
        self._log = MetricsLog(folder / "metrics.jsonl", self.step)
        self._validate, self._has_validated = validate, False
        self._watch = watch
        self._unseen: Info | None = None  # of the newest step, which nobody has looked at
        self._in_a_row, self.most_skipped, self.diagnose = 0, MOST_SKIPPED, cast(Diagnose | None, None)
        self._frame, self._frames = frame, Frames(folder / "frames.npz", self.step)
        if self.step == 0:
            self._keep_frame()
        self.saved_at = time.monotonic()
        self._began = self.saved_at
        self._started = self.saved_at - self._log.seconds

    def over(self, outer_steps: int, patience: int | None) -> bool:
        """Whether all steps were taken, or as many validations as `patience` in a row were no better than one before."""
        since = self.step // self._every * self._every - int(self.current.best_step)
        return self.step >= outer_steps or (patience is not None and self.step > 0 and since >= patience * self._every)

    def _keep_frame(self) -> np.ndarray | None:
        pictures = None if self._frame is None else self._frame(self.current.state.distilled)
        if pictures is not None:
            self._frames.append(self.step, pictures)
        return pictures

    def advance(self, state: DistillState, info: Info) -> None:
        """One step was sent to the device."""
        self.current = self.current._replace(state=state)
        # The previous step's numbers: reading this one's would leave the device idle until the next is sent.
        if self._look():
            self._infos.append(info)
            self._unseen = info
            self.step += 1
        # Else this was that step again, whose state was left as it had been.

    def validated(self, bar: Bar) -> dict[str, Any]:
        """Scores the iterate and the average of iterates, keeps the better if it beats the best so far, and logs."""
        self._look()
        if not self._has_validated:
            bar.report("validating", "validating for the first time")
        state = self.current.state
        candidates = (state.distilled, state.average)
        (accuracy, loss), (average_accuracy, average_loss) = (jax.device_get(self._validate(c)) for c in candidates)
        winner = int(average_accuracy > accuracy)
        best = max(accuracy, average_accuracy)
        if best > self.current.best_accuracy:
            kept = jax.tree.map(jnp.copy, candidates[winner])
            step = jnp.copy(state.step)
            self.current = self.current._replace(best=kept, best_accuracy=jnp.asarray(best), best_step=step)
        infos = jax.device_get(self._infos)
        good = [info for info in infos if info.finite] or infos
        norms = {name: float(np.median([getattr(i.grad_norms, name) for i in good])) for name in DistilledData._fields}
        lrs = np.exp(np.asarray(state.distilled.log_lrs))
        row = {
            "step": self.step,
            "loss": float(np.mean([i.loss for i in good])),
            "valid_accuracy": float(accuracy),
            "valid_loss": float(loss),
            "valid_accuracy_average": float(average_accuracy),
            "valid_loss_average": float(average_loss),
            "best_valid_accuracy": float(self.current.best_accuracy),
            "grad_norm_images": norms["images"],
            "grad_norm_log_lrs": norms["log_lrs"],
            "learning_rate_min": float(lrs.min()),
            "learning_rate_max": float(lrs.max()),
            "skipped": sum(not info.finite for info in infos),
            "seconds": round(time.monotonic() - self._started, 3),
        }
        self._log.append(row)
        pictures = self._keep_frame()
        if self._watch is not None:
            self._watch(row, pictures)
        if self.step % self._every == 0:
            self._infos = []
        self._has_validated = True
        return row

    def begin(self) -> None:
        """Steps are taken from now on."""
        self._began = self.saved_at = time.monotonic()

    def due(self, every: float) -> bool:
        """Whether to save: so many seconds after the last time, or when what is not saved is longer than what is."""
        unsaved, saved = time.monotonic() - self.saved_at, self.saved_at - self._began
        return unsaved > min(every, max(_SOON, saved))

    def save(self) -> None:
        self._look()
        self._save(self._infos)
        self.saved_at = time.monotonic()

    def _save(self, infos: list[Info]) -> None:
        nothing = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), self.current.recent)
        rows = [*jax.device_get(infos), nothing]  # a checkpoint holds no empty arrays
        recent = jax.tree.map(lambda *leaves: np.array(leaves), *rows)
        self._checkpoints.save(int(self.current.state.step), self.current._replace(recent=recent))

    def _look(self) -> bool:
        """Whether the newest step was finite. One that was not left the state as it was: it is counted as done, and skipped;
        after too many in a row that state is saved, and the run ends."""
        info, self._unseen = self._unseen, None
        if info is None or info.finite:
            self._in_a_row = 0 if info is not None else self._in_a_row
            return True
        self._in_a_row += 1
        state = self.current.state
        if self._in_a_row == self.most_skipped:
            self._save(self._infos[:-1])
            why = "" if self.diagnose is None else f"; {self.diagnose(state)}"
            raise NonFiniteError(_explain(self.step, info, self._in_a_row, why))
        self.current = self.current._replace(state=state._replace(step=state.step + 1))
        return False


def _report(bar: Bar, row: dict[str, Any], total: int) -> None:
    accuracy = f"{100 * row['valid_accuracy']:.2f} %" + f", {row['skipped']} steps skipped" * bool(row["skipped"])
    bar.report(
        f"loss {row['loss']:.3f}, valid {accuracy}",
        f"step {row['step']}/{total}  loss {row['loss']:.4f}  valid {accuracy}  {row['seconds']:.0f} s",
    )


def _explain(step: int, info: Info, in_a_row: int, why: str) -> str:
    norms = ", ".join(f"{name} {float(value):.3g}" for name, value in info.grad_norms._asdict().items())
    return (
        f"step {step}: loss {float(info.loss):.4g}, meta-gradient norms {norms}: not finite"
        + f", the {in_a_row}th step in a row" * (in_a_row > 1)
        + f"{why}. The state before this step is saved; lower --lr, --lr-log-lrs or --inner-lr, or --clip, and start again"
    )
