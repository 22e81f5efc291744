"""Data sets that stay on the host: the same bits as on the device, whatever reads them, in a file as in memory."""

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_own_data import write_records

import ddjax
from ddjax.core import losses
from ddjax.core.distilled import DistilledData
from ddjax.core.outer import Distiller, DistillState, Info, keys_of_step
from ddjax.data import Dataset, Split, Standardise, hold_out, make_augment, make_draw_batch, memory
from ddjax.data.ahead import fetching
from ddjax.data.host import Ahead, OnHost
from ddjax.data.mapped import filled
from ddjax.data.sampling import drawn_rows
from ddjax.data.splitting import stratified_part
from ddjax.errors import InputError, InterruptedRunError
from ddjax.evaluation.real_sets import normalised
from ddjax.evaluation.scoring import predictions, score
from ddjax.experiment.outer import feeding
from ddjax.experiment.setup import set_up
from ddjax.models import model_of
from ddjax.recipes import Network
from ddjax.training import loop, progress
from ddjax.training.fit import fit
from ddjax.training.pretrain import Training, pretrain

pytestmark = pytest.mark.usefixtures("in_haste")

SHAPE, CLASSES, N = (8, 8, 1), 4, 240
RANDOM = np.random.RandomState(0)
X, Y = RANDOM.randint(0, 256, (N, *SHAPE)).astype(np.uint8), (np.arange(N) % CLASSES).astype(np.int32)
TRANSFORM = Standardise.by([0.5], [0.3])
DEVICE, HOST = Split.on_device(X, Y, TRANSFORM), Split.on_host(X, Y, TRANSFORM)
RECIPE = ddjax.Recipe().replace(
    **{"data": "own", "model": "mlp", "init": "random", "augment": "crop-flip", "steps": 2, "epochs": 2, "seed": 3},
    **{"outer_steps": 6, "eval_every": 2, "num_nets": 2, "batch_size": 32, "valid_nets": 2, "test_nets": 4},
    **{"lr": 0.05, "lr_log_lrs": 0.05, "inner_lr": 0.05},
)


def own(x=X, transform=TRANSFORM):
    return Dataset("own", x[:200], Y[:200], x[200:], Y[200:], transform, tuple("abcd"), "own")


def same(one, other):
    leaves, others = jax.tree.leaves(jax.device_get(one)), jax.tree.leaves(jax.device_get(other))
    assert len(leaves) == len(others) > 0
    for a, b in zip(leaves, others, strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


# Where examples lie


def test_what_is_larger_than_its_share_of_a_device_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 4 * X.nbytes * jax.local_device_count())
    assert isinstance(Split.of(X, Y, TRANSFORM).inputs, jax.Array)  # just a quarter
    monkeypatch.setattr(memory, "available", lambda: 4 * X.nbytes * jax.local_device_count() - 4)
    assert isinstance(Split.of(X, Y, TRANSFORM).inputs, OnHost)
    half = Split.of(X, Y, TRANSFORM, np.arange(N) % 2 == 0)  # which is what counts
    assert isinstance(half.inputs, jax.Array)
    np.testing.assert_array_equal(half.inputs, X[::2])
    monkeypatch.setenv(memory.SHARE, "0")
    assert all(isinstance(part.inputs, OnHost) for part in hold_out(own()))
    monkeypatch.setenv(memory.SHARE, "1")
    assert all(isinstance(part.inputs, jax.Array) for part in hold_out(own()))


def test_a_device_with_memory_of_its_own_is_asked(monkeypatch):
    @dataclasses.dataclass
    class Device:
        told: dict | None

        def memory_stats(self):
            return self.told

    monkeypatch.setattr(memory, "available", lambda: 400)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device({"bytes_limit": 400})] * 2)
    assert memory.fits_device(100) and not memory.fits_device(101)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)] * 2)  # those of a CPU have the machine's in common
    assert memory.fits_device(50) and not memory.fits_device(51)


def test_memory_is_what_is_free():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**26 < memory.available() < pages


@pytest.mark.parametrize("said", ["lots", "-0.1", "1.5", "nan", ""])
def test_a_wrong_share_is_one_line(monkeypatch, said):
    monkeypatch.setenv(memory.SHARE, said)
    with pytest.raises(InputError, match=r"DDJAX_DATA_SHARE is .*: give the share") as excinfo:
        Split.of(X, Y, TRANSFORM)
    assert "\n" not in str(excinfo.value)


