"""The accelerator's queue, where there is none: all of it rehearsed as a bare machine has it, and what is filed and stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import accelerator
import numpy as np
import pytest

from ddjax.data.catalogue import CATALOGUE
from ddjax.paper.runs import RUNS
from ddjax.storage import provenance

ROOT = Path(__file__).parents[1]

# What a machine with JAX and a checkout may lack; PyTorch, as CI does.
LACKED = ("torch", "tyro", "tensorflow_datasets", "array_record")
HIDE = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name in {LACKED} else find(name, *where)
"""


def run(*words, tmp_path, **environment):
    """What the script says and its exit status, where `LACKED` is not installed."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, str(ROOT / "benchmarks" / "accelerator.py"), *words]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def measurement(words, **fields):
    return accelerator.Measurement("some", "something", 1, words, "", **fields)


def test_the_rehearsal_of_all_kinds_of_measurements_needs_nothing_but_jax_and_a_checkout(tmp_path):
    before = sorted((ROOT / "benchmarks" / "results").rglob("*"))
    # The other runs of the paper and of the benchmark take the same ways under other names.
    names = [entry.name for entry in accelerator.QUEUE if entry.name not in ("cifar10-random", "cifar10-ipc10")]
    done = run("--rehearse", "--only", *names, tmp_path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for entry in accelerator.QUEUE:
        if entry.name in names:
            end = "left out, it needs torch" if entry.needs == "torch" else "done, "
            assert f"{entry.name}: {end}" in done.stdout, done.stdout + done.stderr
    assert "testing on 40 examples" in done.stdout and "cifar10-fixed: baseline full data" in done.stdout
    assert "cifar10-ipc1: baseline protocol" in done.stdout
    assert sorted((ROOT / "benchmarks" / "results").rglob("*")) == before


def test_the_queue_names_runs_and_files_that_exist():
    assert len({entry.name for entry in accelerator.QUEUE}) == len(accelerator.QUEUE)
    for entry in accelerator.QUEUE:
        script, *words = entry.words.split()
        assert (ROOT / "benchmarks" / script).is_file()
        assert not entry.goes_on or words[-1] in RUNS
        assert entry.goes_on or 60 * entry.minutes < accelerator.MOST


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--next", "--commit", "f00"], "JAX sees no accelerator here"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--next", "--data", "cifar10=no.npz"], "give cifar10=FILE.npz"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(words, says, tmp_path):
    done = run(*words, "--out", str(tmp_path / "out"), tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("accelerator: ") and says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_filed_says_where_it_is_from_and_which_bars_it_meets(tmp_path, monkeypatch, capsys):
    rows = [{"networks": 4, "ratio": 21.5}, {"networks": 16, "ratio": 30.0}]
    script = tmp_path / "writes.py"
    script.write_text(f"import sys\nopen(sys.argv[-1], 'w').write({json.dumps(rows)!r})\n")
    monkeypatch.setattr(accelerator, "HERE", tmp_path)
    entry = measurement("writes.py", bars={4: 20, 16: 40})
    monkeypatch.setattr(accelerator, "QUEUE", (entry,))
    accelerator.show(tmp_path / "out")
    assert "open" in capsys.readouterr().out
    assert accelerator.measure(entry, "Some GPU", tmp_path / "out" / "some-gpu", [], 60) == ""
    filed = json.loads((tmp_path / "out" / "some-gpu" / "some.json").read_text())
    assert (filed["device"], filed["rows"], filed["code"]) == ("Some GPU", rows, provenance.code())
    assert [bar["met"] for bar in filed["bars"]] == [True, False]
    accelerator.show(tmp_path / "out")
    assert "done on Some GPU (21.5x at N=4, wanted 20x; 30x at N=16, wanted 40x)" in capsys.readouterr().out


def test_what_fails_or_takes_too_long_is_not_filed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "HERE", tmp_path)
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(60)")
    failing, sleeping = measurement("fails.py"), measurement("sleeps.py", goes_on=True)
    assert accelerator.measure(failing, "", tmp_path, [], 60) == "failed with exit status 3"
    assert accelerator.measure(sleeping, "", tmp_path, [], 0.2).endswith("the next call goes on with it")
    assert not (tmp_path / "some.json").exists()
    (tmp_path / "out" / "some-gpu" / "unfinished" / "paper" / "runs" / "some").mkdir(parents=True)
    monkeypatch.setattr(accelerator, "QUEUE", (sleeping,))
    accelerator.show(tmp_path / "out")
    assert "begun on some-gpu" in capsys.readouterr().out


def test_a_file_of_pictures_stands_for_the_prepared_set(tmp_path):
    dataset = accelerator.given(accelerator.like_cifar10(tmp_path / "some.npz"))
    assert (dataset.name, dataset.source, dataset.input_shape) == ("cifar10", "cifar10:3.0.2", (32, 32, 3))
    np.testing.assert_array_equal(dataset.transform.mean, CATALOGUE["cifar10"].transform.mean)


def test_the_commit_may_be_told_where_git_cannot_tell_it(tmp_path, monkeypatch):
    provenance.commit.cache_clear()
    monkeypatch.setattr(provenance, "_FOLDER", tmp_path)
    monkeypatch.setenv("DDJAX_COMMIT", "f00")
    try:
        assert provenance.commit() == "f00"
    finally:
        provenance.commit.cache_clear()


def test_versions_are_told_though_the_library_is_not_installed(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("jax", "a-package-that-is-not-there"))
    assert list(provenance.versions()) == ["jax"]


def test_next_does_one_and_minutes_what_there_is_time_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "writes.py").write_text("import sys\nopen(sys.argv[-1], 'w').write('[]')\n")
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(accelerator, "HERE", tmp_path)
    monkeypatch.setattr(accelerator, "accelerator", lambda: "Some GPU (2)")
    scripts = {"first": "writes.py", "broken": "fails.py", "long": "writes.py", "last": "writes.py"}
    minutes = {"long": 8}
    queue = [accelerator.Measurement(name, "", minutes.get(name, 1), words, "") for name, words in scripts.items()]
    monkeypatch.setattr(accelerator, "QUEUE", tuple(queue))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["accelerator.py", *words, "--commit", "f00", "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as leaving:
            accelerator.main()
        done = sorted(path.stem for path in (tmp_path / "out" / "some-gpu-2").glob("*.json"))
        return leaving.value.code, done, capsys.readouterr().out

    monkeypatch.setenv("DDJAX_COMMIT", "")  # what --commit sets is taken back, and this process keeps its signals
    monkeypatch.setattr(accelerator.signal, "signal", lambda *_: None)
    assert call("--next")[:2] == (0, ["first"])
    assert call("--next")[:2] == (1, ["first"])
    status, done, said = call("--minutes", "5")
    assert (status, done) == (1, ["first", "last"]) and "long: left for another call" in said
    assert call("--next", "--only", "long")[:2] == (0, ["first", "last", "long"])
