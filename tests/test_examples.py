"""examples/: networks built again and trained from a file alone, in PyTorch and in plain JAX."""

import importlib
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import ddjax
from ddjax.models import build_model, describe_model
from ddjax.storage.tensorfile import named

EXAMPLES = Path(__file__).parents[1] / "examples"
WAYS = ("train_in_jax", "train_in_pytorch")
NETWORKS = {
    "LeNet, 28x28": ({"model": "lenet"}, (28, 28, 1)),
    "LeNet, 32x32": ({"model": "lenet"}, (32, 32, 3)),
    "LeNet, odd": ({"model": "lenet"}, (33, 35, 3)),
    "AlexCifarNet": ({"model": "alexcifar"}, (32, 32, 3)),
    "AlexCifarNet, odd": ({"model": "alexcifar"}, (13, 18, 3)),
    "AlexNet": ({"model": "alexnet"}, (67, 63, 3)),
    "ConvNet, 28x28": ({"model": "convnet", "width": 5}, (28, 28, 1)),
    "ConvNet, odd": ({"model": "convnet", "width": 4, "depth": 2}, (13, 11, 3)),
    "MLP of pictures": ({"model": "mlp"}, (4, 5, 2)),
    "linear, sequences": ({"model": "linear"}, (3, 7)),
}


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def example(name, monkeypatch):
    if name == "train_in_pytorch":
        pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


def to_arrays(name, tree):
    if name == "train_in_pytorch":
        import torch

        return jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), tree)
    return tree


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs on the built-in digits, for one network and for fresh ones, and the file of the digits' test part."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"model": "mlp", "steps": 2, "epochs": 2, "outer_steps": 30, "eval_every": 10, "batch_size": 32}
    recipe = ddjax.get_recipe("digits").replace(**small, lr=0.2, lr_log_lrs=0.1, inner_lr=0.02, gate_width=0.0)
    ddjax.distill(recipe, folder / "fixed", compare=False, progress=False)
    fresh = recipe.replace(init="random", num_nets=2, valid_nets=2, test_nets=20, weights="he")
    ddjax.distill(fresh, folder / "random", compare=False, progress=False)
    digits = ddjax.load_dataset("digits")
    np.savez(folder / "digits.npz", x_test=digits.x_test, y_test=digits.y_test)
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_layers_of_the_header_are_the_network(network, way, monkeypatch):
    settings, shape = NETWORKS[network]
    told = ddjax.get_recipe("digits").replace(**settings).network
    options = {name: value for name, value in settings.items() if name != "model"}
    model = build_model(settings["model"], shape, 7, weights="he", **options)
    weights = {
        name.removeprefix("params/"): leaf for name, leaf in named("params", model.init(jax.random.key(0))).items()
    }
    weights = {name: leaf + 0.1 * (not name.endswith("kernel")) for name, leaf in weights.items()}
    inputs = np.random.RandomState(1).normal(0.3, 1, (3, *shape)).astype(np.float32)
    tree = jax.tree.unflatten(jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0))), list(weights.values()))
    found = example(way, monkeypatch).network(
        describe_model(told, shape, 7), to_arrays(way, weights), to_arrays(way, inputs)
    )
    wanted = np.asarray(model.apply(tree, inputs))
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("way", WAYS)
def test_the_fixed_network_does_as_well_there(way, runs, monkeypatch, capsys):
    words = [way, str(runs / "fixed" / "distilled.safetensors"), "--test", str(runs / "digits.npz")]
    monkeypatch.setattr(sys, "argv", words)
    example(way, monkeypatch).main()
    said = capsys.readouterr().out
    before, after = (float(figure) for figure in re.findall(r"(?:before|after) ([\d.]+)", said))
    accuracy = ddjax.evaluate_artifact(runs / "fixed")[0].accuracy
    assert said.startswith("400 test examples, 1 network\n")
    assert (before, after) == (pytest.approx(accuracy[0, 0], abs=0.26), pytest.approx(accuracy[0, -1], abs=0.26))
    assert after > before + 20


@pytest.mark.parametrize("way", WAYS)
def test_fresh_networks_do_as_well_there(way, runs, monkeypatch, capsys):
    words = [way, str(runs / "random" / "distilled.safetensors"), "--test", str(runs / "digits.npz")]
    monkeypatch.setattr(sys, "argv", [*words, "--networks", "20"])
    example(way, monkeypatch).main()
    said = capsys.readouterr().out
    after, deviation = map(float, re.search(r"after ([\d.]+) ± ([\d.]+)", said).groups())
    ours = ddjax.evaluate_artifact(runs / "random")[0].accuracy[:, -1]
    noise = np.hypot(ours.std(), deviation) / np.sqrt(20)
    assert said.startswith("400 test examples, 20 networks\n") and abs(after - ours.mean()) < 4 * noise < 15


@pytest.mark.parametrize("way", WAYS)
def test_fresh_weights_have_the_variance_of_the_header(way, monkeypatch):
    draw = example(way, monkeypatch).fresh_weights
    if way == "train_in_pytorch":
        import torch

        source = torch.Generator().manual_seed(0)
    else:
        source = jax.random.key(0)
    shapes = {"a/kernel": [3, 3, 20, 40], "b/kernel": [100, 50], "n/scale": [4], "n/bias": [4]}
    for name, variances in {"xavier": (2 / 540, 2 / 150), "he": (2 / 180, 2 / 100)}.items():
        weights = {k: np.asarray(leaf) for k, leaf in draw(shapes, name, source).items()}
        np.testing.assert_allclose([weights["a/kernel"].var(), weights["b/kernel"].var()], variances, rtol=0.08)
        assert weights["n/scale"].tolist() == [1] * 4 and weights["n/bias"].tolist() == [0] * 4


def test_networks_of_ones_own_have_no_layers():
    assert describe_model(ddjax.get_recipe("digits").replace(model="net.py:Net").network, (4, 4, 1), 3) is None
