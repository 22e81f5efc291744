"""One run in several processes: what one process gives, whoever writes, and what becomes of it when one of them goes."""

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import relative_error
from jax.experimental import multihost_utils

import ddjax
from ddjax.cli.last_words import pass_on
from ddjax.core import losses
from ddjax.core.distilled import init_distilled
from ddjax.core.meta import Problem
from ddjax.core.outer import make_distiller
from ddjax.core.spread import place, replicated
from ddjax.errors import InputError, LostProcessError
from ddjax.experiment.protocol import by_protocol
from ddjax.storage import processes
from ddjax.storage.artifact import load_artifact
from ddjax.storage.checkpoints import Checkpoints
from ddjax.storage.pools import read_pool
from ddjax.training import devices
from ddjax.training.loop import run

BEGUN = []
HERE = Path(__file__).parent
STEPS = 1000
DISTILL = ("distill", "digits", "--model", "linear", "--no-compare", "--checkpoint-every", "0.2", "--eval-every", "50")


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """As users have it."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def none_is_left():
    """Whatever becomes of a test, its processes end."""
    yield
    while BEGUN:
        process = BEGUN.pop()
        process.kill()
        process.wait()


def start(words, count, folder, **environment):
    """So many processes of one command, each with one device and its output in files of its own."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    known = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)} if count > 1 else {}
    one_device = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    begun = []
    for number in range(count):
        out, err = (folder / f"{kind}-{number}" for kind in ("out", "err"))
        own = {**os.environ, **known, **one_device, **environment, "JAX_PROCESS_ID": str(number)}
        with out.open("w") as stdout, err.open("w") as stderr:
            begun.append(subprocess.Popen([sys.executable, *words], env=own, stdout=stdout, stderr=stderr))
    BEGUN.extend(begun)
    return begun


def ended(begun, folder, timeout=300):
    """Status, output and errors of each, all of which end."""
    try:
        statuses = [process.wait(timeout) for process in begun]
    finally:
        for process in begun:
            process.kill()
            process.wait()
    told = [[(folder / f"{kind}-{number}").read_text() for kind in ("out", "err")] for number in range(len(begun))]
    return [(status, *words) for status, words in zip(statuses, told, strict=True)]


def command(out, *words):
    return ("-m", "ddjax", *DISTILL, "--outer-steps", str(STEPS), "--out", str(out), *words)


