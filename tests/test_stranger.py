"""Artefacts from strangers: whatever a header says, one line, before memory or time is spent on it."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open
from test_cli import in_process

import ddjax
from ddjax.errors import InputError
from ddjax.experiment import replay
from ddjax.show import plots, report
from ddjax.show.export import export

SMALL = {"model": "linear", "gate_width": 0.0, "outer_steps": 2, "eval_every": 1, "batch_size": 16, "init": "random"}


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    """An artefact that a stranger may change."""
    folder = tmp_path_factory.mktemp("honest") / "run"
    recipe = ddjax.get_recipe("digits").replace(**SMALL, valid_nets=1, test_nets=2)
    ddjax.distill(recipe, folder, name="digits", compare=False, progress=False)
    return folder / "distilled.safetensors"


def changed(honest: Path, folder: Path, path: str = "", value: object = None, tensors: dict | None = None) -> Path:
    """The artefact with another value at a path of its header, such as recipe/data/data, and with other tensors."""
    with safe_open(honest, framework="numpy") as file:
        header = json.loads(file.metadata()["ddjax"])
    node = header
    *parents, last = path.split("/")
    for name in parents:
        node = node[name]
    if path:
        node[last] = value
    out = folder / "strange.safetensors"
    held = safetensors.numpy.load_file(honest)
    safetensors.numpy.save_file({**held, **(tensors or {})}, out, metadata={"ddjax": json.dumps(header)})
    return out


def test_what_is_not_changed_is_evaluated(honest, tmp_path):
    same = changed(honest, tmp_path)
    expected = ddjax.evaluate_artifact(honest)[0].accuracy
    np.testing.assert_array_equal(ddjax.evaluate_artifact(same)[0].accuracy, expected)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model/input_shape", [10**9]),
        ("model/input_shape", [0]),
        ("model/input_shape", [28, 28]),
        ("model/input_shape", "many"),
        ("model/input_shape", None),
        ("model/num_classes", 10**9),
        ("model/num_classes", float("inf")),
        ("model/num_classes", float("nan")),
        ("model/num_classes", [10]),
        ("recipe/data/pictures", "9999x9999x3"),
        ("recipe/data/pictures", "x" * 5000),
        ("recipe/inner/steps", 4000),
        ("recipe/inner/epochs", 10**12),
        ("recipe/report/test_nets", 10**9),
        ("recipe/report/valid_nets", 10**9),
        ("recipe/seed", -1),
        ("transform/mean", [10**400]),
        ("transform/mean", [float("nan")]),
        ("transform/std", [0.0]),
        ("transform/std", [-1.0]),
        ("transform/std", [1.0] * 10**5),
        ("recipe/data/data", "~nosuchuser/x.npz"),
        ("recipe/data/data", "x" * 5000),
        ("recipe/data/data", "x" * 5000 + ".npz"),
        ("recipe/data/data", "a\0b.npz"),
        ("recipe/data/data", 7),
        ("recipe/network/model", "no such network"),
        ("recipe/network/model", "~nosuchuser/x.py:Net"),
        ("recipe/network/pool", "~nosuchuser/pool.safetensors"),
        ("recipe", []),
        ("recipe", {"inner": {"steps": 1, "inner": 3}}),
        ("format_version", "\x1b[2J" + "9" * 1000),
        ("format_version", True),
        ("format_version", 2.0),
        ("transform/std", [1e-45]),
        ("transform/mean", [1e38]),
        ("recipe/inner/weight_decay", 1e300),
        ("recipe/outer/lr", 1e-45),
        ("recipe/outer/b1", 1 - 1e-12),
        ("recipe/outer/batch_size", 10**20),
        ("recipe/data/poison", "0:" + "9" * 5000),
        ("model/num_classes", "10"),
        ("model/num_classes", 10.0),
        ("model/input_shape", [28.0, 28, 1]),
        ("model/name", []),
        ("class_names", 3),
        ("class_names", ["a"]),
        ("class_names", ["a"] * 1000),
        ("class_names", ["\ud800"] * 10),
        ("pool", 3),
        ("pool", {"digest": 3}),
        ("accuracy", {"accuracy_mean": 3.0}),
        ("name", ["x"] * 3),
        ("data_digest", 3),
        ("more", json.loads("[" * 60 + "]" * 60)),
    ],
)
def test_a_header_that_makes_no_sense_is_one_line(honest, tmp_path, path, value):
    strange = changed(honest, tmp_path, path, value)
    with pytest.raises(InputError) as excinfo:
        ddjax.evaluate_artifact(strange)
    message = str(excinfo.value)
    assert message.isprintable() and len(message) <= 2000, message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("class_names", 3),
        ("class_names", ["a"]),
        ("class_names", {"a": 1}),
        ("transform/std", ["x"]),
        ("transform/std", [1e-45]),
        ("transform", {"kind": "standardise", "mean": [0.0] * 2, "std": [1.0] * 2}),
        ("recipe", 3),
        ("recipe/data", 3),
        ("recipe/inner/inner_lr", "x"),
        ("recipe/inner/inner_lr", float("nan")),
        ("feature_names", 3),
        ("accuracy", 3),
        ("model", 3),
        ("pool", 3),
    ],
)
def test_a_header_that_makes_no_sense_is_not_drawn(honest, tmp_path, path, value):
    loaded = ddjax.load_artifact(changed(honest, tmp_path, path, value))
    for draw in (
        lambda: plots.plot_run(loaded, [], tmp_path / "pictures"),
        lambda: report.page(report.Told(loaded, "strange")),
        lambda: export(loaded, tmp_path / "out.npz", "npz"),
    ):
        with pytest.raises(InputError) as excinfo:
            draw()
        assert str(excinfo.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["strange.safetensors"]


def test_class_numbers_have_few_digits():
    """Python itself counts no more than 4300, and says so in a traceback."""
    for poison in ("0:" + "9" * 5000, "1" * 5000 + ":2"):
        with pytest.raises(InputError, match="give two class numbers as K:T"):
            ddjax.Recipe().replace(poison=poison).validate()


def test_class_names_are_text_everywhere(honest, tmp_path):
    names = ["$x$", "\n\x1b[2J", "../../evil", "y" * 500, "<blink>", "", "é", "%s", "{0}", "\0"]
    loaded = ddjax.load_artifact(changed(honest, tmp_path, "class_names", names))
    plots.plot_images(loaded, tmp_path / "images.png")
    assert "<blink>" not in report.page(report.Told(loaded, "strange"))
    pictures = [path.name for path in export(loaded, tmp_path / "png", "png").iterdir()]
    assert len(pictures) == 10 and all(len(name) < 120 for name in pictures)


def test_a_network_that_is_never_asked_for_is_not_drawn(honest, tmp_path):
    """Those that chose the iterate: a header may have made very many."""
    many = changed(honest, tmp_path, "recipe/report/valid_nets", 9_999)
    opened = replay.reopen(many)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(opened.starts.valid)} == {1}


@pytest.mark.parametrize("tensors", [{"images": 3e38}, {"learning_rates": 3e38}])
def test_scores_that_are_not_finite_are_none(honest, tmp_path, tensors):
    """And no NaN is printed, which is no JSON."""
    held = safetensors.numpy.load_file(honest)
    strange = changed(honest, tmp_path, tensors={n: np.full_like(held[n], v) for n, v in tensors.items()})
    message = "of 2 networks 2 have a loss that is not finite: its learning rates are too large"
    with pytest.raises(ddjax.NonFiniteError, match=message):
        ddjax.evaluate_artifact(strange)
    with pytest.raises(ddjax.NonFiniteError, match="of 1 networks 1 have a loss"):
        ddjax.train_artifact(strange, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    told = in_process("evaluate", strange, "--json")
    assert (told.status, told.out, told.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "tensors",
    [
        {"learning_rates": np.full((4000, 1), 0.1, np.float32)},
        {"learning_rates": np.full((1, 4000), 0.1, np.float32)},
        {"labels": np.full((1, 10, 10**5), 1e-5, np.float32)},
        {"/".join(["params", *"a" * 20_000]): np.zeros(1, np.float32)},
        {"params": np.zeros(1, np.float32)},
    ],
)
def test_tensors_that_do_not_fit_the_header_are_one_line(honest, tmp_path, tensors):
    with pytest.raises(InputError) as excinfo:
        ddjax.evaluate_artifact(changed(honest, tmp_path, tensors=tensors))
    assert str(excinfo.value).isprintable()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match="it is not an .npz file, nor any file"):
        ddjax.load_dataset(tmp_path / "pipe.npz")


def test_a_small_file_does_not_become_gigabytes(tmp_path):
    path = tmp_path / "dense.npz"
    zeros = np.zeros((30_000, 100, 100, 1), np.uint8)
    y = np.arange(30_000) % 2
    np.savez_compressed(path, x_train=zeros, y_train=y, x_test=zeros[:2], y_test=y[:2])
    with pytest.raises(InputError, match=r"0\.\d MB hold arrays of 0\.3 GB: save it with numpy\.savez, uncompressed"):
        ddjax.load_dataset(path)


# What an artefact may have opened


def save_own(path: Path, turn: int = 0) -> Path:
    draw = np.random.RandomState(0)
    y = np.arange(120) % 3
    x = (draw.normal(0, 1, (3, 6))[y] + draw.normal(0, 1, (120, 6))).astype(np.float32)
    y = (y + turn) % 3
    np.savez(path, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return path


NET = """
import pathlib
import flax.linen as nn

