"""Pools of trained networks: each network by itself, what the header says of it, interruption, enlargement, bad files."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import compiled_once

from ddjax.core import losses
from ddjax.core.distilled import DistilledData
from ddjax.data import Split, load_dataset, make_draw_batch
from ddjax.errors import InputError
from ddjax.models import build_model
from ddjax.recipes import Recipe, get_recipe
from ddjax.storage import artifact, tensorfile
from ddjax.storage.pools import load_pool
from ddjax.training.fit import fit
from ddjax.training.pretrain import Training, pretrain, pretrain_for

P, Q = 3, 2
TRAINING = Training(steps=60, batch_size=32, lr=5e-3)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The same networks are trained in most of these tests."""
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def network(digits, name="mlp", classes=10):
    return build_model(name, digits.input_shape, classes)


def make(path, digits, **changes):
    options: dict[str, Any] = {"num_nets": P, "test_nets": Q, "training": TRAINING, "progress": False} | changes
    return pretrain(path, network(digits), digits, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits):
    """A pool made without interruption: its file, and what the call returned."""
    path = tmp_path_factory.mktemp("pools") / "whole.safetensors"
    return path, make(path, digits, about={"model": "mlp"})


def stacked(pool):
    """Leaves [Q + P, ...] in the order of the networks' numbers, which is that of the file."""
    return jax.tree.map(lambda test, train: np.concatenate([test, train]), pool.test, pool.train)


