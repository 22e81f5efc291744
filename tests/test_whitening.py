"""ZCA whitening: its closed form, its inverse, its way into the file and out of it, and where it makes no sense; and the
axes of the same covariance, which the outer optimiser may move images along."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import in_process

import ddjax
from ddjax import InputError
from ddjax.data import Dataset, Standardise, Whiten, principal_axes, transform_from_json, whitened

SHAPE, SIZE = (4, 3, 2), 24
FIRST = Standardise.by([0.4, 0.5], [0.2, 0.3])


def pictures(count, seed=0):
    """uint8 [count, 4, 3, 2] whose neighbours have much in common."""
    rng = np.random.RandomState(seed)
    mixed = rng.normal(size=(count, SIZE)) @ np.random.RandomState(9).normal(size=(SIZE, SIZE))
    return np.clip(128 + 12 * mixed, 0, 255).astype(np.uint8).reshape(count, *SHAPE)


def make_dataset():
    labels = np.arange(600, dtype=np.int32) % 3
    names = ("a", "b", "c")
    return Dataset("toy", pictures(600), labels, pictures(60, 1), labels[:60], FIRST, names, "toy")


@pytest.mark.parametrize("regulariser", [0.1, 1e-6])
def test_the_covariance_is_taken_away(regulariser):
    """C becomes C (C + regulariser)^-1, all but the identity without one; the matrix is symmetric, as ZCA's is."""
    inputs = pictures(6000)
    transform = Whiten.fitted_to(inputs, FIRST, regulariser)
    plain = np.asarray(FIRST(inputs), np.float64).reshape(len(inputs), SIZE)
    white = transform(inputs).reshape(len(inputs), SIZE)
    assert transform(inputs).shape == inputs.shape and transform(inputs).dtype == np.float32
    before = np.cov(plain.T, bias=True)
    expected = before @ np.linalg.inv(before + regulariser * np.eye(SIZE))
    np.testing.assert_allclose(np.cov(white.T, bias=True), expected, atol=1e-3)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(transform.matrix, transform.matrix.T, atol=1e-5)
    if regulariser < 1e-3:
        np.testing.assert_allclose(expected, np.eye(SIZE), atol=1e-3)


def test_principal_axes_are_the_spread_of_the_examples():
    """Orthogonal, A A^T is their covariance in units of its mean variance, and signs do not depend on the solver's."""
    dataset = make_dataset()
    axes = principal_axes(dataset.x_train, FIRST).astype(np.float64)
    plain = np.asarray(FIRST(dataset.x_train), np.float64).reshape(600, SIZE)
    covariance = np.cov(plain.T, bias=True)
    np.testing.assert_allclose(axes @ axes.T, covariance / np.mean(np.diag(covariance)), atol=1e-5)
    inner = axes.T @ axes
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-5)
    assert np.mean(axes**2) * SIZE == pytest.approx(1, rel=1e-5)
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(SIZE)]
    assert np.all(largest > 0)


def test_principal_axes_of_whitened_examples_are_those_of_before():
    """A A^T is the covariance of what is whitened, in the components of what goes before, and the last bits of the pictures
    do not turn them: without a regulariser to speak of all directions spread alike, and any axes would be principal ones."""
    dataset = whitened(make_dataset(), 1e-3)
    axes = principal_axes(dataset.x_train, dataset.transform).astype(np.float64)
    white = dataset.transform(dataset.x_train).astype(np.float64).reshape(600, SIZE)
    covariance = np.cov(white.T, bias=True)
    np.testing.assert_allclose(axes @ axes.T, covariance / np.mean(np.diag(covariance)), atol=1e-3)
    plain = principal_axes(dataset.x_train, FIRST).astype(np.float64)
    for found, before in zip(axes.T, plain.T, strict=True):
        np.testing.assert_allclose(found / np.linalg.norm(found), before / np.linalg.norm(before), atol=1e-5)


def test_examples_that_are_all_alike_have_no_axes():
    assert not np.any(principal_axes(np.zeros((600, *SHAPE), np.float32), Standardise.by([0], [1])))


def test_the_inverse_gives_the_pictures_back_in_numpy_and_in_jax():
    transform, inputs = whitened(make_dataset(), 0.1).transform, pictures(10, 3)
    np.testing.assert_allclose(transform.inverse(transform(inputs)), inputs / 255, atol=1e-5)
    on_device = jax.tree.map(jnp.asarray, transform)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = jax.jit(lambda transform, x: transform(x))(on_device, jnp.asarray(inputs))
        back = jax.jit(lambda transform, x: transform.inverse(x))(on_device, found)
    np.testing.assert_allclose(found, transform(inputs), atol=1e-4)
    np.testing.assert_allclose(back, inputs / 255, atol=1e-4)


