"""Interruption: real signals to real processes, resumption bit for bit, damaged folders, numbers that are not finite."""

import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import compiled_once

from ddjax.cli import main as cli
from ddjax.core import losses
from ddjax.core.distilled import DistilledData, init_distilled
from ddjax.core.meta import Problem
from ddjax.core.outer import Distiller, make_distiller
from ddjax.errors import InputError, InterruptedRunError, NonFiniteError
from ddjax.experiment import outcome
from ddjax.storage import artifact, pieces, provenance
from ddjax.storage.checkpoints import Checkpoints
from ddjax.training import devices, loop as run, progress, signals, under_way


@pytest.fixture(autouse=True, scope="module")
def promotion(tmp_path_factory):
    """As users have it: optax's Adam promotes integers. And what is compiled again and again is compiled once."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        compiled_once(tmp_path_factory.mktemp("compiled")),
    ):
        yield


# A toy in this process: a linear model on three classes

STEPS, EVERY = 23, 5
INPUTS = jax.random.normal(jax.random.key(9), (64, 4))
TARGETS = jax.nn.one_hot(jnp.argmax(INPUTS[:, :3] + 0.3, axis=1), 3)
LOSS = losses.of_network(lambda params, inputs: inputs @ params)


# Learning rates stay in the range of float32 however far the images go.
def bound_log_lrs(updates: Any, _: Any) -> Any:
    return updates._replace(log_lrs=jnp.clip(updates.log_lrs, -1, 1))


def toy(learning_rate: Any = 1.0):
    """A distiller with a clipped Adam and an average of iterates: every kind of state a run has."""

    def draw(key, data):
        rows = jax.random.randint(key, (16,), 0, 64)
        return data[0][rows], data[1][rows]

    problem = Problem(
        apply=lambda params, inputs: inputs @ params,
        inner_loss=LOSS,
        outer_loss=LOSS,
        init=lambda key: 0.1 * jax.random.normal(key, (4, 3)),
    )
    optimizer = optax.chain(optax.clip_by_global_norm(0.05), optax.adam(learning_rate), optax.stateless(bound_log_lrs))
    return make_distiller(problem, optimizer, draw, num_nets=2, ema_decay=0.9)


DISTILLER = toy()
FIRST = init_distilled(
    jax.random.key(1), input_shape=(4,), num_classes=3, steps=2, epochs=2, per_class=1, learning_rate=0.1
)


@jax.jit
def validate(distilled: DistilledData):
    """A rough score of the images as weights, which rises and falls."""
    weights = distilled.images[0].T
    hits = jnp.argmax(INPUTS @ weights, axis=1) == jnp.argmax(TARGETS, axis=1)
    return jnp.mean(hits), LOSS(weights, INPUTS, TARGETS)


def distil(folder: Path, **changes) -> under_way.RunState:
    folder.mkdir(exist_ok=True)
    options = {"outer_steps": STEPS, "eval_every": EVERY, "progress": False} | changes
    distiller, scores = options.pop("distiller", DISTILLER), options.pop("validate", validate)
    return run.run(jax.random.key(0), distiller, FIRST, lambda step: (INPUTS, TARGETS), scores, folder, **options)


@pytest.fixture
def stop_at(monkeypatch):
    """`stop_at(step, signal)`: this process gets a real signal as that step has been sent off."""

    def arm(step: int | None, signum: int = signal.SIGTERM):
        class Bar(progress.Bar):
            def __init__(self, first, *others):
                super().__init__(first, *others)
                self.done = first

            def update(self, count=1):
                self.done += count
                if self.done == step:
                    os.kill(os.getpid(), signum)

        monkeypatch.setattr(run, "Bar", Bar)

    return arm


def assert_same(one: under_way.RunState, other: under_way.RunState):
    for name in ("state", "best", "best_accuracy", "best_step"):
        leaves, others = (jax.tree.leaves(getattr(state, name)) for state in (one, other))
        assert len(leaves) == len(others) > 0
        for a, b in zip(leaves, others, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype, name


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without the one thing that time may change."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [row.pop("seconds") for row in rows]
    assert seconds == sorted(seconds)
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory, promotion):
    """The uninterrupted run: its final state and its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    finished = distil(folder)
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 23]
    # The best is neither the first nor the last, or nothing below would tell a lost best from a kept one.
    assert 0 < int(finished.best_step) < STEPS and len({row["valid_accuracy"] for row in rows}) > 2
    assert not np.array_equal(finished.best.images, finished.state.distilled.images)
    return finished, rows