def same_bits(one: Any, other: Any) -> bool:
    assert str(jax.tree.structure(one)) == str(jax.tree.structure(other))
    return all(
        a.tobytes() == b.tobytes() and a.shape == b.shape
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def alone(digits, number, seed=0):
    """Network `number`, trained by a plain call that knows of no pool."""
    model = network(digits)
    real = Split.on_device(digits.x_train, digits.y_train, digits.transform)
    weights_key, batches_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
    draw_batch = make_draw_batch(TRAINING.batch_size, 10)

    @jax.jit
    def trained(weights_key, batches_key):
        loss = losses.of_network(model.apply)
        return fit(batches_key, loss, model.init(weights_key), real, draw_batch, steps=TRAINING.steps, lr=TRAINING.lr)

    return trained(weights_key, batches_key)


def percent(digits, params):
    """By NumPy alone, from the weights."""
    x = np.asarray(digits.transform(digits.x_test)).reshape(len(digits.x_test), -1)
    hidden = np.maximum(x @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    logits = hidden @ params["dense2"]["kernel"] + params["dense2"]["bias"]
    return 100 * np.mean(logits.argmax(axis=1) == digits.y_test)


def test_each_network_is_what_its_number_gives_alone(whole, digits):
    nets = stacked(whole[1])
    assert all(len(leaf) == P + Q for leaf in jax.tree.leaves(nets))
    for number in (0, Q, P + Q - 1):
        expected = alone(digits, number)
        for leaf, own in zip(jax.tree.leaves(nets), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(leaf[number], own, rtol=1e-3, atol=1e-4)
            others = np.delete(np.arange(P + Q), number)
            assert all(np.abs(leaf[other] - own).max() > 0.005 for other in others)  # far above the tolerance


def test_another_seed_gives_other_networks(whole, digits, tmp_path):
    other = make(tmp_path / "pool", digits, num_nets=1, test_nets=1, seed=5)
    expected = alone(digits, 1, seed=5)
    for leaf, own in zip(jax.tree.leaves(other.train), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf[0], own, rtol=1e-3, atol=1e-4)
    assert not same_bits(other.train, jax.tree.map(lambda leaf: leaf[:1], whole[1].train))


def test_parts_are_disjoint_and_complete(whole, digits):
    path, pool = whole
    tensors = safetensors.numpy.load_file(path)
    assert tensors and all(name.startswith("nets/") and len(tensor) == P + Q for name, tensor in tensors.items())
    loaded = load_pool(path, network(digits).init)
    assert same_bits(loaded.train, pool.train) and same_bits(loaded.test, pool.test)
    for name, tensor in tensorfile.named("nets", stacked(loaded)).items():
        assert tensor.tobytes() == tensors[name].tobytes()
    assert {len(leaf) for leaf in jax.tree.leaves(pool.test)} == {Q}
    assert {len(leaf) for leaf in jax.tree.leaves(pool.train)} == {P}
    kernels = [leaf.reshape(P + Q, -1) for leaf in jax.tree.leaves(stacked(pool)) if leaf.ndim == 3]
    assert len(kernels) == 2 and all(len(np.unique(kernel, axis=0)) == P + Q for kernel in kernels)


def test_the_header_tells_how_well_each_network_does(whole, digits):
    pool = whole[1]
    nets = stacked(pool)
    scores = [percent(digits, jax.tree.map(lambda leaf, j=j: leaf[j], nets)) for j in range(P + Q)]
    assert len(set(scores)) > 1
    # One example is 0.25 %, and rounding may turn a close decision.
    np.testing.assert_allclose(pool.metadata["accuracy"], scores, atol=0.26)
    assert min(scores) > 80  # it learned: chance is 10 %
    expected = {
        "kind": "pool",
        "data": "digits",
        "data_source": digits.source,
        "model": "mlp",
        "training": {"steps": 60, "batch_size": 32, "lr": 5e-3},
        "seed": 0,
        "test_nets": Q,
        "wanted": P + Q,
    }
    assert {name: pool.metadata[name] for name in expected} == expected
    assert pool.digest == hashlib.sha256(whole[0].read_bytes()).hexdigest()[:16]


# Interruption


@pytest.mark.parametrize("writes", [1, 4])
def test_interrupted_and_resumed_is_bitwise_the_uninterrupted_pool(tmp_path, monkeypatch, digits, whole, writes):
    """Stopped as the next group of networks is to be written, which is then lost and made again."""
    path, done = tmp_path / "pool.safetensors", list[Any]()
    write = tensorfile.write

    def stops(*args):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(args)
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            make(path, digits, about={"model": "mlp"})
    assert len(safetensors.numpy.load_file(path)["nets/dense1/bias"]) == writes * len(jax.devices())
    with pytest.raises(
        InputError, match=rf"is unfinished \({writes} of 5 networks\): go on with `ddjax pretrain --res"
    ):
        load_pool(path, network(digits).init)
    resumed = make(path, digits, about={"model": "mlp"}, resume=True)
    assert path.read_bytes() == whole[0].read_bytes()
    assert same_bits(stacked(resumed), stacked(whole[1])) and resumed.metadata == whole[1].metadata


def test_resume_begins_a_pool_that_has_not_begun_and_leaves_a_finished_one_alone(tmp_path, monkeypatch, digits):
    path = tmp_path / "new" / "pool"
    begun = make(path, digits, num_nets=1, test_nets=1, resume=True)
    before = path.read_bytes()
    monkeypatch.setattr(tensorfile, "write", None)
    again = make(path, digits, num_nets=1, test_nets=1, resume=True)
    assert same_bits(stacked(again), stacked(begun)) and path.read_bytes() == before


def test_enough_of_an_unfinished_pool_is_a_finished_one(tmp_path, monkeypatch, digits):
    path, write, written = tmp_path / "pool", tensorfile.write, list[Any]()

    def stops(*args):
        write(*args)
        written.append(args)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            make(path, digits, num_nets=9, test_nets=1)
    made = len(tensorfile.read(path, "")[1]["accuracy"])
    fewer = make(path, digits, num_nets=made - 1, test_nets=1, resume=True)
    assert fewer.metadata["wanted"] == len(fewer.metadata["accuracy"]) == made < 10


def test_a_finished_pool_is_enlarged(tmp_path, digits, whole):
    path = tmp_path / "pool"
    small = make(path, digits, num_nets=1, about={"model": "mlp"})
    assert {len(leaf) for leaf in jax.tree.leaves(small.train)} == {1}
    enlarged = make(path, digits, about={"model": "mlp"}, resume=True)
    assert same_bits(enlarged.test, small.test)
    assert same_bits(jax.tree.map(lambda leaf: leaf[:1], enlarged.train), small.train)
    assert enlarged.metadata["accuracy"][: Q + 1] == small.metadata["accuracy"]
    assert path.read_bytes() == whole[0].read_bytes()


def test_several_devices_train_the_same_networks(tmp_path, digits, whole):
    """Two at a time, so that the last group has one too many, which is left out."""
    script = """
import sys
from pathlib import Path
from ddjax.data import load_dataset
from ddjax.models import build_model
from ddjax.training.pretrain import Training, pretrain
import jax
assert len(jax.devices()) == 2
digits = load_dataset("digits")
model = build_model("mlp", digits.input_shape, 10)
pretrain(Path(sys.argv[1]), model, digits, num_nets=3, test_nets=2, training=Training(60, 32, 5e-3))
"""
    path = tmp_path / "pool"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, path],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "compiling the training of the networks"
    assert [line.split()[:2] for line in lines[1:]] == [["network", "2/5"], ["network", "4/5"], ["network", "5/5"]]
    pool = load_pool(path, network(digits).init)
    mean, std = np.mean(pool.metadata["accuracy"]), np.std(pool.metadata["accuracy"])
    assert lines[-1].endswith(f"test {mean:.2f} ± {std:.2f} %")
    for mine, other in zip(jax.tree.leaves(stacked(whole[1])), jax.tree.leaves(stacked(pool)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)


# Bad input


def refused(call, *args, **options):
    with pytest.raises(InputError) as excinfo:
        call(*args, **options)
    message = str(excinfo.value)
    assert "\n" not in message
    return message


def test_what_exists_is_not_overwritten(tmp_path, digits, whole):
    path = tmp_path / "pool"
    path.write_bytes(whole[0].read_bytes())
    assert refused(make, path, digits) == (
        f"{path} exists: go on with it or enlarge it with --resume, or choose another --pool"
    )
    other: list[tuple[dict[str, Any], str]] = [
        ({"seed": 7}, "seed 0 there, 7 now"),
        ({"test_nets": 4}, "test_nets 2 there, 4 now"),
        ({"training": TRAINING._replace(steps=61)}, "'steps': 60} there, {'steps': 61,"),
        ({"about": {"model": "mlp", "weights": "he"}}, "weights None there, he now"),
        ({"augment": "crop"}, "augment None there, crop now"),
    ]
    for changes, what in other:
        message = refused(make, path, digits, resume=True, **{"about": {"model": "mlp"}, **changes})
        assert message.startswith(f"{path} holds other networks (") and what in message
        assert message.endswith("): repeat its settings or choose another --pool")
    assert path.read_bytes() == whole[0].read_bytes()


def test_an_augmented_pool_is_another_pool(tmp_path, digits):
    """It says so, and goes on as what it is."""
    path, options = tmp_path / "pool", {"training": Training(3, 8), "num_nets": 1, "test_nets": 1}
    plain = make(tmp_path / "plain", digits, **options)
    assert plain.metadata["augment"] is None
    pool = make(path, digits, augment="crop", **options)
    assert pool.metadata["augment"] == "crop" and not same_bits(pool.train, plain.train)
    assert "augment crop there, None now" in refused(make, path, digits, resume=True, **options)
    assert same_bits(make(path, digits, augment="crop", resume=True, **options).train, pool.train)
    assert refused(make, tmp_path / "none", digits, augment="turn").startswith(
        "--augment is 'turn': give none, or some of "
    )
    assert not (tmp_path / "none").exists()


def test_other_data_are_other_networks(tmp_path, digits, whole):
    path = tmp_path / "pool"
    path.write_bytes(whole[0].read_bytes())
    changed = dataclasses.replace(digits, source="digits:2.0.0")
    message = refused(make, path, changed, about={"model": "mlp"}, resume=True)
    assert "data_source digits:1.0.0 there, digits:2.0.0 now" in message


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_nets": 0}, "--num-nets is 0: give a number above zero"),
        ({"test_nets": 0}, "--test-nets is 0: give a number above zero"),
        ({"num_nets": -1}, "--num-nets is -1: give a number above zero"),
        ({"training": Training(steps=0)}, "--steps is 0: give a number above zero"),
        ({"training": Training(batch_size=0)}, "--batch-size is 0: give a number above zero"),
        ({"training": Training(lr=float("nan"))}, "--lr is nan: give a number above zero"),
        ({"training": Training(lr=float("inf"))}, "--lr is inf: give a number above zero"),
    ],
)
def test_numbers_out_of_range(tmp_path, digits, changes, message):
    assert refused(make, tmp_path / "below" / "pool", digits, **changes) == message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be(tmp_path, digits):
    (tmp_path / "file").write_text("text")
    message = refused(make, tmp_path / "file" / "pool", digits)
    assert message.startswith(f"cannot write {tmp_path / 'file' / 'pool'} (") and "choose another --pool" in message


def rewrite(path: Path, header=lambda header: None, **tensors) -> Path:
    """The pool again with its header and its tensors changed."""
    held = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()["ddjax"])
    header(metadata)
    safetensors.numpy.save_file({**held, **tensors}, path, metadata={"ddjax": json.dumps(metadata)})
    return path


