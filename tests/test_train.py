"""`ddjax train`: a network trained on a saved artefact, the documented way and by ordinary minibatches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import ddjax
from ddjax import InputError
from ddjax.core.losses import of_network
from ddjax.models import build_model
from ddjax.storage.tensorfile import named


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run on the built-in digits: two steps, two epochs, one fixed network."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    small = {"model": "mlp", "steps": 2, "epochs": 2, "outer_steps": 30, "eval_every": 10, "batch_size": 32}
    recipe = ddjax.get_recipe("digits").replace(**small, lr=0.2, lr_log_lrs=0.1, inner_lr=0.02, gate_width=0.0)
    ddjax.distill(recipe, folder, compare=False, progress=False)
    return folder


def test_the_documented_way_gives_the_figures_of_the_artefact(run, tmp_path):
    evaluation, num_test = ddjax.evaluate_artifact(run)
    trained = ddjax.train_artifact(run, tmp_path / "weights.safetensors")
    assert trained.accuracy == pytest.approx(evaluation.accuracy[0, -1], abs=0.26)
    assert trained.accuracy_before == pytest.approx(evaluation.accuracy[0, 0], abs=0.26)
    assert trained.num_test == num_test == 400
    # By the steps that README prints, in plain JAX, from the file alone.
    artifact = ddjax.load_artifact(run)
    loss = of_network(build_model("mlp", (28, 28, 1), 10).apply)
    weights = jax.tree.map(jnp.asarray, artifact.params)
    for e in range(2):
        for s in range(2):
            gradient = jax.grad(loss)(weights, artifact.distilled.images[s], artifact.distilled.labels[s])
            lr = np.exp(artifact.distilled.log_lrs[e, s])
            weights = jax.tree.map(lambda w, g, lr=lr: w - lr * g, weights, gradient)
    saved = load_file(tmp_path / "weights.safetensors")
    for name, expected in named("params", weights).items():
        np.testing.assert_allclose(saved[name], expected, rtol=1e-4, atol=1e-6)
    with safe_open(tmp_path / "weights.safetensors", framework="numpy") as file:
        told = json.loads(file.metadata()["ddjax"])["trained"]
    assert told == {"way": "documented", "seed": 0, "fresh": False, "accuracy": trained.accuracy}


@pytest.mark.parametrize(("way", "update"), [("sgd", lambda g: g), ("adam", jnp.sign)])
def test_minibatches_are_ordinary_training(run, way, update):
    """One step on all examples at once; the first of Adam's is a step of the learning rate along each sign."""
    artifact = ddjax.load_artifact(run)
    trained = ddjax.train_artifact(run, way=way, epochs=1, lr=1e-3, batch_size=20)
    images, labels = (leaf.reshape(20, *leaf.shape[2:]) for leaf in artifact.distilled[:2])
    gradient = jax.grad(of_network(build_model("mlp", (28, 28, 1), 10).apply))(artifact.params, images, labels)

    def compare(found, start, g):
        large = np.abs(g) > 1e-4  # Adam's epsilon counts where the gradient is next to nothing
        np.testing.assert_allclose(found[large], (start - 1e-3 * update(g))[large], rtol=1e-4, atol=1e-6)

    jax.tree.map(compare, trained.params, artifact.params, gradient)


def test_minibatches_are_shuffled_and_their_number_is_that_of_the_epochs(run):
    settings = {"way": "sgd", "lr": 0.02, "batch_size": 7}
    one, other = (ddjax.train_artifact(run, epochs=1, seed=seed, **settings) for seed in (0, 1))
    again, longer = ddjax.train_artifact(run, epochs=1, **settings), ddjax.train_artifact(run, epochs=9, **settings)
    first = jax.tree.leaves(one.params)[-1]
    np.testing.assert_array_equal(first, jax.tree.leaves(again.params)[-1])
    assert np.any(first != jax.tree.leaves(other.params)[-1])
    start = jax.tree.leaves(ddjax.load_artifact(run).params)[-1]
    assert np.linalg.norm(jax.tree.leaves(longer.params)[-1] - start) > 2 * np.linalg.norm(first - start)


@pytest.mark.parametrize("place", ["missing/weights.safetensors", "file/weights.safetensors"])
def test_a_place_that_cannot_be_written_is_found_before_anything_is_read(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"weights.safetensors cannot be written: give an --out in a folder that can"):
        ddjax.train_artifact(tmp_path / "no artefact", tmp_path / place)


def test_another_network_and_fresh_weights(run):
    other = ddjax.train_artifact(run, model="linear")
    assert {leaf.shape for leaf in jax.tree.leaves(other.params)} == {(784, 10), (10,)}
    one, two = (ddjax.train_artifact(run, fresh=True, seed=seed) for seed in (0, 1))
    fixed = ddjax.train_artifact(run)
    kernels = [jax.tree.leaves(trained.params)[1] for trained in (one, two, fixed)]
    assert all(np.any(a != b) for a, b in zip(kernels, kernels[1:] + kernels[:1], strict=True))
    assert one.accuracy < fixed.accuracy  # they were made for one network


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"--epochs is 0: give a number above zero"),
        ({"way": "sgd", "lr": -1.0}, r"--lr is -1.0: give a number above zero"),
        ({"model": "nothing"}, r"nothing"),
        ({"model": "convnet", "data": "nothing.npz"}, r"there is no such file"),
    ],
)
def test_wrong_settings_are_one_line(run, tmp_path, settings, message):
    out = tmp_path / "weights.safetensors"
    with pytest.raises(InputError, match=message) as excinfo:
        ddjax.train_artifact(run, out, **settings)
    assert "\n" not in str(excinfo.value) and not out.exists()


def test_weights_that_are_there_are_not_overwritten(run, tmp_path):
    out = tmp_path / "weights.safetensors"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists: give another --out, or remove it"):
        ddjax.train_artifact(run, out)
    assert out.read_text() == "mine"