def test_parts_on_the_host_are_no_copies():
    train, valid, _ = (Split.on_host(X, Y, TRANSFORM, rows) for rows in (Y > 0, Y == 0, slice(None)))
    assert len(train.inputs) + len(valid.inputs) == N and train.inputs.array is X is valid.inputs.array
    assert valid.inputs.shape == (N // CLASSES, *SHAPE) and valid.inputs.nbytes == X[Y == 0].nbytes
    np.testing.assert_array_equal(train.inputs, X[Y > 0])
    part = train.part(np.array([3, 1, 1]))
    np.testing.assert_array_equal(part.inputs, X[Y > 0][[3, 1, 1]])
    np.testing.assert_array_equal(part.labels, Y[Y > 0][[3, 1, 1]])
    same(part.inputs[jnp.array([0, 2])], Split.on_device(X, Y, TRANSFORM, Y > 0).part(np.array([3, 1])).inputs)


# Whatever reads them


def test_rows_are_read_alike_within_a_jitted_function():
    rows = jnp.array([[5, 0, 239], [7, 7, 1]], jnp.int32)
    for read in (lambda split: split.read(rows[0]), lambda split: jax.vmap(split.read)(rows)):
        found, expected = (jax.jit(read)(split) for split in (HOST, DEVICE))
        same(found, expected)
    np.testing.assert_allclose(jax.jit(HOST.read)(rows[0]), TRANSFORM(X[[5, 0, 239]]), atol=1e-6)


def test_what_is_compiled_keeps_no_examples():
    split = HOST._replace(inputs=OnHost(X.copy(), np.arange(N)))
    read = jax.jit(lambda split: split.read(jnp.arange(3)))
    same(read(split), read(HOST))
    array = weakref.ref(split.inputs.array)
    del split
    gc.collect()
    assert array() is None
    same(read(HOST), read(DEVICE))


def test_batches_scores_predictions_and_training_are_alike():
    model = model_of(Network(model="mlp"), SHAPE, CLASSES)
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
    draw = make_draw_batch(32, CLASSES, make_augment("crop-flip", SHAPE))
    loss, key = losses.of_network(model.apply), jax.random.key(4)

    def everything(params, key, split):
        trained = fit(key, loss, params, split, draw, steps=3, lr=0.01)
        return draw(key, split), trained, score(model.apply, trained, split), predictions(model.apply, params, split)

    run = jax.jit(jax.vmap(everything, in_axes=(0, 0, None)))
    found, expected = (run(params, jax.random.split(key, 3), split) for split in (HOST, DEVICE))
    same(found, expected)


def test_pools_are_alike(monkeypatch, tmp_path):
    model = model_of(Network(model="linear"), SHAPE, CLASSES)
    for share in ("0", "1"):
        monkeypatch.setenv(memory.SHARE, share)
        how = {"num_nets": 2, "test_nets": 1, "training": Training(3, 16), "progress": False}
        pretrain(tmp_path / share, model, own(), **how)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_what_has_to_be_in_memory_all_at_once_is_one_line(monkeypatch):
    size = 4 * X.size
    monkeypatch.setattr(memory, "available", lambda: size)
    assert normalised(HOST).nbytes == size
    monkeypatch.setattr(memory, "available", lambda: size - 1)
    with pytest.raises(InputError, match=r"k-means.* GB of memory are free: leave them out") as excinfo:
        normalised(HOST)
    assert "\n" not in str(excinfo.value)
    assert len(normalised(HOST, [1, 2])) == 2


# The outer step, whose batches are fetched ahead


def test_a_batch_is_fetched_while_the_step_before_runs():
    asked, arrived = [], threading.Semaphore(0)

    class Noted(OnHost):
        def __getitem__(self, index):
            asked.append(np.asarray(index).tolist())
            arrived.release()
            return super().__getitem__(index)

    split = HOST._replace(inputs=Noted(X, np.arange(N)))
    with fetching(split, lambda step: jnp.array([step, 100 + step], jnp.int32), None) as feed:
        for step in (4, 5):
            batch = feed(step)
            np.testing.assert_array_equal(batch.fetched, X[[step, 100 + step]])
            for _ in range(2 if step == 4 else 1):
                assert arrived.acquire(timeout=20)  # the next one, which nobody has asked for
        assert asked == [[4, 104], [5, 105], [6, 106]]
        np.testing.assert_array_equal(
            feed(5).fetched, X[[5, 105]]
        )  # the same once more, as after one that is not finite


def test_what_was_fetched_for_another_step_is_not_a_number():
    rows = jnp.array([3, 1], jnp.int32)
    ahead = Ahead(jnp.asarray(X[[3, 1]]), rows, *DEVICE[1:])
    read = jax.jit(lambda split, rows: split.read(rows))
    same(read(ahead, rows), read(DEVICE, rows))
    assert np.isnan(read(ahead, rows[::-1])).all()


@pytest.mark.parametrize("changes", [0, 1, 2])
def test_the_rows_of_a_batch_are_those_of_its_key(changes):
    augments = [make_augment("crop", SHAPE)] * changes
    numbered = Split.on_device(X, Y, TRANSFORM)._replace(labels=jnp.arange(N))
    _, targets = make_draw_batch(16, N, *augments)(jax.random.key(1), numbered)
    rows, keys = drawn_rows(jax.random.key(1), 16, N, changes)
    assert np.argmax(targets, axis=1).tolist() == rows.tolist() and len(keys) == changes


def test_what_is_fetched_for_a_step_is_what_it_draws(monkeypatch):
    """And so none of it is not a number: of every change to a batch, and of every step, the key is the same."""
    monkeypatch.setenv(memory.SHARE, "0")
    experiment = set_up(RECIPE.replace(siamese="flip"), dataset=own())
    draw = make_draw_batch(32, CLASSES, experiment.augment, experiment.siamese)
    with feeding(experiment, experiment.key, experiment.data, None) as feed:
        for step in (0, 1, 5):
            batch_key = keys_of_step(experiment.key, jnp.int32(step))[0]
            split, init, _ = feed(step)
            assert init is experiment.starts.draw and np.isfinite(draw(batch_key, split)[0]).all()
            numbered = Split.on_device(X, Y, TRANSFORM)._replace(labels=jnp.arange(len(experiment.train.labels)))
            rows = np.argmax(make_draw_batch(32, N, *experiment[5:7])(batch_key, numbered)[1], axis=1)
            np.testing.assert_array_equal(split.fetched, experiment.train.inputs[rows])


def test_each_step_is_fed_by_its_number(tmp_path):
    def step(key, state, dataset):
        info = Info(jnp.ones(()), DistilledData(*jnp.ones(3)), dataset == state.step)
        return state._replace(step=state.step + 1), info

    def twice(first):
        return [jax.tree.map(jnp.copy, first) for _ in range(2)]

    start = DistilledData(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), jnp.zeros((1, 1)))
    distiller = Distiller(lambda first: DistillState(jnp.zeros((), jnp.int32), *twice(first), ()), step)
    parts = (jax.random.key(0), distiller, start, jnp.int32, lambda d: (jnp.zeros(()), jnp.zeros(())), tmp_path)
    loop.run(*parts, outer_steps=4, eval_every=4, strict=True, progress=False)


