"""The folder of a run: one process at a time, full disks, damaged rows, what is lost when a run is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_cli import in_process
from test_resume import arguments, save_vectors

from ddjax.errors import InputError
from ddjax.experiment import trust
from ddjax.experiment.folder import Config, find_runs
from ddjax.experiment.outcome import finished
from ddjax.recipes import Recipe
from ddjax.storage import lock
from ddjax.storage.frames import read_frames
from ddjax.storage.metrics import read_metrics
from ddjax.training import signals, under_way

HOLD = """
import sys, time
from pathlib import Path
from ddjax.storage import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_says_by_whom_and_a_dead_owner_does_not_block(tmp_path):
    process = holder(tmp_path)
    host = os.uname().nodename
    with (
        pytest.raises(InputError, match=rf"in use by process {process.pid} on '{host}' since \d{{4}}-.*: wait for it"),
        lock.held(tmp_path),
    ):
        pass
    process.kill()
    process.communicate()
    assert (tmp_path / "lock").is_file()  # nobody was left to clear it away
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(InputError, match=f"process {os.getpid()} "), lock.held(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "host": "\x1b[2J", "since": []}'])
def test_an_owner_that_nobody_can_read_is_another_process(tmp_path, text):
    process = holder(tmp_path)
    (tmp_path / "lock").write_text(text)
    with pytest.raises(InputError, match="in use by (another process|process 1 on '.x1b.2J' since ..)") as excinfo:
        lock.held(tmp_path).__enter__()
    assert str(excinfo.value).isprintable()
    process.kill()
    process.communicate()


def ddjax(folder: Path, *others: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """A small run in `folder`, in a process that may write no file longer than so many bytes."""
    save_vectors(folder / "own.npz")
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))" if limit else ""
    code = f"{bound}\nfrom ddjax.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments(12, 4, "--out", "out", "--no-compare", *others)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_two_calls_on_one_folder(tmp_path):
    """The second says who is at it, and touches nothing."""
    (tmp_path / "out").mkdir()
    process = holder(tmp_path / "out")
    done = ddjax(tmp_path, "--resume")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"ddjax: out is in use by process {process.pid} on ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lock"]
    process.kill()
    process.communicate()
    assert ddjax(tmp_path, "--resume").returncode == 0
    assert not (tmp_path / "out" / "lock").exists()


def test_a_folder_that_takes_no_checkpoint_is_found_out_at_the_start(tmp_path):
    done = ddjax(tmp_path, limit=20_000)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("ddjax: the state after step 0 cannot be written to ")
    assert "(what was saved before is intact): give the same command with --resume to go on" in done.stderr
    assert "compiling" not in done.stdout
    assert not [path for path in (tmp_path / "out").rglob("*") if ".tmp" in path.name or path.name == "0"]
    again = ddjax(tmp_path, "--resume")
    assert again.returncode == 0 and "distilled images" in again.stdout


