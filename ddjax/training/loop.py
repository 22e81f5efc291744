"""The outer loop as a long-running process: progress, validation, checkpoints, interruption, resumption.

Knows nothing of data sets or networks: it drives a `Distiller` and a validation function.
"""

import hashlib
import json
import operator
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from ddjax.core.distilled import DistilledData
from ddjax.core.outer import Distiller, DistillState, Info
from ddjax.errors import InputError
from ddjax.storage.files import write_whole

CHECKPOINT_SECONDS = 60.0

# distilled -> (accuracy in [0, 1], mean loss), on held-out training data.
Validate = Callable[[DistilledData], tuple[jax.Array, jax.Array]]


class RunState(NamedTuple):
    """Everything a resumed run needs: the distiller's state, the iterate that did best on held-out training data, and
    `recent`, the infos of the steps since the last validation, in the first rows of arrays [validation interval]."""

    state: DistillState
    best: DistilledData
    best_accuracy: jax.Array
    best_step: jax.Array
    recent: Info


class InterruptedRunError(Exception):
    """SIGINT or SIGTERM arrived; the run was saved. `signum` is the signal's number."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"interrupted at step {step}")
        self.signum, self.step = signum, step


class NonFiniteError(ArithmeticError):
    """Loss or meta-gradient was not finite; the state before that step was saved."""


class Checkpoints:
    """Checkpoints of one run in a folder: written atomically, the newest two kept, read back bit for bit.

    Each holds a digest of its files, written last: one without it was never finished, one that differs is damaged.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, run: RunState) -> None:
        step = int(run.state.step)
        if self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(run))
            write_whole(self._folder / str(step) / "digest", self._digest(step))

    def restore(self, like: RunState) -> RunState:
        """The newest intact checkpoint, or `like` itself where there is none; newer ones that are not are deleted.

        Raises:
          InputError: there are only damaged ones.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            digest = self._folder / str(step) / "digest"
            if not digest.is_file():
                self._manager.delete(step)
            elif digest.read_bytes() != self._digest(step).encode():
                damaged.append(step)
            else:
                for newer in damaged:
                    print(f"the checkpoint of step {newer} is damaged: going on from step {step}", flush=True)
                    self._manager.delete(newer)
                return cast(RunState, self._manager.restore(step, args=ocp.args.StandardRestore(like)))
        if damaged:
            raise InputError(f"the checkpoints in {self._folder} are damaged: start again with another --out")
        return like

    def _digest(self, step: int) -> str:
        folder, total = self._folder / str(step), hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("digest")):
            total.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()


class MetricsLog:
    """`metrics.jsonl`: one JSON object a validation, in order of steps. Lines past a resumed step are dropped."""

    def __init__(self, path: Path, step: int):
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.seconds = kept[-1]["seconds"] if kept else 0.0

    def append(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them, where this is the main thread."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(s, lambda signum, frame: noted.append(signum)) for s in signals]
    try:
        yield noted
    finally:
        for s, handler in zip(signals, previous, strict=True):
            signal.signal(s, handler)


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
    progress: bool = True,
) -> RunState:
    """Distils for `outer_steps` steps and returns the final state with the best iterate; resumes what `folder` holds.

    Step t depends on `fold_in(key, t)` and the state alone, so an interrupted and resumed run is bitwise equal to one that
    was never interrupted.

    Args:
      key: the run's one key.
      distiller: see `core.outer.make_distiller`; its step is jitted here, its state donated.
      distilled: starting point, when there is nothing to resume.
      dataset: handed to the step; lives on the device.
      validate: scores of a candidate on held-out training data.
      folder: receives `checkpoints/` and `metrics.jsonl`; must exist.
      outer_steps, eval_every: length, and steps between validations.
      progress: whether to show a bar (or, where standard error is no terminal, a line a validation).

    Raises:
      InterruptedRunError: SIGINT or SIGTERM, after saving.
      NonFiniteError: a loss or meta-gradient that is not finite, after saving the state before it.
    """
    step_fn = jax.jit(distiller.step, donate_argnums=1)
    start = distiller.init(distilled)
    interval = min(eval_every, outer_steps)
    info_like = jax.eval_shape(step_fn, key, start, dataset)[1]
    recent = jax.tree.map(lambda leaf: np.zeros((interval, *leaf.shape), leaf.dtype), info_like)
    like = RunState(start, jax.tree.map(jnp.copy, distilled), jnp.full((), -1.0), jnp.full((), -1, jnp.int32), recent)
    checkpoints = Checkpoints(folder / "checkpoints")
    current = checkpoints.restore(like)
    first = int(current.state.step)
    log = MetricsLog(folder / "metrics.jsonl", first)
    started = time.monotonic() - log.seconds
    saved_at = time.monotonic()
    infos = [jax.tree.map(operator.itemgetter(i), current.recent) for i in range(first % interval)]
    with _signals_noted() as noted, _bar(first, outer_steps, progress) as bar:
        for step in range(first + 1, outer_steps + 1):
            state, info = step_fn(key, current.state, dataset)
            current = current._replace(state=state)
            # The previous step's numbers: reading this one's would leave the device idle until the next is sent.
            if infos and not infos[-1].finite:
                checkpoints.save(_with_recent(current, infos[:-1]))
                raise NonFiniteError(_explain(step - 1, infos[-1]))
            infos.append(info)
            bar.update()
            if step % eval_every == 0 or step == outer_steps:
                if not info.finite:
                    checkpoints.save(_with_recent(current, infos[:-1]))
                    raise NonFiniteError(_explain(step, info))
                current, row = _validated(current, validate, infos)
                row["seconds"] = round(time.monotonic() - started, 3)
                log.append(row)
                bar.set_postfix_str(f"loss {row['loss']:.3f}, valid {100 * row['valid_accuracy']:.2f} %")
                _say(progress and bar.disable, step, outer_steps, row)
                infos = []
            stop = noted[:1]  # looked at once: a signal between two looks would be obeyed without having been saved for
            if stop or step == outer_steps or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                checkpoints.save(_with_recent(current, infos))
                saved_at = time.monotonic()
            if stop:
                raise InterruptedRunError(stop[0], step)
    return current


def _with_recent(current: RunState, infos: list[Info]) -> RunState:
    rows = jax.device_get(infos)
    recent = jax.tree.map(lambda old, *new: np.array([*new, *old[len(new) :]], old.dtype), current.recent, *rows)
    return current._replace(recent=recent)


def _bar(first: int, total: int, progress: bool) -> tqdm:
    disable = None if progress else True  # None: only where standard error is a terminal
    return tqdm(initial=first, total=total, unit="step", disable=disable, dynamic_ncols=True, smoothing=0.1)


def _say(needed: bool, step: int, total: int, row: dict[str, Any]) -> None:
    if needed:
        print(
            f"step {step}/{total}  loss {row['loss']:.4f}  valid {100 * row['valid_accuracy']:.2f} %  {row['seconds']:.0f} s",
            flush=True,
        )


def _validated(current: RunState, validate: Validate, infos: list[Info]) -> tuple[RunState, dict[str, Any]]:
    """Scores the iterate and the average of iterates, keeps the better if it beats the best so far, and reports."""
    state = current.state
    candidates = (state.distilled, state.average)
    (accuracy, loss), (average_accuracy, average_loss) = (jax.device_get(validate(c)) for c in candidates)
    winner = int(average_accuracy > accuracy)
    best = max(accuracy, average_accuracy)
    if best > current.best_accuracy:
        kept = jax.tree.map(jnp.copy, candidates[winner])
        current = current._replace(best=kept, best_accuracy=jnp.asarray(best), best_step=jnp.copy(state.step))
    infos = jax.device_get(infos)
    norms = {name: float(np.median([getattr(i.grad_norms, name) for i in infos])) for name in DistilledData._fields}
    lrs = np.exp(np.asarray(state.distilled.log_lrs))
    row = {
        "step": int(state.step),
        "loss": float(np.mean([i.loss for i in infos])),
        "valid_accuracy": float(accuracy),
        "valid_loss": float(loss),
        "valid_accuracy_average": float(average_accuracy),
        "valid_loss_average": float(average_loss),
        "best_valid_accuracy": float(current.best_accuracy),
        "grad_norm_images": norms["images"],
        "grad_norm_log_lrs": norms["log_lrs"],
        "learning_rate_min": float(lrs.min()),
        "learning_rate_max": float(lrs.max()),
    }
    return current, row


def _explain(step: int, info: Info) -> str:
    norms = ", ".join(f"{name} {float(value):.3g}" for name, value in info.grad_norms._asdict().items())
    return (
        f"step {step}: loss {float(info.loss):.4g}, meta-gradient norms {norms}: not finite. The state before this step is "
        "saved; lower --lr, --lr-log-lrs or --inner-lr, or --clip, and start again"
    )