def rows(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_rows(folder, count, begun):
    for _ in range(1200):
        if len(rows(folder)) >= count:
            return
        assert all(process.poll() is None for process in begun), "one of the processes has ended"
        time.sleep(0.1)
    raise AssertionError(f"{folder} has no {count} rows after two minutes")


RECIPE = {
    "model": "linear",
    "init": "random",
    "steps": 2,
    "epochs": 2,
    "num_nets": 2,
    "batch_size": 64,
    "outer_steps": 6,
    "eval_every": 3,
    "valid_nets": 2,
    "test_nets": 3,
    "lr": 0.02,
}


def exact(folder: Path, nets):
    """Images [...] of a whole outer loop in double precision, with validations and checkpoints, of so many networks a step."""
    with jax.enable_x64(True):
        inputs = jax.random.normal(jax.random.key(9), (64, 4))
        targets = jax.nn.one_hot(jnp.argmax(inputs[:, :3] + 0.3, axis=1), 3)

        def apply(params, inputs):
            return inputs @ params

        loss = losses.of_network(apply)

        def draw(key, data):
            chosen = jax.random.randint(key, (16,), 0, 64)
            return data[0][chosen], data[1][chosen]

        def validate(distilled):
            weights = distilled.images[0, ::2].T  # one of each class
            hits = jnp.argmax(inputs @ weights, axis=1) == jnp.argmax(targets, axis=1)
            return jnp.mean(hits), loss(weights, inputs, targets)

        start = init_distilled(
            jax.random.key(1), input_shape=(4,), num_classes=3, steps=2, epochs=2, per_class=2, learning_rate=0.1
        )
        assert start.images.dtype == np.float64
        problem = Problem(apply, loss, loss, lambda key: jax.random.normal(key, (4, 3)))
        layout = devices.make_layout(nets, 16)
        distiller = make_distiller(problem, optax.adam(0.05), draw, num_nets=nets, ema_decay=0.9, layout=layout)
        everywhere = replicated(layout.mesh)
        data = place((inputs, targets), everywhere)
        arguments = (start, lambda step: data, lambda d: validate(jax.device_get(d)), folder)
        folder.mkdir(exist_ok=True)
        records = None if processes.first_process() else folder / "others"
        if records is not None:
            records.mkdir()
        state = run(
            place(jax.random.key(0), everywhere),
            distiller,
            *arguments,
            records,
            outer_steps=23,
            eval_every=5,
            progress=False,
        )
        return np.asarray(state.best.images).ravel().tolist()


def work(folder: Path):
    """What is computed by one process and by two: an outer loop in double precision, a run, its evaluation, a pool."""
    recipe = ddjax.get_recipe("digits").replace(**RECIPE)
    options = {"compare": False, "progress": False}
    done = ddjax.distill(recipe, folder / "run", **options)
    again = ddjax.distill(recipe, folder / "run", resume=True, **options)  # which is read
    assert again.summary == done.summary and again.folder == folder / "run"
    evaluation, _ = ddjax.evaluate_artifact(folder / "run", num_nets=5)
    protocol = by_protocol(folder / "run", num_nets=3, epochs=3)["linear"]
    pooled = recipe.replace(source="digits", pool=str(folder / "pool.safetensors"), valid_nets=1)
    pool = ddjax.pretrain_for(
        pooled, num_nets=3, test_nets=2, training=ddjax.Training(20, 32), seed=1, dataset=None, progress=False
    )
    return {
        "exact": [exact(folder / f"exact-{nets}", nets) for nets in (2, 1)],
        "images": np.asarray(done.artifact.distilled.images).ravel().tolist(),
        "accuracy": evaluation.accuracy.tolist(),
        "protocol": protocol.accuracy.tolist(),
        "summary": done.summary.to_json(),
        "pool": pool.metadata["accuracy"],
        "devices": [jax.process_count(), jax.local_device_count()],
    }


def agreements(folder: Path):
    """What only several processes can show: run in each of two. In the end the second goes, and the first is saving."""
    number = jax.process_index()
    assert processes.several() and processes.first_process() == (number == 0)
    assert processes.agreed(lambda: {"from": number}) == {"from": 0}
    with pytest.raises(InputError, match="^of process 0$"):
        processes.agreed(lambda: (_ for _ in ()).throw(InputError(f"of process {number}")))
    votes = processes.Votes(seconds=1000.0)
    assert votes.count(15 * number, number == 1, last=False) == (15, False)  # the second's signal, not its clock
    assert votes.count(15, True, last=False) == (
        0,
        False,
    )  # they agree on every fourth step now, whatever they have seen
    assert votes.count(15 * number, number == 0, last=True) == (15, True)
    mesh = devices.make_mesh(4, 64)
    assert mesh is not None and dict(mesh.shape) == {"nets": 2, "batch": 1}
    assert {device.process_index for device in mesh.devices.ravel()} == {0, 1}
    assert dict(devices.make_mesh(1, 64).shape) == {"nets": 1, "batch": 2}
    assert not devices.make_layout(1, 64).share_steps  # two processes are too far apart for that
    with pytest.raises(InputError, match="^2 processes cannot share out 1 networks a step"):
        devices.make_mesh(1, 63)
    with pytest.raises(InputError, match="folder that all of them see"):
        ddjax.distill(ddjax.get_recipe("digits").replace(**RECIPE), progress=False)
    folder.mkdir(exist_ok=True)
    checkpoints, state = Checkpoints(folder), place({"image": np.zeros(3)}, replicated(mesh))
    checkpoints.save(1, state)
    if number == 1:  # goes while a thread of Orbax saves
        sync_all = multihost_utils.sync_global_devices

        def sync(name):
            if threading.current_thread() is not threading.main_thread():
                os.kill(os.getpid(), signal.SIGKILL)
            sync_all(name)

        multihost_utils.sync_global_devices = sync
    lost = "^another process of this run has ended"
    with pytest.raises(LostProcessError, match=lost):
        checkpoints.save(2, state)
    with pytest.raises(LostProcessError, match=lost), processes.together():
        processes.agreed(lambda: None)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    begun = start((__file__, str(folder)), 2, folder, PYTHONPATH=f"{HERE}:{HERE.parent}")
    return folder, ended(begun, folder)


def test_two_processes_give_what_one_gives(by_two, tmp_path):
    """In double precision the same images to twelve digits, whichever is shared out, networks or the real batch; in single
    precision the same figures and pool but for rounding; and the same files."""
    folder, [(status, told, errors), (_, silent, others)] = by_two
    assert status == 0 and "agreed" in told and "Traceback" not in errors, errors + others
    found = json.loads(next(line for line in told.splitlines() if line.startswith("{")))
    assert found["devices"] == [2, 1] and "{" not in silent
    expected = work(tmp_path)
    for ours, theirs in zip(found["exact"], expected["exact"], strict=True):
        assert relative_error(np.array(ours), np.array(theirs)) < 1e-12
    assert relative_error(np.array(found["images"]), np.array(expected["images"])) < 1e-4
    for name in ("accuracy", "protocol", "pool"):
        np.testing.assert_allclose(found[name], expected[name], atol=0.3)  # of 400 examples, one
    for name in ("valid_accuracy", "best_step", "num_test", "accuracy_by_step"):
        assert found["summary"][name] == pytest.approx(expected["summary"][name], abs=0.3), name
    files, others = ({path.relative_to(top) for path in (top / "run").rglob("*")} for top in (folder, tmp_path))
    assert {p for p in files if "checkpoints" not in p.parts} == {p for p in others if "checkpoints" not in p.parts}
    for ours, theirs in zip(rows(folder / "run"), rows(tmp_path / "run"), strict=True):
        assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, rel=1e-3, abs=1e-3)
    nets, reference = (
        read_pool(top / "pool.safetensors", ddjax.build_model("linear", (28, 28, 1), 10).init)[0]
        for top in (folder, tmp_path)
    )
    assert relative_error(nets, reference) < 1e-5


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    [(status, _, err)] = ended(start(command(folder / "run"), 1, folder), folder)
    assert status == 0, err
    return folder / "run"