def test_what_is_left_of_a_call_that_was_killed_at_once_is_no_other_run(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json.tmp").write_text("{")
    (tmp_path / "out" / "lock").write_text("")
    assert ddjax(tmp_path).returncode == 0
    assert {"config.json", "summary.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


ROW = {"step": 5, "loss": 1.0, "valid_accuracy": 0.5, "valid_loss": 1.0, "best_valid_accuracy": 0.5, "seconds": 1.0}


@pytest.mark.parametrize(
    "damage",
    [
        "garbage",
        "[]",
        "3",
        "{}",
        json.dumps({**ROW, "step": "5"}),
        json.dumps({**ROW, "step": 5.5}),
        json.dumps({**ROW, "seconds": None}),
        json.dumps({**ROW, "valid_accuracy_average": None}),
        json.dumps({**ROW, "loss": 10**400}),
        json.dumps({**ROW, "step": True}),
        json.dumps(ROW).replace("5", "1e999", 1),
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_row_costs_no_other(tmp_path, capfd, damage):
    path = tmp_path / "metrics.jsonl"
    rows = [{**ROW, "step": step} for step in (5, 10, 15)]
    lines = [json.dumps(row) for row in rows]
    path.write_bytes("\n".join([lines[0], damage, *lines[1:], ""]).encode(errors="surrogateescape"))
    assert read_metrics(path) == rows
    assert capfd.readouterr().out == f"{path}: line 2 is damaged, and left out\n"
    path.write_text("\n".join(lines) + "\n" + lines[0][:20])  # a crash
    assert read_metrics(path) == rows and capfd.readouterr().out == ""


def damaged(good: dict[str, Any], path: str, value: Any) -> str:
    """The JSON of an object with another value at a path, or without it."""
    held = json.loads(json.dumps(good))
    *above, last = path.split("/")
    node = held
    for name in above:
        node = node[int(name) if name.isdigit() else name]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return json.dumps(held)


NO_JSON = ("", "{", "[]", "null", "3", "\0" * 100, "[" * 100_000, '{"name": ' + "9" * 5000 + "}", '{"name": "\\ud800"}')
CONFIG = (
    *(("origins", value) for value in (None, [], 3, "abc", [3], [{}])),
    *((f"origins/0/{name}", value) for name in ("inputs", "versions", "code") for value in (None, 3)),
    *((name, value) for name in ("name", "model", "recipe") for value in (None, 3, ["x"])),
    *(("recipe/inner/steps", value) for value in ("x", 10**400, 0)),
    ("recipe/outer/outer_steps", False),
    ("recipe/inner/unheard_of", 1),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A run that was finished."""
    folder = tmp_path_factory.mktemp("done")
    assert ddjax(folder).returncode == 0
    return folder / "out"


def test_a_damaged_config_is_one_line(done, tmp_path):
    """Which says what is wrong with which file; lists go on without it."""
    out = shutil.copytree(done, tmp_path / "out")
    good = json.loads((out / "config.json").read_text())
    assert Config.read(out).name == good["name"]
    texts = [*NO_JSON, *(damaged(good, path, value) for path, value in CONFIG)]
    for text in texts:
        (out / "config.json").write_text(text)
        with pytest.raises(
            InputError, match=r"config.json is damaged.* \(.+\): (choose another --out|remove it)"
        ) as excinfo:
            Config.read(out)
        assert str(excinfo.value).isprintable()
        (found,) = find_runs(tmp_path)
        assert found.config is None
        assert not trust._made_here(out, Recipe())
    (out / "config.json").unlink()
    os.mkfifo(out / "config.json")
    with pytest.raises(InputError, match="it is no file"):
        Config.read(out)


@pytest.mark.parametrize(
    "text", [*NO_JSON[1:], '{"distilled": 3}', '{"num_test": "3"}', '{"distilled": {"accuracy_mean": NaN}}']
)
def test_a_damaged_summary_is_one_line(done, tmp_path, text):
    out = shutil.copytree(done, tmp_path / "out")
    (out / "summary.json").write_text(text)
    told = in_process("report", out, "--no-test")
    assert told.status == 2
    assert re.fullmatch(r"ddjax: .*summary.json is damaged \(.+\): remove it, or make it again\n", told.err)
    assert find_runs(tmp_path)[0].test is None
    assert finished(out, Config.read(out).recipe, compare=False) is None


def test_a_pipe_is_not_waited_for(done, tmp_path):
    def waits(signum, frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(30)
    out = shutil.copytree(done, tmp_path / "out")
    for name in ("metrics.jsonl", "frames.npz"):
        (out / name).unlink(missing_ok=True)
        os.mkfifo(out / name)
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be read \(it is no file\): remove it"):
        read_metrics(out / "metrics.jsonl")
    assert read_frames(out / "frames.npz")[0].size == 0
    assert find_runs(tmp_path)[0].config is None
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("text", ["{", "[]", '{"distilled": 3}', '{"distilled": {"accuracy_mean": "high"}}', "\x00"])
def test_a_damaged_summary_costs_no_list(tmp_path, text):
    assert ddjax(tmp_path).returncode == 0
    (tmp_path / "out" / "summary.json").write_text(text)
    (found,) = find_runs(tmp_path)
    assert found.test is None and found.step == 12


def test_a_run_saves_soon_then_ever_less_often_and_as_often_as_is_asked(monkeypatch):
    """At 2, 4, 8 seconds and so on, so that half of it is never lost, and every minute in the end."""

    class Run:
        _began = saved_at = 0.0
        due = under_way.UnderWay.due

    def saves(every: float) -> list[int]:
        found, run = [], Run()
        for second in range(300):
            monkeypatch.setattr(time, "monotonic", lambda second=second: second)
            if run.due(every):
                found.append(second)
                run.saved_at = second
        return found

    assert saves(60.0) == [3, 7, 15, 31, 63, 124, 185, 246]
    assert saves(10.0) == [3, 7, 15, *range(26, 300, 11)]
    assert saves(0.0) == list(range(1, 300))


def test_a_hang_up_saves_unless_it_is_ignored():
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda signum, frame: heard.append(signum))
    try:
        with signals.noted() as noted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert (noted, heard) == ([signal.SIGHUP], [])
        assert heard == [signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        with signals.noted() as noted:
            os.kill(os.getpid(), signal.SIGHUP)
        assert noted == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_seconds_between_checkpoints_make_sense(tmp_path):
    done = ddjax(tmp_path, "--checkpoint-every", "-1")
    assert (done.returncode, done.stderr) == (2, "ddjax: --checkpoint-every is -1: give seconds, 0 for every step\n")
    assert not (tmp_path / "out").exists()


def started(folder: Path, *others: str, **streams) -> subprocess.Popen[bytes]:
    save_vectors(folder / "own.npz")
    command = [sys.executable, "-m", "ddjax", *arguments(12, 4, "--out", "out", "--no-compare", *others)]
    return subprocess.Popen(command, cwd=folder, **streams)


def test_a_reader_that_leaves_does_not_end_a_run(tmp_path):
    with started(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"loading the data\n"
        process.stdout.close()  # as head -1 does
        assert (process.stderr.read(), process.wait(timeout=200)) == (b"", 0)
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_is_full_does_not_end_a_run(tmp_path):
    with open("/dev/full", "wb", buffering=0) as full:
        assert started(tmp_path, stdout=full, stderr=full).wait(timeout=200) == 0
    assert (tmp_path / "out" / "summary.json").is_file()


def test_outputs_that_are_closed_do_not_end_a_run(tmp_path):
    save_vectors(tmp_path / "own.npz")
    words = " ".join(arguments(12, 4, "--out", "out", "--no-compare"))
    command = f"{sys.executable} -m ddjax {words} >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "out" / "summary.json").is_file()


def test_a_terminal_that_knows_only_ascii_reads_escapes(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = started(tmp_path, "--model", "größe", stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2 and errors.startswith(rb"ddjax: ") and rb"gr\xf6\xdfe" in errors