@pytest.fixture
def path(tmp_path, whole):
    copy = tmp_path / "pool.safetensors"
    copy.write_bytes(whole[0].read_bytes())
    return copy


def test_no_such_file(tmp_path, digits):
    for path in (tmp_path / "none", tmp_path):
        message = refused(load_pool, path, network(digits).init)
        assert message == f"there is no pool of trained networks at {path}: make it with `ddjax pretrain RECIPE` first"


@pytest.mark.parametrize("length", [0, 7, 100, -4])
def test_damaged(path, digits, length):
    path.write_bytes(path.read_bytes()[:length])
    for call in (load_pool, lambda path, _: make(path, digits, resume=True)):
        message = refused(call, path, network(digits).init)
        assert message.startswith(f"{path} is damaged") and "make it again with `ddjax pretrain`" in message


def test_an_artefact_is_no_pool(tmp_path, digits):
    path = tmp_path / artifact.FILE_NAME
    arrays: Any = (np.zeros((1, 2, 3)), np.ones((1, 2, 2)) / 2, np.zeros((1, 1)))
    artifact.save_artifact(path, DistilledData(*arrays), {"name": "x"})
    for call in (load_pool, lambda path, _: make(path, digits, resume=True)):
        message = refused(call, path, network(digits).init)
        assert message == f"{path} is not a pool of networks: give a file that `ddjax pretrain` wrote"


