"""A run under way: its state, what it records of its steps, when it saves, and which steps it skips."""

import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.outer import DistillState, Info
from ddjax.errors import NonFiniteError
from ddjax.storage.checkpoints import Checkpoints
from ddjax.storage.frames import Frames
from ddjax.storage.metrics import MetricsLog
from ddjax.training.progress import Bar

MOST_SKIPPED = 10  # steps in a row that are not finite, after which a run ends
_APART = 3  # validations in a row, all of them far below the best, after which a run is said to have come apart
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
    best_accuracy: np.ndarray
    best_step: np.ndarray
    recent: Info


class UnderWay:
    """A run under way: its state, the infos of its steps since the last multiple of the validation interval, its records."""

    def __init__(
        self,
        start: DistillState,
        info: Info,
        validate: Validate,
        checkpoints: Path,
        records: Path,
        eval_every: int,
        frame: Callable[[DistilledData], np.ndarray] | None,
        watch: Watch | None,
        strict: bool,
        diagnose: Diagnose | None,
    ):
        def like(step: int) -> RunState:
            recent = jax.tree.map(lambda leaf: np.zeros((1 + step % eval_every, *leaf.shape), leaf.dtype), info)
            best = jax.tree.map(jnp.copy, start.distilled)
            return RunState(start, best, np.full((), -1.0, np.float32), np.full((), -1, np.int32), recent)

        self._checkpoints: Checkpoints[RunState] = Checkpoints(checkpoints)
        self.current = self._checkpoints.restore(like)
        self.step = int(self.current.state.step)
        self._every = eval_every
        self._infos = [jax.tree.map(operator.itemgetter(i), self.current.recent) for i in range(self.step % eval_every)]
        self._log = MetricsLog(records / "metrics.jsonl", self.step)
        self._validate, self._has_validated = validate, False
        self._watch = watch
        self._unseen: Info | None = None  # of the newest step, which nobody has looked at
        self._low_in_a_row = 0  # validations far below the best, of this process
        self._in_a_row, self._most_skipped, self._diagnose = 0, 1 if strict else MOST_SKIPPED, diagnose
        self._frame, self._frames = frame, Frames(records / "frames.npz", self.step)
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
            step = np.asarray(jax.device_get(state.step))
            self.current = self.current._replace(best=kept, best_accuracy=np.asarray(best, np.float32), best_step=step)
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
        self._low_in_a_row = self._low_in_a_row + 1 if _far_below(row) else 0
        pictures = self._keep_frame()
        if self._watch is not None:
            self._watch(row, pictures)
        if self.step % self._every == 0:
            self._infos = []
        self._has_validated = True
        return row

    @property
    def apart(self) -> bool:
        """Whether this validation is the one that tells that the run has come apart."""
        return self._low_in_a_row == _APART

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
        if self._in_a_row == self._most_skipped:
            self._save(self._infos[:-1])
            why = "" if self._diagnose is None else f"; {self._diagnose(state)}"
            raise NonFiniteError(_explain(self.step, info, self._in_a_row, why))
        self.current = self.current._replace(state=state._replace(step=state.step + 1))
        return False


def _far_below(row: dict[str, Any]) -> bool:
    """Whether errors of iterate and average are five points and three tenths more than the best iterate's: runs of one step
    fall so far for two validations in a row and recover, a run that has come apart does not."""
    now, best = max(row["valid_accuracy"], row["valid_accuracy_average"]), row["best_valid_accuracy"]
    return bool(best - now > 0.05 and 1 - now > 1.3 * (1 - best))


def _explain(step: int, info: Info, in_a_row: int, why: str) -> str:
    norms = ", ".join(f"{name} {float(value):.3g}" for name, value in info.grad_norms._asdict().items())
    return (
        f"step {step}: loss {float(info.loss):.4g}, meta-gradient norms {norms}: not finite"
        + f", the {in_a_row}th step in a row" * (in_a_row > 1)
        + f"{why}. The state before this step is saved; lower --lr, --lr-log-lrs or --inner-lr, or --clip, and start again"
    )