@pytest.mark.parametrize(
    "stops", [[1], [4, 5, 6], [22, 23], *(sorted(random.Random(i).sample(range(1, STEPS), 4)) for i in range(3))]
)
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, stop_at, whole, stops):
    for i, stop in enumerate(stops):
        signum = (signal.SIGTERM, signal.SIGINT)[i % 2]
        stop_at(stop, signum)
        with pytest.raises(InterruptedRunError, match=f"interrupted at step {stop}") as excinfo:
            distil(tmp_path)
        assert (excinfo.value.signum, excinfo.value.step) == (signum, stop)
        assert [row["step"] for row in metrics(tmp_path)] == [s for s in (5, 10, 15, 20, 23) if s <= stop]
    stop_at(None)
    assert_same(distil(tmp_path), whole[0])
    assert metrics(tmp_path) == whole[1]


def test_a_signal_at_any_moment_of_a_step_is_saved_for(tmp_path, monkeypatch, whole):
    """Here as the clock is read, which is after the loop has looked for signals."""

    class Clock:
        calls = 0

        def monotonic(self):
            self.calls += 1
            if self.calls == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(under_way, "time", Clock())
        with pytest.raises(InterruptedRunError) as excinfo:
            distil(tmp_path)
    assert checkpoints(tmp_path) == [0, excinfo.value.step]
    assert_same(distil(tmp_path), whole[0])