def test_it_comes_out_of_json_as_it_went_in():
    transform = whitened(make_dataset(), 0.1).transform
    again = transform_from_json(json.loads(json.dumps(transform.to_json())))
    assert isinstance(again, Whiten)
    lower = np.tril(transform.matrix)
    np.testing.assert_array_equal(again.matrix, lower + np.tril(lower, -1).T)
    np.testing.assert_array_equal(again.centre, transform.centre)
    np.testing.assert_array_equal(again.first.mean, FIRST.mean)
    np.testing.assert_array_equal(again.first.std, FIRST.std)


@pytest.mark.parametrize("name, damage", [("matrix", lambda text: text[:-8]), ("centre", lambda text: "!" + text)])
def test_a_damaged_one_is_refused(name, damage):
    saved = whitened(make_dataset(), 0.1).transform.to_json()
    with pytest.raises(InputError, match="the transform 'zca' is damaged"):
        transform_from_json({**saved, name: damage(saved[name])})


def test_a_run_on_whitened_pictures_stands_alone(tmp_path, monkeypatch):
    """Its file gives its figures, examples read it without ddjax, and pictures of it are drawn with it undone."""
    small = {
        "model": "mlp",
        "outer_steps": 20,
        "eval_every": 10,
        "batch_size": 32,
        "gate_width": 0.0,
        "pictures": "8x8x1",
    }
    recipe = ddjax.get_recipe("digits").replace(**small, zca=0.1)
    done = ddjax.distill(recipe, tmp_path / "run", compare=False, progress=False)
    evaluation, _ = ddjax.evaluate_artifact(tmp_path / "run")
    assert evaluation.accuracy[0, -1] == pytest.approx(done.summary.distilled["accuracy_mean"], abs=1e-4)
    header = done.artifact.metadata["transform"]
    assert header["kind"] == "zca" and len(transform_from_json(header).centre) == 64
    digits = ddjax.load_dataset("digits", pictures="8x8x1")
    expected = whitened(digits, 0.1).transform(digits.x_test)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    for name in ("train_in_jax", "train_in_pytorch"):
        if name == "train_in_pytorch":
            pytest.importorskip("torch")
        found = importlib.import_module(name).transformed(digits.x_test, header)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    shown = np.asarray(transform_from_json(header).inverse(done.artifact.distilled.images[0]))
    white = transform_from_json(header)(shown)  # floats, which are not divided by 255
    np.testing.assert_allclose(white, done.artifact.distilled.images[0], atol=1e-3)
    page = in_process("report", tmp_path / "run")
    assert page.status == 0 and len((tmp_path / "run" / "report.html").read_text().split("characters)")) > 1


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"zca": 0.0}, "--zca is 0.0: give a finite number above zero"),
        ({"zca": 0.1, "pool": "pool.safetensors"}, "--pool and --checkpoint have not seen it"),
    ],
)
def test_settings_that_make_no_sense_with_it(changes, says):
    with pytest.raises(InputError, match=says):
        ddjax.get_recipe("digits").replace(**changes).validate()


def test_examples_that_cannot_be_whitened():
    toy, zeros = make_dataset(), np.zeros((6, 70, 60, 3), np.uint8)
    vectors = ddjax.make_dataset((toy.x_train.reshape(600, -1), toy.y_train), (toy.x_test.reshape(60, -1), toy.y_test))
    with pytest.raises(InputError, match=r"--zca is for pictures .* have shape \[24\]: leave it out"):
        whitened(vectors, 0.1)
    large = Dataset("large", zeros, toy.y_train[:6], zeros, toy.y_test[:6], FIRST, toy.class_names, "large")
    with pytest.raises(InputError, match="a matrix of 12600 x 12600"):
        whitened(large, 0.1)
    with pytest.raises(InputError, match="a transform of its own"):
        whitened(whitened(toy, 0.1), 0.1)


def test_axes_of_too_many_values_are_refused_before_anything_is_written(tmp_path):
    x, y = np.zeros((6, 20_000), np.float32), np.arange(6) % 3
    np.savez(tmp_path / "wide.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    flags = ("--data", tmp_path / "wide.npz", "--model", "linear", "--basis", "components", "--start", "real")
    done = in_process("distill", "digits", *flags, "--out", tmp_path / "run")
    assert done.status == 2 and not (tmp_path / "run").exists()
    assert done.err.splitlines()[-1].endswith(
        "--basis components would need a matrix of 20000 x 20000 for examples [20000]: leave it out"
    )