def test_a_process_that_goes_ends_the_others_and_the_run_goes_on(alone, tmp_path):
    """Killed, in two processes, the second and then the first; signalled, in two; resumed to its end by one."""
    out = tmp_path / "run"
    begun = start(command(out), 2, tmp_path)
    wait_for_rows(out, 2, begun)
    begun[1].kill()
    killed = time.monotonic()
    (status, told, err), _ = ended(begun, tmp_path)
    assert time.monotonic() - killed < 60
    assert status == 1 and err.count("\n") == 1 and err.startswith("ddjax: another process of this run has ended ("), (
        err
    )
    assert err.endswith("what was saved before is intact: give the same command with --resume to go on\n")
    assert told.startswith("loading the data\n") and "Gloo" not in told
    begun = start(command(out, "--resume"), 2, tmp_path)
    wait_for_rows(out, len(rows(out)) + 2, begun)
    begun[0].kill()  # with which JAX's coordinator is gone
    killed = time.monotonic()
    _, (status, _, err) = ended(begun, tmp_path)
    assert time.monotonic() - killed < 60
    assert status in (1, -signal.SIGABRT) and err.count("\n") == 1, err  # whichever of Python and JAX is first
    assert err.startswith("ddjax: another process of this run has ended (") and "to go on" in err
    begun = start(command(out, "--resume"), 2, tmp_path)
    wait_for_rows(out, len(rows(out)) + 2, begun)
    begun[1].send_signal(signal.SIGTERM)
    for status, _, err in ended(begun, tmp_path):
        assert status == 128 + signal.SIGTERM, err
        step = re.fullmatch(r"ddjax: interrupted at step (\d+), saved: give the same command .* to go on\n", err)
        assert step is not None and 0 < int(step[1]) <= STEPS, err
    [(status, _, err)] = ended(start(command(out, "--resume"), 1, tmp_path), tmp_path)
    assert status == 0, err
    (ours, told, _), (theirs, expected, _) = load_artifact(out), load_artifact(alone)
    # Within a hundredth of the distance that the images went, of a thousand steps in single precision.
    assert relative_error(ours.images, theirs.images) < 1e-2
    assert told["accuracy"]["accuracy_mean"] == pytest.approx(expected["accuracy"]["accuracy_mean"], abs=0.6)
    assert [row["step"] for row in rows(out)] == [row["step"] for row in rows(alone)]