def stopping(monkeypatch, step):
    """A signal comes when that step has been sent."""

    class Bar(progress.Bar):
        done = 0

        def update(self, count=1):
            self.done += count
            if self.done == step:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "Bar", Bar)


def files(folder):
    """What a run wrote, but for times and origin."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return rows, *((folder / name).read_bytes() for name in ("distilled.safetensors", "summary.json", "frames.npz"))


@pytest.fixture(scope="module")
def on_device(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(memory.SHARE, "1")
        folder = tmp_path_factory.mktemp("device")
        archive = folder / "own.npz"
        save(archive)
        ddjax.distill(RECIPE.replace(data=str(archive)), folder / "run", compare=False, progress=False)
        return archive, folder / "run"


def save(path, write=np.savez, x=X):
    write(path, x_train=x[:200], y_train=Y[:200], x_test=x[200:], y_test=Y[200:])


def test_a_run_from_a_file_on_disk_is_that_on_the_device_resumed_too(on_device, tmp_path, monkeypatch):
    archive, expected = on_device
    monkeypatch.setenv(memory.SHARE, "0")
    recipe, options = RECIPE.replace(data=str(archive)), {"compare": False, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        stopping(patch, 3)
        with pytest.raises(InterruptedRunError):
            ddjax.distill(recipe, tmp_path / "run", **options)
    ddjax.distill(recipe, tmp_path / "run", resume=True, **options)
    assert files(tmp_path / "run") == files(expected)
    evaluation, count = ddjax.evaluate_artifact(tmp_path / "run", data=str(archive))
    summary = json.loads((expected / "summary.json").read_text())
    assert (evaluation.summary(), count) == (pytest.approx(summary["distilled"], rel=1e-5), 40)


def test_steps_that_are_not_finite_are_skipped_alike(tmp_path, monkeypatch):
    x = TRANSFORM(X)
    learned_from = np.flatnonzero(~stratified_part(Y[:200], round(200 / 12), 0))
    x[learned_from[::60]] = np.nan
    dataset = own(x, Standardise.by([0.0], [1.0]))
    for share in ("0", "1"):
        monkeypatch.setenv(memory.SHARE, share)
        recipe = RECIPE.replace(outer_steps=12, eval_every=12, augment="none")
        ddjax.distill(recipe, tmp_path / share, dataset=dataset, compare=False, progress=False)
    found, expected = files(tmp_path / "0"), files(tmp_path / "1")
    assert found == expected and 0 < found[0][0]["skipped"] < 12


EIGHT = """
import os, sys, jax
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
import test_host as t
from pathlib import Path
from ddjax.training import devices
devices.make_mesh.__kwdefaults__["smallest_share"] = 4
assert dict(devices.make_mesh(2, 32).shape) == {"nets": 2, "batch": 4}
for share in "01":
    os.environ[t.memory.SHARE] = share
    recipe = t.RECIPE.replace(outer_steps=2, siamese="flip")
    t.ddjax.distill(recipe, Path(sys.argv[1], share), dataset=t.own(), compare=False, progress=False)