def test_a_pool_is_no_artefact(path):
    assert "lacks the tensors images, labels, learning_rates" in refused(artifact.load_artifact, path)


def test_foreign_and_newer_files(path, digits):
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, path)
    assert "ddjax did not write" in refused(load_pool, path, network(digits).init)


def test_newer_format(path, digits):
    rewrite(path, lambda header: header.update(format_version=99))
    assert "format version 99" in refused(load_pool, path, network(digits).init)


def test_networks_of_another_architecture(path, digits):
    for name, classes, wrong in [
        ("linear", 10, "dense1/bias: [5, 128] there, [5, 10] wanted"),
        ("mlp", 3, "dense2/bias: [5, 10] there, [5, 3] wanted"),
        ("lenet", 10, "conv1/bias: [] there, [5, 6] wanted"),
    ]:
        assert refused(load_pool, path, network(digits, name, classes).init) == (
            f"{path} holds networks of another architecture or class count ({wrong}): give a pool for this one"
        )


def test_a_network_missing_from_one_tensor(path, digits):
    """So that no network is put together of parts that are not its own."""
    rewrite(path, **{"nets/dense1/bias": np.zeros((P + Q - 1, 128), np.float32)})
    message = refused(load_pool, path, network(digits).init)
    assert "(dense1/bias: [4, 128] there, [5, 128] wanted)" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("accuracy"),
        lambda header: header.pop("wanted"),
        lambda header: header.pop("test_nets"),
        lambda header: header.update(accuracy=5),
        lambda header: header.update(accuracy=["good"] * 5),
        lambda header: header.update(test_nets=5),
        lambda header: header.update(test_nets=0),
        lambda header: header.update(wanted="5"),
    ],
)
def test_headers_that_make_no_sense(path, digits, change):
    rewrite(path, change)
    for call in (load_pool, lambda path, _: make(path, digits, resume=True)):
        message = refused(call, path, network(digits).init)
        assert message.startswith(f"{path} has a damaged 'ddjax' header: copy it again, or make it again")


@pytest.mark.parametrize("bias", [np.full((5, 128), np.nan, np.float32), np.zeros((5, 128))], ids=["nan", "float64"])
def test_weights_that_cannot_be_used(path, digits, bias):
    rewrite(path, **{"nets/dense1/bias": bias})
    assert "holds weights that are not finite float32: copy it again" in refused(load_pool, path, network(digits).init)


@pytest.mark.parametrize("name", ["digits", "mnist-fixed", "voc2007"])
def test_recipes_without_a_pool(name):
    message = refused(pretrain_for, get_recipe(name), num_nets=1, test_nets=1)
    assert message == (
        "this recipe starts from untrained networks: choose one with a source, or give --source and --pool"
    )


def test_a_pool_too_small_for_its_recipe_is_refused_before_it_is_trained(tmp_path):
    recipe = Recipe().replace(source="digits", pool=str(tmp_path / "pool"), init="random", valid_nets=3, model="linear")
    for count in (2, 3):
        assert refused(pretrain_for, recipe, num_nets=count, test_nets=1) == (
            f"--num-nets is {count}, and the recipe's --valid-nets 3 of them choose the iterate, which leaves none to distil "
            "with: give more"
        )
    assert list(tmp_path.iterdir()) == []
    options: dict[str, Any] = {"test_nets": 1, "training": Training(3, 8), "progress": False}
    assert len(pretrain_for(recipe, num_nets=4, **options).train["dense1"]["bias"]) == 4


def test_a_recipe_says_what_is_trained_on_what(tmp_path, digits):
    """Its source in the shape of its pictures, and not its data."""
    recipe = Recipe().replace(
        data="nothing", source="digits", pictures="14x14x3", model="linear", pool=str(tmp_path / "pool"), weights="he"
    )
    options: dict[str, Any] = {"training": Training(3, 8), "progress": False}
    pool = pretrain_for(recipe, num_nets=1, test_nets=1, **options)
    assert pool.train["dense1"]["kernel"].shape == (1, 14 * 14 * 3, 10)
    assert {name: pool.metadata[name] for name in ("data", "model", "weights")} == {
        "data": "digits",
        "model": "linear",
        "weights": "he",
    }
    message = refused(pretrain_for, recipe.replace(weights="xavier"), num_nets=1, test_nets=1, resume=True, **options)
    assert "weights he there, xavier now" in message