@pytest.mark.parametrize(
    ("parts", "passed"),
    [
        (("a\n", "b"), "a\nb"),
        (("a\nE1 agent.cc] Polled an error from coordination service (", "this)\nF2 Check failure"), "a\nLOST\n"),
        (("a\n", "E1 x] Use error polling to propagate the following error to all tasks: U", "b\n"), "a\nLOST\n"),
        (("F1 Terminating: the JAX distributed service detected fatal errors. Th", "b\n"), "LOST\n"),
        (
            ("ddjax: another process of this run has ended (x)\nE1 Polled an error from coordination service", "b\n"),
            "ddjax: another process of this run has ended (x)\n",
        ),
    ],
)
def test_what_jax_says_at_the_end_is_one_line(parts, passed):
    waiting, written = [*map(str.encode, parts), b""], []
    pass_on(lambda: waiting.pop(0), written.append, b"LOST\n")
    assert b"".join(written).decode() == passed and not waiting


def test_the_script_for_all_machines(monkeypatch, capsys, tmp_path):
    """What it asks for; the run itself is that of the command."""
    asked = {}

    def distil(recipe, out, **options):
        asked.update(options, recipe=recipe, out=out)
        return SimpleNamespace(summary=SimpleNamespace(distilled={"accuracy_mean": 12.5}), folder=tmp_path)

    monkeypatch.setattr(ddjax, "distill", distil, raising=False)
    monkeypatch.setattr(ddjax, "use_devices", lambda distributed: asked.update(distributed=distributed), raising=False)
    words = ["train_anywhere.py", "--nets", "8", "--outer-steps", "2", "--out", "shared", "--distributed"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(HERE.parent / "examples" / "train_anywhere.py"), run_name="__main__")
    assert asked["recipe"] == ddjax.get_recipe("digits").replace(num_nets=8, init="random", outer_steps=2)
    assert (asked["out"], asked["name"], asked["resume"], asked["distributed"]) == ("shared", "digits", True, True)
    assert capsys.readouterr().out == f"12.50 % of the test examples; {tmp_path}/distilled.safetensors\n"


def test_input_that_is_wrong_ends_all_of_them(alone, tmp_path):
    for status, _, err in ended(start(command(alone), 2, tmp_path), tmp_path):
        assert status == 2 and err.count("\n") == 1 and "already holds a run: continue it with --resume" in err, err


def test_processes_that_do_not_find_each_other(tmp_path):
    environment = {"JAX_NUM_PROCESSES": "1"}
    words = command(tmp_path / "run", "--distributed")
    [(status, _, err)] = ended(start(words, 1, tmp_path, **environment), tmp_path)
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "no other processes of this run are found (" in err and "or leave --distributed out" in err


if __name__ == "__main__":
    devices.use_devices()
    with jax.numpy_rank_promotion("allow"):
        result = work(Path(sys.argv[1]))
        if processes.first_process():
            os.write(1, (json.dumps(result) + "\n").encode())
        agreements(Path(sys.argv[1]) / "saved")
        os.write(1, b"agreed\n")
        sys.stdout.flush()
        os._exit(0)  # the other one is gone
