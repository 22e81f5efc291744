"""ddjax.artifact: round trips, writing whole or not at all, hostile files, and an artefact used with NumPy alone."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import ddjax
from ddjax.core.distilled import DistilledData
from ddjax.errors import InputError
from ddjax.show import plots
from ddjax.storage import artifact, tensorfile

S, M, E, K = 2, 3, 4, 3


def make_distilled() -> Any:
    rng = np.random.RandomState(0)
    images, labels = rng.normal(size=(S, M, 4, 5, 1)), rng.dirichlet(np.ones(K), (S, M))
    parts: Any = images, labels, np.log(rng.uniform(0.01, 2, (E, S)))
    return DistilledData(*(part.astype(np.float32) for part in parts))


def make_params():
    rng = np.random.RandomState(1)
    return {
        "conv": {"kernel": rng.normal(size=(2, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)},
        "deep": {"er": {"scale": np.float32(2.5) * np.ones((1,), np.float32)}},
    }


METADATA = {"name": "test", "mean": [0.1307], "classes": ["zéro", "one\ntwo"], "recipe": {"steps": 2, "data": None}}


@pytest.fixture
def path(tmp_path):
    artifact.save_artifact(tmp_path / artifact.FILE_NAME, make_distilled(), METADATA, make_params())
    return tmp_path / artifact.FILE_NAME


@pytest.mark.parametrize("params", [make_params(), None], ids=["params", "no-params"])
def test_round_trip(tmp_path, params):
    artifact.save_artifact(tmp_path / "a.safetensors", make_distilled(), METADATA, params)
    loaded = artifact.load_artifact(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded.distilled.images, make_distilled().images)
    np.testing.assert_array_equal(loaded.distilled.labels, make_distilled().labels)
    np.testing.assert_allclose(loaded.distilled.log_lrs, make_distilled().log_lrs, rtol=1e-6, atol=1e-6)
    assert loaded.metadata == {"format_version": tensorfile.FORMAT_VERSION, **METADATA}
    assert str(jax.tree.structure(loaded.params)) == str(jax.tree.structure(params))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((loaded.distilled, loaded.params)))


def test_round_trip_of_device_arrays_in_any_memory_order(tmp_path):
    distilled = make_distilled()
    reordered = distilled._replace(images=np.asfortranarray(distilled.images))
    params = {"transposed": make_params()["conv"]["kernel"].T, "double": np.arange(3.0), "device": jnp.arange(4.0)}
    artifact.save_artifact(tmp_path / "a", jax.tree.map(lambda leaf: leaf, reordered), {}, params)
    loaded = artifact.load_artifact(tmp_path / "a")
    np.testing.assert_array_equal(loaded.distilled.images, distilled.images)
    assert loaded.params is not None
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_folder_stands_for_its_artefact(path):
    assert artifact.load_artifact(path.parent).metadata == artifact.load_artifact(path).metadata


def test_safetensors_alone_opens_it(path):
    tensors = safetensors.numpy.load_file(path)
    assert set(tensors) == {
        *("images", "labels", "learning_rates"),
        *("params/conv/kernel", "params/conv/bias", "params/deep/er/scale"),
    }
    np.testing.assert_array_equal(tensors["images"], make_distilled().images)
    np.testing.assert_allclose(tensors["learning_rates"], np.exp(make_distilled().log_lrs), rtol=1e-6)
    np.testing.assert_array_equal(tensors["params/conv/kernel"], make_params()["conv"]["kernel"])
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}


# Writing


@pytest.mark.parametrize("where", ["replace", "write", "serialise", "metadata"])
@pytest.mark.parametrize("existing", [True, False], ids=["over", "new"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, where, existing):
    path = tmp_path / artifact.FILE_NAME
    if existing:
        artifact.save_artifact(path, make_distilled(), METADATA)
    before = path.read_bytes() if existing else None

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    write_bytes = type(path).write_bytes

    def write_half(self, data):
        write_bytes(self, data[: len(data) // 2])
        fail()

    metadata: dict[str, Any] = {}
    match where:
        case "replace":
            monkeypatch.setattr(os, "replace", fail)
        case "write":
            monkeypatch.setattr(type(path), "write_bytes", write_half)
        case "serialise":
            monkeypatch.setattr(safetensors.numpy, "save", fail)
        case "metadata":
            metadata = {"not": {"json"}}
    with pytest.raises((OSError, TypeError)):
        artifact.save_artifact(path, make_distilled()._replace(images=np.zeros((S, M, 2), np.float32)), metadata)
    monkeypatch.undo()
    if existing:
        assert path.read_bytes() == before
        assert artifact.load_artifact(tmp_path).metadata == {"format_version": tensorfile.FORMAT_VERSION, **METADATA}
    else:
        with pytest.raises(InputError, match="no artefact"):
            artifact.load_artifact(tmp_path)


def test_other_users_may_read_it(tmp_path):
    before = os.umask(0o022)
    try:
        artifact.save_artifact(tmp_path / "a", make_distilled(), {})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


# Hostile files


def refused(path):
    with pytest.raises(InputError) as excinfo:
        artifact.load_artifact(path)
    message = str(excinfo.value)
    assert "\n" not in message and str(path) in message
    return message


def test_missing_files(tmp_path):
    assert "finished run" in refused(tmp_path / "nothing.safetensors")
    assert "finished run" in refused(tmp_path)


def test_truncated_at_any_length(path):
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 4, len(whole) - 1, *range(0, len(whole), 97)}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        assert "damaged" in refused(path)


def test_longer_than_it_says(path):
    path.write_bytes(path.read_bytes() + b"more")
    assert "damaged" in refused(path)


def test_random_bytes(path):
    rng = np.random.RandomState(0)
    for size in (1, 8, 100, 5000):
        path.write_bytes(rng.bytes(size))
        assert "damaged" in refused(path)
    for length in (2**63, 2**40, 10):  # headers of absurd or wrong length
        path.write_bytes(length.to_bytes(8, "little") + rng.bytes(100))
        assert "damaged" in refused(path)


def test_flipped_bytes_of_the_header_are_refused_or_harmless(path):
    whole = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    refusals = 0
    for position in range(0, header, 5):
        damaged = whole.copy()
        damaged[position] ^= 0x11
        path.write_bytes(damaged)
        try:
            loaded = artifact.load_artifact(path)
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
        else:
            assert loaded.distilled.images.size == S * M * 20
    assert refusals > 10


def test_types_that_numpy_lacks(path):
    header = {"__metadata__": {"ddjax": "{}"}, "images": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"0")
    assert "damaged" in refused(path)


def rewrite(path, header=None, **changes):
    """The artefact again with tensors changed (or, if None, left out) and perhaps another `ddjax` header."""
    tensors = safetensors.numpy.load_file(path)
    for name, value in changes.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value.astype(np.float32) if value.dtype == np.float64 else value
    if header is None:
        header = json.dumps({"format_version": tensorfile.FORMAT_VERSION})
    safetensors.numpy.save_file(tensors, path, metadata={"ddjax": header})


def test_foreign_safetensors(path):
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, path)
    assert "did not write" in refused(path)
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, path, metadata={"format": "pt"})
    assert "did not write" in refused(path)


@pytest.mark.parametrize("header", ["", "{", "[]", "[1]", "null", "3", '"text"', "{}", '{"name": "x"}', "[" * 100_000])
def test_wrong_headers(path, header):
    rewrite(path, header)
    assert "header" in refused(path)


@pytest.mark.parametrize("version", [0, 3, 99, "1.5", None, [1]])
def test_other_format_versions(path, version):
    rewrite(path, json.dumps({"format_version": version}))
    assert "format version" in refused(path)


def test_version_1_is_read_as_if_it_were_of_this_one():
    """A file that ddjax 0.1.0 wrote, beside its data, and what its header says of it."""
    folder = Path(__file__).parent / "artefacts"
    metadata = artifact.load_artifact(folder / "version1.safetensors").metadata
    assert metadata["transform"] == {"kind": "standardise", "mean": [1.2730540037155151], "std": [1.9393963813781738]}
    assert metadata["recipe"]["network"]["pool"] is None and metadata["recipe"]["inner"]["inner_lr"] == 0.1
    evaluation, num_test = ddjax.evaluate_artifact(folder / "version1.safetensors", data=str(folder / "own.npz"))
    assert num_test == 30
    assert evaluation.accuracy[0, -1] == pytest.approx(76.667, abs=0.01)


def test_a_header_without_what_is_needed(tmp_path):
    """It may be saved, and is refused by whoever needs more, in one line."""
    path = tmp_path / artifact.FILE_NAME
    artifact.save_artifact(path, make_distilled(), {"recipe": {}, "model": {}})
    lacks = "lacks {}: save it with that (see ddjax.save_artifact), or distill it again"
    with pytest.raises(InputError) as excinfo:
        ddjax.evaluate_artifact(path)
    assert str(excinfo.value) == f"{path}: the 'ddjax' header " + lacks.format("transform")
    with pytest.raises(InputError) as excinfo:
        plots.plot_run(artifact.load_artifact(path), [], tmp_path)
    assert str(excinfo.value).endswith(lacks.format("transform, class_names"))


@pytest.mark.parametrize("part", ["images", "labels", "log_lrs"])
def test_what_nothing_would_read_is_not_saved(tmp_path, part):
    distilled = make_distilled()
    huge = distilled._replace(**{part: np.full_like(getattr(distilled, part), 1e3 if part == "log_lrs" else np.nan)})
    with (
        pytest.raises(InputError, match="values that are not finite float32, or learning rates"),
        np.errstate(over="ignore"),
    ):
        artifact.save_artifact(tmp_path / artifact.FILE_NAME, huge, METADATA)
    assert list(tmp_path.iterdir()) == []


IMAGES, LABELS, LRS = np.zeros((S, M, 4)), np.ones((S, M, K)), np.ones((E, S))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "lacks the tensors images"),
        ({"labels": None, "learning_rates": None}, "lacks the tensors labels, learning_rates"),
        ({"images": np.zeros((S + 1, M, 4))}, "inconsistent"),
        ({"images": np.zeros((S, M + 1, 4))}, "inconsistent"),
        ({"images": np.zeros((S, M))}, "inconsistent"),
        ({"images": np.zeros(())}, "inconsistent"),
        ({"labels": np.ones((S, M))}, "inconsistent"),
        ({"labels": np.ones((M, S, K))}, "inconsistent"),
        ({"learning_rates": np.ones((E, S + 1))}, "inconsistent"),
        ({"learning_rates": np.ones(S)}, "inconsistent"),
        ({"images": np.full((S, M, 4), np.nan)}, "not finite"),
        ({"labels": np.full((S, M, K), np.inf)}, "not finite"),
        ({"learning_rates": np.full((E, S), np.nan)}, "not finite"),
        ({"learning_rates": -LRS}, "not above zero"),
        ({"learning_rates": 0 * LRS}, "not above zero"),
    ],
)
def test_inconsistent_tensors(path, changes, message):
    rewrite(path, **changes)
    assert message in refused(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((0, M, 4)), "labels": np.zeros((0, M, K)), "learning_rates": np.zeros((E, 0))},
        {"images": np.zeros((S, 0, 4)), "labels": np.zeros((S, 0, K))},
        {"learning_rates": np.zeros((0, S))},
        {"images": np.zeros((S, M, 4), bool)},
        {"images": np.zeros((S, M, 4), np.float16)},
        {"params/conv": np.zeros(3)},
        {"params": np.zeros(3)},
        {"params/conv/kernel": np.full((2, 3), np.nan)},
    ],
    ids=["no-steps", "no-images", "no-epochs", "bool", "float16", "leaf-and-folder", "leaf-at-the-root", "nan-weights"],
)
def test_tensors_that_cannot_be_used(path, changes):
    rewrite(path, **changes)
    refused(path)


# The documented use of an artefact, with nothing of ddjax and nothing of JAX


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def numpy_mlp(params, x):
    hidden = np.maximum(x @ params["dense1/kernel"] + params["dense1/bias"], 0)
    return hidden, hidden @ params["dense2/kernel"] + params["dense2/bias"]


def numpy_gradient(params, x, targets):
    """Of the mean over the batch of the cross-entropy."""
    hidden, logits = numpy_mlp(params, x)
    error = (softmax(logits) * targets.sum(axis=1, keepdims=True) - targets) / len(x)
    below = error @ params["dense2/kernel"].T * (hidden > 0)
    return {
        "dense1/kernel": x.T @ below,
        "dense1/bias": below.sum(axis=0),
        "dense2/kernel": hidden.T @ error,
        "dense2/bias": error.sum(axis=0),
    }


def numpy_accuracy(path, inputs, labels):
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["ddjax"])
    tensors = safetensors.numpy.load_file(path)
    theta = {name.removeprefix("params/"): value for name, value in tensors.items() if name.startswith("params/")}
    lrs = tensors["learning_rates"]
    for e in range(lrs.shape[0]):
        for s in range(lrs.shape[1]):
            x = tensors["images"][s].reshape(len(tensors["images"][s]), -1)
            gradient = numpy_gradient(theta, x, tensors["labels"][s])
            theta = {name: theta[name] - lrs[e, s] * gradient[name] for name in theta}
    x = (inputs / 255 - np.array(header["transform"]["mean"])) / np.array(header["transform"]["std"])
    logits = numpy_mlp(theta, x.reshape(len(x), -1))[1]
    return 100 * np.mean(logits.argmax(axis=1) == labels), header


def test_numpy_alone_repeats_the_reported_accuracy(tmp_path):
    """With learned labels, which are logits while they are learned and probabilities in the file."""
    recipe = ddjax.Recipe().replace(
        data="digits",
        model="mlp",
        steps=2,
        epochs=2,
        learn_labels=True,
        outer_steps=60,
        eval_every=30,
        batch_size=128,
        lr=0.1,
    )
    summary = ddjax.distill(recipe, tmp_path / "run", compare=False, progress=False).summary
    dataset = ddjax.load_dataset("digits")
    accuracy, header = numpy_accuracy(tmp_path / "run" / artifact.FILE_NAME, dataset.x_test, dataset.y_test)
    assert accuracy > 60
    assert accuracy == pytest.approx(header["accuracy"]["accuracy_mean"], abs=0.2)
    assert accuracy == pytest.approx(summary.distilled["accuracy_mean"], abs=0.2)
    evaluation, num_test = ddjax.evaluate_artifact(tmp_path / "run")
    assert num_test == len(dataset.y_test)
    assert accuracy == pytest.approx(evaluation.accuracy[0, -1], abs=0.2)
    assert evaluation.accuracy[0, 0] < 40  # the images did the work, not the initial weights