pathlib.Path("ran").touch()


def Net(input_shape, num_classes):
    return nn.Dense(num_classes)
"""


def distil_own(folder: Path, **changes) -> Path:
    recipe = ddjax.get_recipe("digits").replace(**{**SMALL, "init": "fixed", "data": "own.npz", **changes})
    ddjax.distill(recipe, folder / "run", compare=False, progress=False)
    return folder / "run"


def test_files_are_opened_where_an_artefact_was_made_or_as_they_are_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = save_own(tmp_path / "own.npz")
    run = distil_own(tmp_path)
    expected = ddjax.evaluate_artifact(run)[0].accuracy  # in the folder of its own run
    alone = tmp_path / "got" / "distilled.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((run / alone.name).read_bytes())
    with pytest.raises(InputError, match="distilled from a file or folder, 'own.npz': say where that is with --data"):
        ddjax.evaluate_artifact(alone)
    np.testing.assert_array_equal(ddjax.evaluate_artifact(alone, data=str(own))[0].accuracy, expected)
    (alone.parent / "config.json").write_text((run / "config.json").read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match="say where that is with --data"):  # a run, but not the artefact's
        ddjax.evaluate_artifact(alone)


def test_data_that_are_not_those_are_noticed(tmp_path, monkeypatch):
    """Their labels turned: the figures would be of nothing."""
    monkeypatch.chdir(tmp_path)
    save_own(tmp_path / "own.npz")
    run = distil_own(tmp_path)
    save_own(tmp_path / "own.npz", turn=1)
    with pytest.raises(InputError, match="distilled from other data of this name .*: to use these all the same"):
        ddjax.evaluate_artifact(run)
    assert len(ddjax.evaluate_artifact(run, data="own.npz")[0].accuracy) == 1


def test_a_network_in_a_file_is_run_for_those_who_made_it_or_name_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_own(tmp_path / "own.npz")
    (tmp_path / "net.py").write_text(NET)
    run = distil_own(tmp_path, model="net.py:Net")
    ddjax.evaluate_artifact(run)
    (tmp_path / "ran").unlink()
    (run / "config.json").unlink()
    with pytest.raises(InputError, match="'net.py:Net', which would be run: if you trust it, give it with --model"):
        ddjax.evaluate_artifact(run, data="own.npz")
    assert not (tmp_path / "ran").exists()
    ddjax.evaluate_artifact(run, data="own.npz", model="net.py:Net")


def test_a_pool_is_known_by_its_digest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_own(tmp_path / "own.npz")
    pool = {"source": "own.npz", "pool": "nets/pool.safetensors", "init": "random", "valid_nets": 1}
    recipe = ddjax.get_recipe("digits").replace(**{**SMALL, "data": "own.npz", **pool})
    ddjax.pretrain_for(recipe, num_nets=3, test_nets=2, training=ddjax.Training(2, 8), progress=False)
    run = distil_own(tmp_path, **pool)
    alone = tmp_path / "got" / "distilled.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((run / alone.name).read_bytes())
    expected = ddjax.evaluate_artifact(run)[0].accuracy
    np.testing.assert_array_equal(ddjax.evaluate_artifact(alone, data="own.npz")[0].accuracy, expected)
    (tmp_path / "nets/pool.safetensors").rename(alone.parent / "pool.safetensors")
    np.testing.assert_array_equal(ddjax.evaluate_artifact(alone, data="own.npz")[0].accuracy, expected)
    (alone.parent / "pool.safetensors").write_bytes(b"another")
    with pytest.raises(InputError, match=r"pool of networks with digest \w{16}, which is not in .*: put it there"):
        ddjax.evaluate_artifact(alone, data="own.npz")