"""


def test_a_run_on_eight_devices_is_alike(tmp_path):
    command = [sys.executable, "-W", "error", "-c", EIGHT, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "rematerialization" not in done.stderr, done.stderr
    assert files(tmp_path / "0") == files(tmp_path / "1")


# In a file


def read(path, monkeypatch, share):
    monkeypatch.setenv(memory.SHARE, share)
    return ddjax.load_dataset(path)


def lies_in_file(array):
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


def test_a_large_archive_stays_in_its_file(tmp_path, monkeypatch):
    save(tmp_path / "own.npz")
    whole, mapped = (read(tmp_path / "own.npz", monkeypatch, share) for share in ("1", "0"))
    assert lies_in_file(mapped.x_train) and lies_in_file(mapped.x_test) and not lies_in_file(whole.x_train)
    for name in ("x_train", "y_train", "x_test", "y_test"):
        same(getattr(mapped, name), getattr(whole, name))
    assert mapped.source == whole.source and mapped.transform.to_json() == whole.transform.to_json()
    train, valid, test = hold_out(mapped)
    assert all(lies_in_file(part.inputs.array) for part in (train, valid, test))


def test_floats_stay_in_their_file_too(tmp_path, monkeypatch):
    save(tmp_path / "own.npz", x=TRANSFORM(X))
    whole, mapped = (read(tmp_path / "own.npz", monkeypatch, share) for share in ("1", "0"))
    assert lies_in_file(mapped.x_train)
    same(mapped.x_train, whole.x_train)


@pytest.mark.parametrize("kind", ["compressed", "columns first"])
def test_what_cannot_stay_in_its_file_is_read(tmp_path, monkeypatch, kind):
    x = np.asfortranarray(X[:200]) if kind == "columns first" else X[:200]
    write = np.savez_compressed if kind == "compressed" else np.savez
    write(tmp_path / "own.npz", x_train=x, y_train=Y[:200], x_test=X[200:], y_test=Y[200:])
    dataset = read(tmp_path / "own.npz", monkeypatch, "0")
    assert not lies_in_file(dataset.x_train)
    np.testing.assert_array_equal(dataset.x_train, X[:200])


def test_damage_is_noticed_in_a_file_that_is_mapped(tmp_path, monkeypatch):
    save(tmp_path / "own.npz")
    content = bytearray((tmp_path / "own.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "own.npz") as archive:
        content[archive.getinfo("x_train.npy").header_offset + 5000] ^= 1
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"x_train is damaged: write the file again"):
        read(tmp_path / "own.npz", monkeypatch, "0")


def test_pictures_of_a_folder_go_into_a_file_that_nobody_sees(tmp_path, monkeypatch):
    for number, (x, y) in enumerate(zip(X[:24], Y[:24], strict=True)):
        place = tmp_path / "pets" / ("train" if number < 16 else "test") / "abcd"[y]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[..., 0]).save(place / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole, mapped = (read(tmp_path / "pets", monkeypatch, share) for share in ("1", "0"))
    assert lies_in_file(mapped.x_train) and not lies_in_file(whole.x_train)
    assert mapped.source == whole.source and sorted(tmp_path.rglob("*")) == before
    same(mapped.x_train, whole.x_train)


def test_prepared_records_are_decoded_into_a_file_and_their_cache_stays_in_its_own(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(num_classes=CLASSES)
    features = {"picture": tfds.features.Image(shape=SHAPE), "label": label}
    records = [{"picture": Image.fromarray(x[..., 0]), "label": int(y)} for x, y in zip(X[:40], Y[:40], strict=True)]
    write_records(tmp_path, "own", features, {"train": records[:24], "test": records[24:]})
    found = []
    for share in ("0", "0", "1"):
        monkeypatch.setenv(memory.SHARE, share)
        found.append(ddjax.load_dataset("own", data_dir=tmp_path))
    first, second, whole = found
    assert lies_in_file(first.x_train) and lies_in_file(second.x_train) and not lies_in_file(whole.x_train)
    for one in (first, second):
        same((one.x_train, one.y_train, one.x_test), (whole.x_train, whole.y_train, whole.x_test))


def test_so_many_arrays_and_no_others():
    same(filled(3, iter(X[:3])), X[:3])
    for count in (2, 4):
        with pytest.raises(ValueError, match="zip"):
            filled(count, iter(X[:3]))