def test_signals_are_handed_back(tmp_path, stop_at):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop_at(3)
    with pytest.raises(InterruptedRunError):
        distil(tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_runs_outside_the_main_thread(tmp_path, whole):
    results = []
    with jax.numpy_dtype_promotion("standard"):
        thread = threading.Thread(target=lambda: results.append(distil(tmp_path)))
        thread.start()
        thread.join()
    assert_same(results[0], whole[0])


def test_a_finished_run_goes_on_with_more_steps(tmp_path, whole):
    """From a length below the validation interval and one off its multiples, whose steps are part of the next figures."""
    for steps in (3, 13, STEPS):
        finished = distil(tmp_path, outer_steps=steps)
        assert int(finished.state.step) == steps == checkpoints(tmp_path)[-1]
    for a, b in zip(jax.tree.leaves(finished.state), jax.tree.leaves(whole[0].state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    rows = {row["step"]: row for row in metrics(tmp_path)}
    assert list(rows) == [3, 5, 10, 13, 15, 20, 23]
    for row in whole[1]:
        same = rows[row["step"]] | {"best_valid_accuracy": row["best_valid_accuracy"]}  # it was looked for more often
        assert same == row
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert_same(distil(tmp_path, outer_steps=7), finished)  # fewer are done already
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_is_over_after_so_many_validations_that_were_no_better(tmp_path, stop_at, whole, patience):
    rows, improved, ends = whole[1], 0, STEPS
    for before, row in zip([{"best_valid_accuracy": -1.0}, *rows], rows, strict=False):
        if row["best_valid_accuracy"] > before["best_valid_accuracy"]:
            improved = row["step"]
        elif row["step"] - improved >= patience * EVERY:
            ends = row["step"]
            break
    assert ends < STEPS or patience > 1
    stop_at(ends - 1)
    with pytest.raises(InterruptedRunError):
        distil(tmp_path, patience=patience)
    stop_at(None)
    for _ in range(2):  # and it stays over
        found = distil(tmp_path, patience=patience)
        assert (int(found.state.step), int(found.best_step)) == (ends, improved) and checkpoints(tmp_path)[-1] == ends
        assert metrics(tmp_path) == [row for row in rows if row["step"] <= ends]
    assert_same(distil(tmp_path), whole[0])  # without patience it goes on as if nothing had been


@pytest.mark.parametrize(
    "accuracies, said",
    [
        ((0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.6), [20]),  # once, not at every validation from then on
        ((0.8, 0.7, 0.7, 0.8, 0.7, 0.7, 0.8), []),
        ((0.8, 0.7, 0.7, 0.76, 0.7, 0.7, 0.7), [35]),
        ((0.9, 0.86, 0.86, 0.86, 0.86, 0.86, 0.86), []),  # four points are noise
        ((0.5, 0.44, 0.44, 0.44, 0.44, 0.44, 0.44), []),  # and so are six of fifty
    ],
)
@pytest.mark.parametrize("which", ["iterate", "average"])
def test_a_run_that_has_come_apart_says_so(tmp_path, capsys, accuracies, said, which):
    """The better of the two counts, whichever it is."""
    worse = (0, 0.3) if which == "iterate" else (0.3, 0)
    scripted = iter([max(accuracy - less, 0) for accuracy in accuracies for less in worse])
    distil(
        tmp_path, outer_steps=7 * EVERY, validate=lambda _: (np.float32(next(scripted)), np.float32(1)), progress=True
    )
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [int(line.split("at step ")[1].split()[0]) for line in notes] == said
    assert all(f"iterate of step {EVERY}" in line and "--resume --patience 3" in line for line in notes)


@pytest.mark.parametrize(("silence", "told"), [(0.0, ["1", "2"]), (60.0, [])])
def test_a_run_that_no_terminal_shows_tells_its_step_each_minute(tmp_path, capsys, monkeypatch, silence, told):
    monkeypatch.setattr(progress, "_SILENCE", silence)
    distil(tmp_path, outer_steps=3, progress=True)
    assert re.findall(r"^step (\d)/3  [\d.e-]+ s each$", capsys.readouterr().out, re.M) == told


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_first_estimate_does_not_count_compiling(tmp_path, monkeypatch, whole):
    """A second of it before the first step, which 22 more would each seem to take."""

    def slow_to_trace(key, state, data):
        time.sleep(1)
        return DISTILLER.step(key, state, data)

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    distil(tmp_path, distiller=Distiller(DISTILLER.init, slow_to_trace), progress=True)
    assert screen.getvalue().startswith("compiling the outer step\n")
    estimates = re.findall(r"/23 \[\d+:\d+<(\d+):(\d+)", screen.getvalue())
    assert estimates and all(60 * int(minutes) + int(seconds) < 10 for minutes, seconds in estimates)


class CrashError(Exception):
    pass


def crash_at(monkeypatch, folder: Path, row: int):
    """A run with a checkpoint at every step that dies in its validation number `row`, and so before that step is saved."""
    seen = []

    def dies(distilled):
        seen.append(distilled)
        if len(seen) == 2 * row:  # iterate and average
            raise CrashError
        return validate(distilled)

    with monkeypatch.context() as patch:
        patch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(CrashError):
            distil(folder, validate=dies)


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def test_a_crash_costs_no_more_than_the_last_checkpoint(tmp_path, monkeypatch, whole):
    crash_at(monkeypatch, tmp_path, 3)
    assert checkpoints(tmp_path) == [13, 14]  # the newest two
    assert_same(distil(tmp_path), whole[0])
    assert metrics(tmp_path) == whole[1]


def test_metrics_cut_short_are_mended(tmp_path, monkeypatch, whole):
    crash_at(monkeypatch, tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    line = json.dumps({**whole[1][2], "seconds": 3.0})
    for end in (line, line[:-1], line[: len(line) // 2], "{"):
        folder = shutil.copytree(tmp_path, tmp_path.with_name("copy"), dirs_exist_ok=True)
        (folder / path.name).write_text(path.read_text() + end)
        assert_same(distil(folder), whole[0])
        assert metrics(folder) == whole[1]
        shutil.rmtree(folder)


def damage_half(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bit(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_meaning(path: Path):
    if path.name == "_CHECKPOINT_METADATA":
        path.write_text(json.dumps({**json.loads(path.read_text()), "performance_metrics": []}))
    else:
        damage_bit(path)


@pytest.mark.parametrize("damage", [damage_half, damage_bit, damage_meaning, Path.unlink])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch, whole, capfd, damage):
    crash_at(monkeypatch, tmp_path / "run", 3)
    files = [p.relative_to(tmp_path / "run") for p in (tmp_path / "run/checkpoints/14").rglob("*") if p.is_file()]
    largest = max(files, key=lambda name: (tmp_path / "run" / name).stat().st_size)
    assert len(files) > 5
    told = Path("checkpoints/14/_CHECKPOINT_METADATA")  # which orbax reads before anybody asks it for a state
    for name in (largest, random.Random(0).choice(files), Path("checkpoints/14/default/manifest.ocdbt"), told):
        folder = shutil.copytree(tmp_path / "run", tmp_path / "copy")
        damage(folder / name)
        capfd.readouterr()
        assert_same(distil(folder), whole[0])
        assert metrics(folder) == whole[1]
        printed = "".join(capfd.readouterr())
        assert "the checkpoint of step 14 is damaged: going on from step 13\n" in printed or name.name == "digest"
        assert "Traceback" not in printed
        assert checkpoints(folder) == [13, STEPS]
        shutil.rmtree(folder)


def test_only_damaged_checkpoints_are_one_line(tmp_path, monkeypatch):
    crash_at(monkeypatch, tmp_path, 3)
    for path in tmp_path.glob("checkpoints/*/default/manifest.ocdbt"):
        damage_half(path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="^the checkpoints in .* are damaged: put them back, or start again"):
        distil(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_checkpoints_without_digests_are_not_thrown_away(tmp_path, monkeypatch, whole):
    """One may have been interrupted before it was sealed; two were not, and to begin again would lose a run."""
    crash_at(monkeypatch, tmp_path, 3)
    sealed = {path: path.read_bytes() for path in tmp_path.glob("checkpoints/*/digest")}
    assert len(sealed) == 2
    for path in sealed:
        path.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="^the checkpoints in .* are damaged: put them back, or start again"):
        distil(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for path, content in sealed.items():
        path.write_bytes(content)
    assert_same(distil(tmp_path), whole[0])


def test_a_checkpoint_of_something_else_is_one_line(tmp_path):
    Checkpoints(tmp_path).save(3, {"images": np.zeros(4, np.float32)})
    for other in ({"other": np.zeros(4, np.float32)}, {"images": np.zeros(4, np.float32), "more": np.zeros(1)}):
        with pytest.raises(InputError, match="^the checkpoint of step 3 in .* is of something else") as excinfo:
            Checkpoints(tmp_path).restore(lambda step, other=other: other)
        assert "\n" not in str(excinfo.value)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    told = tmp_path / "3" / "_CHECKPOINT_METADATA"  # as if it had been written so, in no year that there is
    told.write_text(json.dumps({**json.loads(told.read_text()), "commit_timestamp_nsecs": 10**30}))
    (tmp_path / "3" / "digest").write_text(Checkpoints(tmp_path)._digest(3))
    with pytest.raises(InputError, match="^the checkpoint of step 3 in .* is of something else .OverflowError"):
        Checkpoints(tmp_path).restore(lambda step: {"images": np.zeros(4, np.float32)})


def test_a_checkpoint_that_was_never_finished_is_passed_over(tmp_path, monkeypatch, whole):
    crash_at(monkeypatch, tmp_path, 3)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "14", folder / "15.orbax-checkpoint-tmp-0")  # killed while orbax wrote
    (folder / "14" / "digest").unlink()  # killed before it was sealed
    (folder / "16").mkdir()
    assert_same(distil(tmp_path), whole[0])
    assert metrics(tmp_path) == whole[1]
    assert checkpoints(tmp_path) == [13, STEPS]


def test_a_failing_checkpoint_leaves_the_ones_before(tmp_path, monkeypatch, whole):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    crash_at(monkeypatch, tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            distil(tmp_path)
    assert_same(distil(tmp_path), whole[0])
    assert metrics(tmp_path) == whole[1]


# Numbers that are not finite


@pytest.mark.parametrize("every", [20, 9, 3])
def test_a_loss_that_is_not_finite_stops_at_the_last_good_state(tmp_path, every):
    """Step 8 throws the images far out: the loss of step 9 is not finite, nor are those that follow."""
    distiller = toy(lambda count: jnp.where(count < 7, 1.0, 1e30))
    with pytest.raises(NonFiniteError, match=r"^step 9: loss .*") as excinfo:
        distil(tmp_path, distiller=distiller, eval_every=every, strict=True, diagnose=lambda state: f"at {state.step}")
    message = str(excinfo.value)
    assert "\n" not in message and "not finite; at 8. The state" in message and "lower --lr" in message
    for name in ("images", "labels", "log_lrs"):
        assert f"{name} " in message
    assert checkpoints(tmp_path) == [0, 8]
    good = distil(tmp_path / "good", distiller=distiller, eval_every=every, outer_steps=8)
    saved = Checkpoints(tmp_path / "checkpoints").restore(lambda step: good)
    for a, b in zip(jax.tree.leaves(saved.state), jax.tree.leaves(good.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes() and np.isfinite(a).all()
    assert all(np.isfinite(row["loss"]) and row["step"] < 9 for row in metrics(tmp_path))
    with pytest.raises(NonFiniteError, match=r"^step 18: loss .*: not finite, the 10th step in a row\. The state"):
        distil(tmp_path / "patient", distiller=distiller, eval_every=every)
    assert checkpoints(tmp_path / "patient") == [0, 17]
    patient = Checkpoints(tmp_path / "patient" / "checkpoints").restore(lambda step: like(good, step, every))
    assert_same_but_for_the_step(patient, good)


def like(state: under_way.RunState, step: int, every: int) -> under_way.RunState:
    """A state of the shapes that a checkpoint of this step has."""
    recent = jax.tree.map(lambda leaf: np.zeros((1 + step % every, *leaf.shape[1:]), leaf.dtype), state.recent)
    return state._replace(recent=recent)


def assert_same_but_for_the_step(one: under_way.RunState, other: under_way.RunState):
    for a, b in zip(
        jax.tree.leaves(one.state._replace(step=0)), jax.tree.leaves(other.state._replace(step=0)), strict=True
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


BAD = {3, 4, 5, 9, 10, 16, 23}  # in the middle of an interval, at its end, the last step


def sometimes_bad() -> Distiller:
    """Steps of these numbers give no finite loss, whatever the state is."""

    def step(key, state, data):
        moved, info = DISTILLER.step(key, state, data)
        bad = jnp.isin(state.step + 1, jnp.array(sorted(BAD)))
        state = jax.tree.map(lambda new, old: jnp.where(bad, old, new), moved, state)
        return state, info._replace(finite=info.finite & ~bad, loss=jnp.where(bad, jnp.nan, info.loss))

    return Distiller(DISTILLER.init, step)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, stop_at):
    """Every other one is taken as it would be; and a run that is stopped among them is the one that is not."""
    found = distil(tmp_path / "whole", distiller=sometimes_bad())
    rows = metrics(tmp_path / "whole")
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 23] and int(found.state.step) == STEPS
    assert [row["skipped"] for row in rows] == [3, 2, 0, 1, 1] and all(np.isfinite(row["loss"]) for row in rows)
    state = DISTILLER.init(FIRST)
    for number in range(1, STEPS + 1):  # by hand
        if number in BAD:
            state = state._replace(step=state.step + 1)
        else:
            state, _ = jax.jit(DISTILLER.step)(jax.random.key(0), state, (INPUTS, TARGETS))
    for a, b in zip(jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    for stop in (3, 4, 5, 6, 10, 17):
        stop_at(stop)
        with pytest.raises(InterruptedRunError):
            distil(tmp_path / "stopped", distiller=sometimes_bad())
    stop_at(None)
    assert_same(distil(tmp_path / "stopped", distiller=sometimes_bad()), found)
    assert metrics(tmp_path / "stopped") == rows


# The command


def save_vectors(path: Path) -> Path:
    draw = np.random.RandomState(0)
    y = np.arange(120) % 3
    x = (draw.normal(0, 1, (3, 6))[y] + draw.normal(0, 1, (120, 6))).astype(np.float32)
    np.savez(path, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return path


def arguments(outer_steps: int, every: int, *others) -> list[str]:
    """With one and the same relative path, so that all runs store the same words."""
    settings = "--data own.npz --model linear --steps 2 --epochs 2 --batch-size 16 --num-nets 2"
    return [
        "distill",
        "digits",
        *settings.split(),
        *map(str, ("--outer-steps", outer_steps, "--eval-every", every, *others)),
    ]


@pytest.fixture
def ddjax(monkeypatch, tmp_path, capfd):
    """The command in this process, in a folder with own.npz."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)
    save_vectors(tmp_path / "own.npz")

    def call(*argv):
        capfd.readouterr()
        status: Any = 0
        try:
            cli.main(list(argv))
        except SystemExit as leaving:
            status = leaving.code
        return status, *capfd.readouterr()

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("distilled.safetensors", "summary.json", "metrics.jsonl")}


def test_the_life_of_a_run(ddjax, monkeypatch, stop_at, tmp_path):
    """Begun with --resume, stopped in the loop, stopped while it is measured, finished, repeated, prolonged, damaged."""
    argv, out = arguments(12, 4, "--out", "out", "--resume", "--no-compare"), tmp_path / "out"
    stop_at(7)
    status, printed, errors = ddjax(*argv)
    assert status == 143 and metrics(out)[-1]["step"] == 4
    assert errors == "ddjax: interrupted at step 7, saved: give the same command with --resume to go on\n"
    assert [line.split("  ")[0] for line in printed.splitlines() if line.startswith(("comp", "vali", "step"))] == [
        "compiling the outer step",
        "validating for the first time",
        "step 4/12",
    ]

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    stop_at(None)
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "save_artifact", full)
        status, _, errors = ddjax(*argv)
    assert status == 1 and "what was saved before is intact" in errors and errors.count("\n") == 1
    assert checkpoints(out) == [7, 12] and not (out / "distilled.safetensors").exists()

    status, first, errors = ddjax(*argv)
    assert (status, errors) == (0, "") and "accuracy on the 30 test examples" in first
    held = contents(out)
    status, again, errors = ddjax(*argv)
    assert (status, errors) == (0, "") and again == "loading the data\n" + first[first.index("drawing pictures") :]
    assert contents(out) == held

    longer = arguments(14, 4, *argv[-4:])
    for damaged in out.glob("checkpoints/*/default/manifest.ocdbt"):
        shutil.copy(damaged, damaged.with_name("kept"))
        damage_half(damaged)
    status, printed, errors = ddjax(*longer)
    assert (status, errors.count("\n")) == (2, 1) and "are damaged: put them back, or start again" in errors
    assert contents(out) == held
    for damaged in out.glob("checkpoints/*/default/kept"):
        damaged.replace(damaged.with_name("manifest.ocdbt"))
    status, printed, errors = ddjax(*longer)
    assert (status, errors) == (0, "") and [row["step"] for row in metrics(out)] == [4, 8, 12, 14]
    assert artifact.load_artifact(out).metadata["outer_steps"] == 14


def test_a_run_is_cut_short(ddjax, stop_at, tmp_path):
    """Not before where it is: what it has at the end is validated."""
    stop_at(7)
    assert ddjax(*arguments(20, 4, "--out", "out", "--no-compare"))[0] == 143
    stop_at(None)
    short = "--out", "out", "--no-compare", "--resume"
    held = (tmp_path / "out" / "config.json").read_bytes()
    status, _, errors = ddjax(*arguments(7, 4, *short))
    assert status == 2 and "--outer-steps is 7, but the run in out has taken 7: give more" in errors
    assert (tmp_path / "out" / "config.json").read_bytes() == held
    assert ddjax(*arguments(9, 4, *short))[0] == 0
    assert [row["step"] for row in metrics(tmp_path / "out")] == [4, 8, 9]
    origins = json.loads((tmp_path / "out" / "config.json").read_text())["origins"]
    assert len(origins) == 2
    again = ddjax(*arguments(9, 4, *short))
    assert again[0] == 0 and "step" not in again[1].split("drawing pictures")[0]


def test_a_run_that_ended_early_is_finished(ddjax, tmp_path):
    argv = arguments(40, 4, "--out", "out", "--no-compare", "--patience", "2", "--lr", "1e-9", "--lr-log-lrs", "1e-9")
    status, printed, errors = ddjax(*argv)
    assert (status, errors) == (0, "")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["outer_steps"], summary["best_step"]) == (12, 4)
    assert "ended at step 12 of 40: nothing was better than step 4 (--patience)\n" in printed
    status, again, errors = ddjax(*argv, "--resume")
    assert (status, errors) == (0, "") and "step" not in again.split("drawing pictures")[0]
    more = [word for word in argv if word not in ("--patience", "2")]
    for steps in (20, 44):
        assert ddjax(*arguments(steps, 4, *more[more.index("--out") :], "--resume"))[0] == 0
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["outer_steps"] == steps


def test_a_finished_run_is_tested_again_with_another_number_of_networks(ddjax, tmp_path):
    out, random = tmp_path / "out", ("--out", "out", "--no-compare", "--init", "random", "--resume")
    for count in (3, 5, 5):
        status, printed, errors = ddjax(*arguments(4, 4, *random, "--test-nets", str(count)))
        assert (status, errors) == (0, "")
        assert json.loads((out / "summary.json").read_text())["distilled"]["num_nets"] == count
        assert [row["step"] for row in metrics(out)] == [4]
    assert "testing on" not in printed  # the third is the second
    status, _, errors = ddjax(*arguments(4, 4, *random, "--test-nets", "5", "--seed", "1"))
    assert status == 2 and "other settings" in errors


def test_an_interrupted_test_goes_on_with_the_networks_that_are_left(ddjax, monkeypatch, tmp_path):
    """Twenty networks are three pieces; one that is damaged, or was measured of another iterate, is measured again."""
    argv = arguments(4, 4, "--init", "random", "--test-nets", "20", "--no-compare", "--resume", "--out")
    assert ddjax(*argv, "whole")[0] == 0
    whole, out, compute = contents(tmp_path / "whole"), tmp_path / "out", []

    def until(last):
        def pieces_until(folder, work):
            piece = pieces.pieces(folder, work)

            def one(number, computes):
                def counted():
                    compute.append(number)
                    if number > last:
                        raise KeyboardInterrupt
                    return computes()

                return piece(number, counted)

            return one

        monkeypatch.setattr(outcome, "pieces", pieces_until)

    until(1)
    assert ddjax(*argv, "out")[0] == 130
    kept = sorted((out / "test" / "accuracy").iterdir())
    assert compute == [0, 1, 2] and len(kept) == 2 and not (out / "summary.json").exists()
    damage_half(kept[0])
    until(2)
    assert ddjax(*argv, "out")[0] == 0
    assert compute[3:] == [0, 2] and not (out / "test").exists()
    for name in ("distilled.safetensors", "summary.json"):
        assert contents(out)[name] == whole[name]

    for steps, last in ((6, 1), (8, 2)):
        compute.clear()
        until(last)
        assert ddjax(*argv, "out", "--outer-steps", str(steps))[0] == (0 if last == 2 else 130)
        assert compute == [0, 1, 2]


def test_a_long_test_tells_how_far_it_is(ddjax, monkeypatch):
    monkeypatch.setattr(progress, "_SILENCE", 0.0)
    status, printed, _ = ddjax(
        *arguments(4, 4, "--init", "random", "--test-nets", "20", "--no-compare", "--out", "out")
    )
    assert status == 0 and re.findall(r"^net (.*)  [\d.e-]+ s each$", printed, re.M) == ["7/20", "14/20"]


def test_an_augmented_run_that_is_resumed_is_bitwise_the_one_that_is_not(ddjax, stop_at, tmp_path):
    """What a picture goes through is drawn from the key of its step, and so nothing of it is to be kept."""
    pictures = np.random.RandomState(0).randint(0, 256, (120, 6, 6, 1), np.uint8)
    y = np.arange(120) % 3
    np.savez(tmp_path / "own.npz", x_train=pictures[:90], y_train=y[:90], x_test=pictures[90:], y_test=y[90:])
    options = ("--augment", "crop-flip", "--no-compare", "--resume", "--out")
    stop_at(3)
    assert ddjax(*arguments(6, 4, *options, "out"))[0] == 143
    stop_at(None)
    for out in ("out", "whole"):
        assert ddjax(*arguments(6, 4, *options, out))[0] == 0
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")
    for name in ("distilled.safetensors", "summary.json"):
        assert contents(tmp_path / "out")[name] == contents(tmp_path / "whole")[name]


def test_a_run_that_diverges_says_so_in_one_line(ddjax, tmp_path):
    status, _, errors = ddjax(*arguments(12, 4, "--out", "out", "--inner-lr", "1e30", "--model", "mlp"))
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("ddjax: step 10: loss ") and "meta-gradient norms images " in errors
    assert "not finite, the 10th step in a row; inner step " in errors and "lower --lr" in errors
    assert checkpoints(tmp_path / "out") == [0, 9] and not (tmp_path / "out/distilled.safetensors").exists()


@pytest.mark.parametrize("fails", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_artefact_before(tmp_path, monkeypatch, fails):
    path = tmp_path / artifact.FILE_NAME
    artifact.save_artifact(path, FIRST, {"name": "before"})
    before = path.read_bytes()

    def write_half(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        if fails == "replace":
            patch.setattr(os, "replace", refuse)
        else:
            patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space|Input/output"):
            artifact.save_artifact(path, FIRST, {"name": "after"})
    assert path.read_bytes() == before
    artifact.save_artifact(path, FIRST, {"name": "after"})
    assert artifact.load_artifact(path).metadata["name"] == "after"


# Real processes

LONG = (1200, 50)
# What XLA computes without end, while Python can run no handler of a signal.
ENDLESS = """
import jax
def endless(*args, **kwargs):
    print("endless", flush=True)
    jax.block_until_ready(jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 7, lambda x: (x + 1) % 5, x))(0))
"""
WHILE_COMPILING = ENDLESS + "import jax.stages; jax.stages.Lowered.compile = endless"
WHILE_MEASURING = ENDLESS + "import ddjax.experiment.outcome as outcome; outcome.evaluate = endless"


def start(folder: Path, *others, before: str = "") -> subprocess.Popen:
    """A real `ddjax distill ...` in `folder`, in a process that first does what is said; they share what they compile."""
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # though these tests run under nohup
    code = f"{heard}\n{before}\nfrom ddjax.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments(*LONG, "--out", "out", "--no-compare", *others)]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **cache}, text=True, **pipes)


def finish(process: subprocess.Popen) -> str:
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, ""), errors
    return out


def signal_at(process: subprocess.Popen, signum: int, line: str) -> tuple[str, float]:
    """Sends the signal as soon as a line that begins so is printed; returns the errors and the seconds it went on."""
    assert process.stdout
    watchdog = threading.Timer(100, process.kill)  # a hang fails the test instead of stopping it
    watchdog.start()
    assert any(printed.startswith(line) for printed in process.stdout)
    sent = time.monotonic()
    process.send_signal(signum)
    errors = process.communicate()[1]
    watchdog.cancel()
    return errors, time.monotonic() - sent


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run that nothing stops, in a process of its own."""
    folder = tmp_path_factory.mktemp("reference")
    save_vectors(folder / "own.npz")
    assert "distilled images" in finish(start(folder))
    return folder / "out"


def test_a_run_that_is_stopped_at_every_stage_is_the_one_that_is_not(tmp_path, reference):
    save_vectors(tmp_path / "own.npz")
    out = tmp_path / "out"

    for before, signum in ((WHILE_COMPILING, signal.SIGINT), (WHILE_COMPILING, signal.SIGTERM)):
        process = start(tmp_path, "--resume", before=before)
        errors, seconds = signal_at(process, signum, "endless")
        assert process.returncode == 128 + signum and seconds < 5
        assert errors == "ddjax: interrupted: give the same command with --resume to go on\n"
        assert checkpoints(out) == [0]

    for signum, line in ((signal.SIGTERM, "step 50/"), (signal.SIGINT, "step "), (signal.SIGHUP, "step ")):
        process = start(tmp_path, "--resume")
        errors, _ = signal_at(process, signum, line)
        step = checkpoints(out)[-1]
        assert process.returncode == 128 + signum
        assert errors == f"ddjax: interrupted at step {step}, saved: give the same command with --resume to go on\n"
        assert 50 <= step < LONG[0] and metrics(out)[-1]["step"] == step // 50 * 50

    process = start(tmp_path, "--resume", "--checkpoint-every", "0")
    signal_at(process, signal.SIGKILL, "step ")
    assert process.returncode == -signal.SIGKILL and checkpoints(out)[-1] > step  # it went on, it did not begin again

    process = start(tmp_path, "--resume", before=WHILE_MEASURING)
    errors, seconds = signal_at(process, signal.SIGINT, "endless")
    assert (process.returncode, errors) == (130, "ddjax: interrupted: give the same command with --resume to go on\n")
    assert seconds < 5 and checkpoints(out)[-1] == LONG[0] and not (out / "distilled.safetensors").exists()

    assert "damaged" not in finish(start(tmp_path, "--resume"))
    assert metrics(out) == metrics(reference) and len(metrics(out)) == 24
    for name in ("distilled.safetensors", "summary.json"):
        assert (out / name).read_bytes() == (reference / name).read_bytes()


def test_a_signal_that_comes_too_late_for_the_loop_is_handed_on():
    # Where the tests themselves run in the background of a shell, it has been told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def late(error: Exception | None = None):
        with signals.noted() as noted:
            os.kill(os.getpid(), signal.SIGINT)
            assert noted == [signal.SIGINT]
            if error:
                raise error

    try:
        with pytest.raises(KeyboardInterrupt):
            late()
        with pytest.raises(CrashError):  # whoever leaves with an exception has said enough
            late(CrashError())
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_that_ends_by_itself_leaves_the_signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), threading.active_count()
    with signals.end_at_once("unheard"):
        assert signal.getsignal(signal.SIGINT) != before[1]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), threading.active_count()) == before


def test_all_cores_where_the_system_does_not_say_which(monkeypatch):
    """As on macOS and Windows."""
    updates = {}
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    devices.use_all_cores()
    assert updates == {"jax_num_cpu_devices": 3}
    assert provenance.machine().endswith(", 3 cores")


def test_slow_packages_are_imported_where_they_are_used():
    code = "import sys, ddjax.storage.artifact, ddjax.training.loop; sys.exit('orbax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
