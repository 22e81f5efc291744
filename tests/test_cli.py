"""The command line: help, whole tiny runs, what they write and print, and one line for every kind of bad input."""

import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import ddjax as library
from ddjax.cli import main as cli
from ddjax.data import DATASETS
from ddjax.errors import InputError
from ddjax.evaluation import baselines
from ddjax.evaluation.tuning import Tuning
from ddjax.experiment import distill as distilling, outcome, setup as experiment
from ddjax.models import load_model
from ddjax.recipes import RECIPES, Recipe, get_recipe
from ddjax.show import tables
from ddjax.storage import provenance, tensorfile
from ddjax.storage.artifact import load_artifact
from ddjax.training import devices, fit, pretrain

RUN_FILES = ("distilled.safetensors", "summary.json", "metrics.jsonl", "config.json")
COMMANDS = (
    "recipes",
    "distill",
    "pretrain",
    "evaluate",
    "train",
    "export",
    "plot",
    "report",
    "runs",
    "prepare",
    "reproduce",
)
METRICS = {"accuracy_mean", "accuracy_std", "accuracy_before_mean", "accuracy_before_std", "loss_mean", "num_nets"}
TINY = ("--outer-steps", 12, "--eval-every", 4, "--batch-size", 16, "--inner-lr", 0.1, "--lr", 0.2)


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """As users have it: optax's Adam promotes integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Result(NamedTuple):
    status: int
    out: str
    err: str


class EnoughError(Exception):
    """The run ends here, as a process might."""


def enough(*args, **kwargs):
    raise EnoughError


class Screen(io.StringIO):
    encoding = "utf-8"


def in_process(*argv) -> Result:
    """`ddjax ARGV`, but on the devices of this process, and with small baselines."""
    status, out, err = 0, Screen(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(devices, "use_all_cores", lambda: None)
        patch.setattr(fit, "full_data", partial(fit.full_data, steps=50))
        patch.setattr(
            baselines, "random_real", partial(baselines.random_real, tuning=Tuning(rounds=0, nets=2, random_sets=2))
        )
        try:
            cli.main([str(arg) for arg in argv])
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return Result(status, out.getvalue(), err.getvalue())


@pytest.fixture
def ddjax(monkeypatch, tmp_path):
    """Runs the command inside an empty folder, where no data set is prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing prepared"))
    return in_process


def process(*argv, cwd: Path) -> Result:
    command = [sys.executable, "-m", "ddjax", *map(str, argv)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    return Result(done.returncode, done.stdout, done.stderr)


def npz_arrays(shape=(6,), count=90, classes=3) -> dict[str, np.ndarray]:
    """An easy problem: a class is a Gaussian around its own centre."""
    random = np.random.RandomState(0)
    centres = random.normal(0, 2, (classes, *shape))
    y = np.arange(count) % classes
    x = (centres[y] + random.normal(0, 1, (count, *shape))).astype(np.float32)
    if len(shape) == 3:
        x = np.clip(128 + 30 * x, 0, 255).astype(np.uint8)
    return {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:], "y_test": y[60:]}


def save_npz(path: Path, changes: Any = (), shape=(6,)) -> Path:
    arrays: dict[str, Any] = npz_arrays(shape) | dict(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def assert_drawn(path: Path, least_colours=20):
    """A PNG that decodes, larger than a stamp, and not blank."""
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 60
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) >= least_colours


# Help


@pytest.mark.parametrize("argv, status", [((), 2), (("--help",), 0), (("-h",), 0)])
def test_usage_names_every_command(ddjax, argv, status):
    result = ddjax(*argv)
    assert result.status == status and result.err == ""
    assert result.out.startswith("usage: ddjax ") and "--version" in result.out
    listed = result.out[result.out.index("(required)") :]
    for command in COMMANDS:
        assert f" {command} " in listed


def test_version(ddjax):
    assert ddjax("--version") == (0, f"ddjax {importlib.metadata.version('ddjax')}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(ddjax, command):
    result = ddjax(command, "--help")
    assert result.status == 0 and result.err == ""
    usage, _, *lines = result.out.splitlines()
    assert usage.startswith(f"usage: ddjax {command} [-h]")
    assert len(lines) >= 2 and max(map(len, lines)) <= 120


def test_help_names_every_choice(ddjax):
    said = {command: words(ddjax(command, "--help").out) for command in ("prepare", "pretrain", "distill")}
    for name in DATASETS:
        assert re.search(rf"\b{name}\b", said["prepare"]), name
    for name, make in RECIPES.items():
        assert re.search(rf" {name}[,.]", said["pretrain"]) or not make().network.source, name
        assert f" {name} " in said["distill"], name


def words(drawn: str) -> str:
    """What stands in the boxes of a help text, in one line."""
    return " ".join(re.sub("[│|]", " ", drawn).split())


@pytest.mark.parametrize(
    "argv", [("--help",), ("recipes",), ("--version",), ("distil",), ("distill", "digits", "--help")]
)
def test_words_alone_need_no_jax(argv):
    code = f"""
import sys
from ddjax.cli.main import main
try:
    main({list(argv)})
finally:
    slow = {{"jax", "numpy", "sklearn", "matplotlib"}} & set(sys.modules)
    assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2 * (argv == ("distil",)) and "Error" not in done.stderr, done.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_of_a_recipe_lists_every_field_with_its_default(ddjax, recipe):
    result = ddjax("distill", recipe, "--help")
    assert result.status == 0 and result.err == ""
    said = words(result.out)
    for name, value in RECIPES[recipe]().settings().items():
        flag = name.replace("_", "-")
        assert re.search(rf" --(no-)?{flag} ((?!\(default).)*\(default: {re.escape(str(value))}\)", said), name
    for flag in ("--out", "--resume", "--data-dir", "--no-compare", "--accept-changes"):
        assert f" {flag} " in said


def test_recipes_are_listed_with_what_they_are(ddjax):
    result = ddjax("recipes")
    assert result.status == 0 and result.err == ""
    for name, make in RECIPES.items():
        doc = " ".join((make.__doc__ or "").split())
        assert doc and f"{name} {doc}" in " ".join(result.out.split())


def test_installed_command_and_module_are_the_same(tmp_path):
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="ddjax")
    assert script.load() is cli.main
    listed, nothing, wrong = (process(*argv, cwd=tmp_path) for argv in (["recipes"], [], ["distil"]))
    assert listed.status == 0 and all(name in listed.out for name in RECIPES) and listed.err == ""
    assert nothing.status == 2 and nothing.out.startswith("usage: ddjax ") and nothing.err == ""
    assert (wrong.status, wrong.out) == (2, "")
    assert wrong.err == "ddjax: there is no 'distil' here: did you mean distill? (see `ddjax --help`)\n"


def test_names_are_imported_where_they_are_first_used():
    slow = ("sklearn", "scipy", "flax.nnx", "orbax", "matplotlib", "tensorflow_datasets")
    code = f"""
import sys, ddjax
assert not {{"jax", "numpy"}} & set(sys.modules)
ddjax.distill, ddjax.LeNet, ddjax.evaluate_artifact, ddjax.load_dataset
assert not set({slow}) & set(sys.modules), set({slow}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Whole runs


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A real process: ten seconds of training on the built-in digits."""
    folder = tmp_path_factory.mktemp("digits")
    argv = ["--model", "mlp", "--steps", 2, "--epochs", 2, "--outer-steps", 30, "--eval-every", 10, "--batch-size", 32]
    argv += ["--lr", 0.2, "--lr-log-lrs", 0.1, "--inner-lr", 0.02, "--gate-width", 0]
    return folder / "out", process("distill", "digits", *argv, "--out", "out", cwd=folder)


def test_distill_writes_everything_and_prints_the_table(digits_run):
    out, result = digits_run
    assert result.status == 0, result.err
    assert result.err == ""
    files = {"config.json", "metrics.jsonl", "distilled.safetensors", "summary.json"}
    pictures = {"images.png", "curve.png", "learning_rates.png"}
    assert {path.name for path in out.iterdir()} == files | pictures | {"checkpoints", "frames.npz", "training.gif"}
    for picture in pictures:
        assert_drawn(out / picture)
    summary = json.loads((out / "summary.json").read_text())
    assert tables.summary_table(summary) in result.out
    rows = [line.strip() for line in tables.summary_table(summary).splitlines()]
    for row, start in zip(rows[1:], ("before training", "20 distilled", "20 random real", "all 1281"), strict=True):
        assert row.startswith(start)
    for path in files - {"config.json"} | pictures | {"training.gif"}:
        assert f"  out/{path}\n" in result.out
    assert [line.split()[1] for line in result.out.splitlines() if line.startswith("step")] == [
        "10/30",
        "20/30",
        "30/30",
    ]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [10, 20, 30] and metrics[-1]["loss"] < metrics[0]["loss"]
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"]["outer"]["outer_steps"] == 30 and config["recipe"]["network"]["model"] == "mlp"
    # Percent, on the whole test set, and distilling helps: four steps on noise give about 10 %.
    assert summary["num_test"] == 400 and summary["inner_steps"] == 4
    assert 40 < summary["distilled"]["accuracy_mean"] <= 100
    assert summary["distilled"]["accuracy_before_mean"] < 30 < summary["random_real"]["accuracy_mean"]
    assert summary["all_data"]["accuracy_mean"] > 90


def test_evaluate_prints_one_json_object_equal_to_the_summary(digits_run, tmp_path, ddjax):
    out, _ = digits_run
    summary = json.loads((out / "summary.json").read_text())
    real = process("evaluate", "out", "--json", cwd=out.parent)
    assert real.status == 0 and real.err == "" and real.out.count("\n") == 1
    shutil.copy(out / "distilled.safetensors", tmp_path / "alone.safetensors")
    alone = ddjax("evaluate", "alone.safetensors", "--json")
    assert alone.status == 0 and alone.out.count("\n") == 1
    for printed in (real.out, alone.out):
        found = json.loads(printed)
        assert set(found) == METRICS | {"num_test"}
        assert found["num_test"] == 400 and found["num_nets"] == 1
        for name in METRICS:
            assert found[name] == pytest.approx(summary["distilled"][name], abs=1e-3)


def test_evaluate_prints_a_line_an_epoch(digits_run, ddjax):
    out, _ = digits_run
    summary = json.loads((out / "summary.json").read_text())
    result = ddjax("evaluate", out)
    assert result.status == 0
    said, head, *lines = result.out.splitlines()
    assert (said, head) == (f"evaluating {out}", "1 network, 400 test examples")
    for line, (step, accuracy) in zip(lines, summary["accuracy_by_step"].items(), strict=True):
        assert line.split()[:4] == ["after", step, "steps:", f"{accuracy:.2f}"]


def test_runs_lists_what_lies_in_a_folder(digits_run, tmp_path, ddjax):
    out, _ = digits_run
    shutil.copytree(out, tmp_path / "runs" / "good")
    shutil.copytree(out, tmp_path / "runs" / "deeper" / "begun")
    (tmp_path / "runs" / "deeper" / "begun" / "summary.json").unlink()
    metrics = tmp_path / "runs" / "deeper" / "begun" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0] + "\n")
    (tmp_path / "runs" / "old").mkdir()
    (tmp_path / "runs" / "old" / "config.json").write_text("{}")
    result = ddjax("runs")
    assert result.status == 0 and result.err == ""
    *lines, why = result.out.splitlines()
    head, begun, good, old = (line.split() for line in lines)
    assert head[:4] == ["run", "recipe", "data", "network"]
    summary = json.loads((out / "summary.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert good[:7] == ["good", "digits", "digits", "mlp", "30", "of", "30"]
    assert good[-2:] == [f"{100 * rows[-1]['best_valid_accuracy']:.2f}", f"{summary['distilled']['accuracy_mean']:.2f}"]
    assert begun[:7] == ["deeper/begun", "digits", "digits", "mlp", "10", "of", "30"]
    assert begun[-1] == f"{100 * rows[0]['best_valid_accuracy']:.2f}"
    assert old == ["old", "?", "cannot", "be", "read"]
    assert why.startswith("runs/old/config.json ")
    (tmp_path / "none").mkdir()
    assert ddjax("runs", "none").out == "no runs in none\n"
    missing = ddjax("runs", "nowhere")
    assert missing.status == 2 and "there is no folder nowhere: give one" in missing.err


def test_train_saves_weights_and_says_how_good_they_are(digits_run, ddjax):
    out, _ = digits_run
    result = ddjax("train", out, "--out", "weights.safetensors", "--way", "adam", "--epochs", 5, "--lr", 0.003)
    assert result.status == 0 and result.err == ""
    accuracy, *_ = re.fullmatch(
        r"training on .*\n(\d+\.\d\d) % of 400 test examples, from \d+\.\d\d % untrained\n  weights.safetensors\n",
        result.out,
    ).groups()
    tensors, told = tensorfile.read(Path("weights.safetensors"), "")
    assert f"{told['trained']['accuracy']:.2f}" == accuracy
    assert told["trained"]["lr"] == 0.003 and told["trained"]["epochs"] == 5
    assert {name.split("/")[0] for name in tensors} == {"params"}
    again = ddjax("train", out, "--out", "weights.safetensors")
    assert again.status == 2 and "exists: give another --out" in again.err


def test_plot_draws_a_lone_artefact_elsewhere(digits_run, tmp_path, ddjax):
    out, _ = digits_run
    (tmp_path / "alone").mkdir()
    shutil.copy(out / "distilled.safetensors", tmp_path / "alone")
    result = ddjax("plot", "alone/distilled.safetensors", "--out", "pictures/new")
    assert result.status == 0 and result.err == ""
    paths = [Path("pictures/new/images.png"), Path("pictures/new/learning_rates.png")]
    assert list(map(Path, result.out.split())) == paths
    for path in paths:
        assert_drawn(path)
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"distilled.safetensors"}
    assert sorted(path.name for path in Path("pictures/new").iterdir()) == ["images.png", "learning_rates.png"]
    drawn = ddjax("plot", out, "--out", "pictures").out.split()
    assert [Path(path).name for path in drawn] == ["images.png", "learning_rates.png", "curve.png", "training.gif"]
    assert all(Path(path).is_file() for path in drawn)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory, promotion):
    """Folders of runs on vectors, pictures and sequences of the user's own, with fixed initial weights."""
    folder = tmp_path_factory.mktemp("own")
    for kind, shape, model in (
        ("vectors", (6,), "linear"),
        ("pictures", (9, 7, 3), "mlp"),
        ("sequences", (5, 4), "mlp"),
    ):
        (folder / kind).mkdir()
        own = save_npz(folder / kind / "own.npz", shape=shape)
        argv = ("--data", own, "--model", model, *TINY, "--no-compare", "--out", folder / kind / "out")
        result = in_process("distill", "digits", *argv)
        assert result.status == 0, result.err
    return folder


@pytest.mark.parametrize("kind", ["vectors", "pictures", "sequences"])
def test_own_arrays_need_no_source_edited(ddjax, own_run, tmp_path, kind):
    shutil.copytree(own_run / kind, tmp_path, dirs_exist_ok=True)
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["data"] == "own" and summary["num_test"] == 30 and summary["images"] == 3
    for name in ("images", "learning_rates", "curve"):
        assert_drawn(Path(f"out/{name}.png"))
    found = json.loads(ddjax("evaluate", "out", "--json", "--data", "own.npz").out)
    for name in METRICS:
        assert found[name] == pytest.approx(summary["distilled"][name], abs=1e-3)


@pytest.fixture(scope="module")
def vector_run(tmp_path_factory, promotion):
    """Random initial weights, two networks a step, soft labels learned: everything the digits' run has not."""
    folder = tmp_path_factory.mktemp("vectors")
    save_npz(folder / "own.npz")
    many = ("--init", "random", "--num-nets", 2, "--valid-nets", 2, "--test-nets", 5, "--learn-labels")
    argv = (
        "distill",
        "digits",
        "--data",
        folder / "own.npz",
        "--model",
        "linear",
        *TINY,
        *many,
        "--no-compare",
        "--out",
        folder / "out",
    )
    assert in_process(*argv).status == 0
    return folder


def test_random_initial_weights(vector_run, ddjax):
    summary = json.loads((vector_run / "out" / "summary.json").read_text())["distilled"]
    assert summary["num_nets"] == 5 and summary["accuracy_std"] > 0
    assert load_artifact(vector_run / "out").params is None
    default = json.loads(ddjax("evaluate", vector_run / "out", "--json").out)
    for name in METRICS:
        assert default[name] == pytest.approx(summary[name], abs=1e-3)
    fewer = json.loads(ddjax("evaluate", vector_run / "out", "--json", "--num-nets", 3).out)
    assert fewer["num_nets"] == 3 and fewer["loss_mean"] != default["loss_mean"]
    table = ddjax("evaluate", vector_run / "out", "--num-nets", 3).out
    assert table.startswith(f"evaluating {vector_run / 'out'}\n3 networks, 30 test examples\n")
    assert f"{fewer['accuracy_mean']:.2f} ± {fewer['accuracy_std']:.2f} %" in table


def test_from_python(ddjax, monkeypatch):
    """By a recipe's name; and without a folder, where nothing is left behind."""
    save_npz(Path("own.npz"))
    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "temporary")
    before = tree(Path())
    recipe = get_recipe("digits").replace(data="own.npz", model="linear", outer_steps=2, eval_every=1, batch_size=16)
    done = distilling.distill(recipe, compare=False, progress=False)
    assert tree(Path()) == before and done.folder is None
    assert np.isfinite(done.artifact.distilled.images).all() and done.summary.num_test == 30
    seen = []
    monkeypatch.setattr(distilling, "set_up", lambda recipe, **others: seen.append(recipe) or enough())
    with pytest.raises(EnoughError):
        distilling.distill("digits")
    assert seen == [get_recipe("digits")]
    for wrong, message in [
        ("digitz", "unknown recipe 'digitz': did you mean digits"),
        ({"lr": 0.1}, "a recipe is wanted, or the name of one, not dict: see ddjax.get_recipe"),
        (get_recipe, "a recipe is wanted, or the name of one, not function"),
    ]:
        with pytest.raises(InputError, match=message):
            distilling.distill(wrong)  # type: ignore[arg-type]
    assert tree(Path()) == before


NET = """
import flax.linen as nn

class Net(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(nn.tanh(nn.Dense(5)(x)))
"""


def test_a_network_from_python_is_evaluated_by_the_command(ddjax):
    save_npz(Path("own.npz"))
    Path("net.py").write_text(NET)
    recipe = get_recipe("digits").replace(data="own.npz", outer_steps=2, eval_every=1, batch_size=16)
    model = load_model("net.py:Net", (6,), 3)
    scores = distilling.distill(recipe, "out", model=model, compare=False, progress=False).summary.distilled
    assert_refused(ddjax, ("evaluate", "out"), "a network of one's own: say which, with --model path/to/file.py:Name")
    assert_refused(ddjax, ("evaluate", "out", "--model", "mlp"), "its weights do not fit its model")
    result = ddjax("evaluate", "out", "--model", "net.py:Net", "--json")
    assert result.status == 0, result
    for name in METRICS:
        assert json.loads(result.out)[name] == pytest.approx(scores[name], abs=1e-3)


def test_several_seeds_are_runs_of_their_own(ddjax):
    argv = ["--model", "linear", "--outer-steps", 2, "--eval-every", 1, "--batch-size", 32, "--no-compare"]
    assert (ddjax("distill", "digits", *argv, "--seed", 4, "--out", "one")).status == 0
    done = ddjax("distill", "digits", *argv, "--seed", 3, "--seeds", 2, "--out", "several")
    summaries = [json.loads(Path(f"several/seed-{seed}/summary.json").read_text()) for seed in (3, 4)]
    first, second = (summary["distilled"]["accuracy_mean"] for summary in summaries)
    mean, deviation = np.mean([first, second]), np.std([first, second], ddof=1)
    assert done.status == 0 and done.out.endswith(
        f"\nseeds 3, 4: {first:.2f}, {second:.2f}; {mean:.2f} ± {deviation:.2f} %\n"
    )
    assert summaries[1] == json.loads(Path("one/summary.json").read_text()) != summaries[0]
    assert ddjax("distill", "digits", *argv, "--seed", 3, "--seeds", 2, "--out", "several", "--resume").status == 0
    refused = ddjax("distill", "digits", "--seeds", 0)
    assert (refused.status, refused.err) == (2, "ddjax: --seeds is 0: give a number above zero\n")


def test_a_run_goes_where_its_recipe_is_named(ddjax, monkeypatch):
    """Without --out; and what is looked up where is what the arguments say."""
    seen: dict[str, Any] = {}

    def distill(recipe, out, **others):
        seen.update(others, recipe=recipe, out=out)
        raise EnoughError

    monkeypatch.setattr(distilling, "distill", distill)
    with pytest.raises(EnoughError):
        ddjax("distill", "--data-dir", "there", "digits", "--lr", 0.5, "--resume", "--no-compare", "--strict")
    assert seen == {
        "recipe": RECIPES["digits"]().replace(lr=0.5),
        "out": Path("runs/digits"),
        "name": "digits",
        "resume": True,
        "accept_changes": False,
        "compare": False,
        "checkpoint_every": 60.0,
        "strict": True,
        "tensorboard": False,
        "data_dir": "there",
    }


# Trained networks to start from

# fmt: off
POOLED = ("--data", "digits", "--pictures", "28x28x1", "--model", "linear", "--per-class", 1, "--num-nets", 2, "--valid-nets",
          2, "--batch-size", 16, "--outer-steps", 4, "--eval-every", 2, "--pool", "pool.safetensors")
FEW = ("--source", "digits", "--num-nets", 3, "--test-nets", 2, "--steps", 3, "--batch-size", 16)
# fmt: on
LENETS = ("pretrain", "mnist-usps-fixed", *FEW, "--pool", "lenets.safetensors")
LINEAR = ("pretrain", "mnist-usps-fixed", *FEW, "--pool", "pool.safetensors")  # which holds linear networks


def small_pool(seed=0):
    recipe = Recipe().replace(source="digits", model="linear", pictures="28x28x1", pool="pool.safetensors")
    training = pretrain.Training(20, 16)
    pretrain.pretrain_for(recipe, num_nets=3, test_nets=2, training=training, seed=seed, progress=False)


@pytest.fixture(scope="module")
def pooled_run(tmp_path_factory, promotion):
    """A pool of the command's own making (LeNets, as its recipe says), one of linear networks, and a run on that one."""
    folder = tmp_path_factory.mktemp("pooled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lenets = in_process(*LENETS)
        assert lenets.status == 0, lenets.err
        small_pool()
        distilled = in_process("distill", "mnist-poison", *POOLED, "--out", "out")
        assert distilled.status == 0, distilled.err
    return folder, lenets, distilled


@pytest.fixture
def pooled(pooled_run, ddjax, tmp_path):
    """The command in a copy of that folder, so that relative paths are what they were."""
    shutil.copytree(pooled_run[0], tmp_path, dirs_exist_ok=True)
    return ddjax


def test_pretrain_says_what_it_does_and_what_came_of_it(pooled_run):
    folder, result, _ = pooled_run
    assert result.status == 0 and result.err == ""
    *progress, head, drawn, held_out = result.out.splitlines()
    assert progress[:2] == ["loading the data", "compiling the training of the networks"]
    assert [line.split()[:2] for line in progress[2:]] == [["network", f"{number}/5"] for number in range(1, 6)]
    assert head == "lenets.safetensors: networks trained on digits, accuracy on its test examples, %"
    with safetensors.safe_open(folder / "lenets.safetensors", framework="numpy") as file:
        metadata = json.loads(file.metadata()["ddjax"])
    accuracy = np.array(metadata["accuracy"])
    assert metadata["model"] == "lenet" and metadata["training"] == {"steps": 3, "batch_size": 16, "lr": 2e-3}
    assert drawn == f"      3 to distil with  {accuracy[2:].mean():.2f} ± {accuracy[2:].std():.2f}"
    assert held_out == f"      2 held out        {accuracy[:2].mean():.2f} ± {accuracy[:2].std():.2f}"


def test_pretrain_enlarges_a_pool(pooled):
    before = safetensors.numpy.load_file("lenets.safetensors")
    result = pooled(*LENETS, "--resume", "--num-nets", 4)
    assert result.status == 0 and result.err == ""
    assert [line.split()[1] for line in result.out.splitlines() if line.startswith("network")] == ["6/6"]
    after = safetensors.numpy.load_file("lenets.safetensors")
    assert all(len(after[name]) == 6 and np.array_equal(after[name][:5], tensor) for name, tensor in before.items())
    other = (
        "lenets.safetensors holds other networks (seed 0 there, 3 now): repeat its settings or choose another --pool"
    )
    assert_refused(pooled, (*LENETS, "--resume", "--num-nets", 5, "--seed", 3), other)


def test_a_network_of_another_size_is_the_same_one_everywhere(ddjax):
    """In its pool, in the distillation and in what is made of the artefact alone; and another one nowhere."""
    network = ("--model", "convnet", "--width", 2, "--depth", 1, "--augment", "crop", "--pool", "pool.safetensors")
    trained = ("pretrain", "mnist-usps-random", *FEW, "--num-nets", 9, *network)
    pretrained = ddjax(*trained)
    assert pretrained.status == 0, pretrained.err
    with safetensors.safe_open("pool.safetensors", framework="numpy") as file:
        metadata = json.loads(file.metadata()["ddjax"])
    nets = safetensors.numpy.load_file("pool.safetensors")
    assert nets["nets/conv1/kernel"].shape == (11, 3, 3, 1, 2) and "nets/conv2/kernel" not in nets
    assert {name: metadata[name] for name in ("width", "depth", "augment")} == {
        "width": 2,
        "depth": 1,
        "augment": "crop",
    }
    assert_refused(
        ddjax, (*trained, "--width", 3, "--resume"), "another architecture or class count (conv1/bias: [11, 2]"
    )
    distill = ("distill", "digits", *POOLED, "--init", "random", *network, "--no-compare", "--out", "out")
    distilled = ddjax(*distill)
    assert distilled.status == 0, distilled.err
    summary = json.loads(Path("out/summary.json").read_text())
    found = ddjax("evaluate", "out", "--json")
    assert json.loads(found.out)["loss_mean"] == pytest.approx(summary["distilled"]["loss_mean"], abs=1e-3), found.err
    for changes in (("--width", 3), ("--depth", 2)):
        assert_refused(ddjax, (*distill, "--out", "new", *changes), "another architecture or class count")


def test_evaluate_on_held_out_networks_gives_the_figures_of_the_run(pooled):
    """All of them, as in the run's own report, whatever number the recipe has for fresh networks."""
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["distilled"]["num_nets"] == 2 and summary["distilled"]["accuracy_std"] > 0
    found = json.loads(pooled("evaluate", "out", "--json").out)
    for name in METRICS:
        assert found[name] == pytest.approx(summary["distilled"][name], abs=1e-3)
    assert found["accuracy_mean"] == pytest.approx(summary["poisoning"]["after"]["modified_mean"], abs=1e-3)
    one = json.loads(pooled("evaluate", "out", "--json", "--num-nets", 1).out)
    assert one["num_nets"] == 1 and one["accuracy_mean"] != found["accuracy_mean"]
    there = "--num-nets is 3, but the artefact is for 2 networks that its pool holds out: lower it, or leave it out"
    assert_refused(pooled, ("evaluate", "out", "--num-nets", 3), there)


def test_evaluate_uses_all_held_out_networks_of_a_report(pooled):
    """Though the recipe says one, which is for fresh networks."""
    rewrite(Path("out/distilled.safetensors"), lambda t, h: h["recipe"]["report"].update(test_nets=1))
    found = json.loads(pooled("evaluate", "out", "--json").out)
    assert found["num_nets"] == 2


def test_distill_prints_the_table_of_the_poison(pooled_run):
    folder, _, result = pooled_run
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert tables.summary_table(summary) in result.out and "0s taken for 1s, after" in result.out
    assert "10 random real images, 1 step" in result.out and result.err == ""


def test_a_pool_that_is_gone(pooled):
    Path("pool.safetensors").unlink()
    digest = load_artifact("out")[1]["pool"]["digest"]
    where = f"digest {digest}, which is not in pool.safetensors and out/pool.safetensors: put it there"
    assert_refused(pooled, ("evaluate", "out"), where)  # another pool of the same recipe would not be the one it had
    message = "there is no pool of trained networks at pool.safetensors: make it with `ddjax pretrain RECIPE` first"
    assert_refused(pooled, ("distill", "mnist-poison", *POOLED, "--out", "new"), message)


def test_pools_that_do_not_fit(pooled):
    distill = ("distill", "mnist-poison", *POOLED, "--out", "new")
    for changes, message in [
        (("--model", "lenet"), "pool.safetensors holds networks of another architecture or class count (conv1/bias"),
        (("--pool", "lenets.safetensors"), "lenets.safetensors holds networks of another architecture or class count"),
        (("--pool", "out/distilled.safetensors"), "out/distilled.safetensors is not a pool of networks"),
        (("--pool", "out/summary.json"), "out/summary.json is damaged or not a safetensors file"),
        (("--pool", "out"), "there is no pool of trained networks at out"),
        (
            ("--valid-nets", 3),
            "pool.safetensors has 3 networks to distil with, of which --valid-nets 3 choose the iterate",
        ),
        (("--checkpoint", "x.pth"), "--pool and --checkpoint both say what to start from"),
    ]:
        assert_refused(pooled, (*distill, *changes), message)
    save_npz(Path("own.npz"), shape=(28, 28, 1))  # of three classes
    wrong = "class count (dense1/bias: [5, 10] there, [5, 3] wanted)"
    assert_refused(pooled, (*distill, "--data", "own.npz", "--start", "noise"), wrong)


def test_pretrain_refuses_what_it_cannot_do(pooled):
    for argv, message in [
        (("pretrain", "mnist-usps"), "unknown recipe 'mnist-usps': did you mean mnist-usps-"),
        (("pretrain", "digits"), "this recipe starts from untrained networks: choose one with a source"),
        (("pretrain", "digits", "--source", "digits"), "this recipe starts from untrained networks"),
        (LINEAR, "pool.safetensors exists: go on with it or enlarge it with --resume"),
        ((*LINEAR, "--resume"), "another architecture"),
        (
            ("pretrain", "mnist-digits-random", *FEW, "--pool", "new"),
            "--num-nets is 3, and the recipe's --valid-nets 8 of",
        ),
        ((*LINEAR, "--pool", "new", "--num-nets", 0), "--num-nets is 0: give a number"),
        ((*LINEAR, "--pool", "new", "--lr=-1"), "--lr is -1.0: give a number above zero"),
        (("pretrain", "mnist-usps-fixed", "--pool", "new"), "ddjax prepare mnist"),
        ((*LINEAR, "--source", "mnits"), "no data set named 'mnits'"),
        ((*LINEAR, "--pool", "new", "--augment", "turn"), "--augment is 'turn': give none, or some of crop,"),
        ((*LINEAR, "--pool", "new", "--width", 3), "model 'lenet' has no option width: leave it out"),
        (
            (*LINEAR, "--pool", "new", "--model", "mlp", "--pictures", "4x4x1", "--augment", "crop"),
            "of at least 5x5, but",
        ),
        ((*LINEAR, "--pool", "out/summary.json/new"), "choose another --pool"),
    ]:
        assert_refused(pooled, argv, message)


@pytest.mark.parametrize(
    "poison, message",
    [
        ("0:0", "--poison is '0:0': K and T are the same class, so nothing would change"),
        ("x", "--poison is 'x': give two class numbers as K:T, such as 0:1"),
        ("0:12", "--poison is '0:12', but digits has classes 0 to 9: choose among them"),
    ],
)
def test_poison_that_cannot_be(pooled, poison, message):
    assert_refused(pooled, ("distill", "mnist-poison", *POOLED, "--poison", poison, "--out", "new"), message)


def test_weights_that_are_not_there(ddjax):
    own = ("distill", "voc2007", "--data", "own.npz", "--pictures", "224x224x3", "--out", "new")
    save_npz(Path("own.npz"), shape=(8, 8, 3))
    for checkpoint in ("alexnet-owt-7be5be79.pth", "void/weights.safetensors"):
        assert_refused(ddjax, (*own, "--checkpoint", checkpoint), checkpoint)
    assert_refused(
        ddjax, (*own, "--model", "alexcifar"), "--checkpoint holds weights of alexnet, but --model is alexcifar"
    )


# The paper


def test_reproduce_fills_a_row_and_says_how_many(ddjax):
    result = ddjax("reproduce", "paper", "--budget", "quick", "--only", "digits")
    assert result.status == 0 and result.err == ""
    rows = json.loads(Path("quick/results/paper.json").read_text())
    measured = [row for row in rows if row["status"] == "measured"]
    assert {row["run"] for row in measured} == {"digits"}
    told, line = result.out.splitlines()[0], result.out.splitlines()[-1]
    assert told == "digits: distilling"
    paths = "quick/RESULTS.md, quick/results/paper.json"
    assert line == f"{len(measured)} of {len(rows)} rows are measured: {paths}"
    assert Path("quick/RESULTS.md").is_file()


def test_reproduce_refuses_what_it_does_not_know(ddjax):
    for argv, message in [
        (("reproduce", "paper", "--again"), "--again is for runs that --only names: name them"),
        (("reproduce", "paper", "--only", "mnist"), "there is no run named 'mnist': choose among digits, digits-exact"),
    ]:
        assert_refused(ddjax, argv, message)


def test_reproduce_by_name_without_the_data(ddjax):
    result = ddjax("reproduce", "paper", "--only", "mnist-fixed-1step")
    assert (result.status, result.out) == (2, "mnist-fixed-1step: distilling\nloading the data\n")
    assert result.err.startswith("ddjax: ") and result.err.count("\n") == 1 and "ddjax prepare mnist" in result.err
    assert tree(Path()) == {}


# Bad input


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def assert_refused(ddjax, argv, message: str):
    """Exit status 2, one line that says what is wrong, and nothing on the disk changed."""
    before = tree(Path())
    result = ddjax(*argv)
    assert result.status == 2, result
    assert result.err.startswith("ddjax: ") and result.err.count("\n") == 1 and result.err.endswith("\n")
    assert message in result.err
    assert re.fullmatch(r"((loading the data|evaluating [^\n]+)\n)?", result.out)
    assert tree(Path()) == before


OWN = ("distill", "digits", "--data", "own.npz", "--model", "linear")
WRONG_WORDS = {
    "command": (("distil", "digits"), "there is no 'distil' here: did you mean distill? (see `ddjax --help`)"),
    "far command": (
        ("zzz",),
        "there is no 'zzz' here: choose one of recipes, distill, pretrain, evaluate, train, export, plot, report, runs",
    ),
    "no recipe": (("distill",), "Expected one of {digits, digits-random, mnist-fixed-1step, "),
    "no recipe but options": (("distill", "--out", "x"), "benchmark} (see `ddjax distill --help`)"),
    "recipe": (("distill", "digitz"), "there is no 'digitz' here: did you mean digits? (see `ddjax distill --help`)"),
    "far recipe": (
        ("distill", "zzz"),
        "there is no 'zzz' here: choose one of digits, digits-random, mnist-fixed-1step, ",
    ),
    "data": (("distill", "digits", "--data", "mnits"), "no data set named 'mnits': did you mean mnist?"),
    "not prepared": (("distill", "digits", "--data", "mnist"), "ddjax prepare mnist"),
    "not there": (("distill", "digits", "--data", "mnist", "--data-dir", "void"), "ddjax prepare mnist"),
    "no file": (("distill", "digits", "--data", "other.npz"), "other.npz"),
    "model": ((*OWN, "--model", "vgg"), "unknown model 'vgg': choose one of lenet"),
    "weights": (
        (*OWN, "--weights", "zero"),
        "invalid choice 'zero' for argument '--weights'. Expected one of ('xavier', 'he')",
    ),
    "lenet on vectors": ((*OWN, "--model", "lenet"), "choose --model mlp or linear"),
    "evaluate nothing": (("evaluate", "void"), "no artefact at void"),
    "plot nothing": (("plot", "void/distilled.safetensors"), "no artefact at void"),
    "evaluate own data": (("evaluate", "own.npz"), "is damaged or not a safetensors file"),
    "evaluate unfinished": (("evaluate", "."), "give the folder of a finished run"),
    "prepare": (("prepare", "mnits"), "no data set named 'mnits'"),
    "prepare nothing": (("prepare",), "name the data sets"),
}


@pytest.mark.parametrize("argv, message", WRONG_WORDS.values(), ids=WRONG_WORDS.keys())
def test_wrong_words(ddjax, argv, message):
    save_npz(Path("own.npz"))
    assert_refused(ddjax, argv, message)


WRONG_ARRAYS = {
    "missing": ({"y_test": None}, "y_test missing"),
    "mismatched": ({"y_train": np.arange(59) % 3}, "x_train has 60 examples but y_train has 59"),
    "widths": ({"x_test": npz_arrays((5,))["x_test"]}, "x_test is float32 [30, 5]"),
    "label out of range": ({"y_test": np.full(30, 3)}, "y_test has the label 3"),
    "negative label": ({"y_train": np.arange(60) % 3 - 1}, "y_train has the label -1"),
    "nan": ({"x_train": np.full((60, 6), np.nan, np.float32)}, "x_train has 360 values not finite"),
}


@pytest.mark.parametrize("changes, message", WRONG_ARRAYS.values(), ids=WRONG_ARRAYS.keys())
def test_wrong_arrays(ddjax, changes, message):
    save_npz(Path("own.npz"), changes)
    assert_refused(ddjax, (*OWN, "--out", "out"), message)


BOUNDED = ("b1", "b2", "ema", "gate_width", "momentum", "warmup", "weight_decay", "window_early", "narrow_steps")
NUMBERS = {name: value for name, value in Recipe().settings().items() if type(value) in (int, float)}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range(ddjax, monkeypatch, name):
    monkeypatch.setattr(experiment, "load_dataset", None)  # refused before anything is loaded
    kind, flag = type(NUMBERS[name]), "--" + name.replace("_", "-")
    wrong = ["-1"] if name in (*BOUNDED, "seed") else ["-1", "0"]
    for value in wrong + (["nan", "-inf", "inf"] if kind is float else []):
        assert_refused(ddjax, ("distill", "digits", f"{flag}={value}"), f"{flag} is {kind(value)}: give a")


def test_every_number_is_checked():
    """The list above is of all numeric fields, and the limits themselves are refused too."""
    assert {"steps", "epochs", "num_nets", "outer_steps", "lr", "clip", "seed"} <= set(NUMBERS) and len(NUMBERS) == 23
    one: Any = 1.0
    for name in ("b1", "b2", "ema", "momentum"):
        with pytest.raises(ValueError, match=f"--{name} is 1.0"):
            Recipe().replace(**{name: one}).validate()
    with pytest.raises(ValueError, match="--seed is 4294967296"):
        Recipe(seed=2**32).validate()
    Recipe().replace(clip=None, b1=0.0, ema=0.0, gate_width=0.0, seed=2**32 - 1).validate()


UNPARSED = {
    (
        "distill",
        "digits",
        "--outer-steps",
        "1.5",
    ): "Error parsing --outer-steps: invalid literal for int() with base 10: '1.5'",
    ("distill", "digits", "--seed", "many"): "Error parsing --seed: invalid literal for int() with base 10: 'many'",
    ("distill", "digits", "--outer-step", "5"): "there is no '--outer-step' here: did you mean --outer-steps?",
    ("distill", "digits", "--no-such-flag"): "there is no '--no-such-flag' here",
    (
        "distill",
        "digits",
        "--init",
        "none",
    ): "invalid choice 'none' for argument '--init'. Expected one of ('fixed', 'random')",
    ("distill", "digits", "--lr"): "Missing value for argument '--lr'. Expected 1 values",
    ("distill", "digits", "surplus"): "there is no 'surplus' here",
    ("evaluate",): "Missing from ddjax evaluate: PATH Folder of a run, or a distilled.safetensors file",
    ("evaluate", "a", "--num-nets", "x"): "invalid literal for int() with base 10: 'x'",
    ("plot", "a", "b"): "there is no 'b' here",
    ("recipes", "digits"): "there is no 'digits' here",
    ("reproduce",): "Missing from ddjax reproduce: {paper,benchmark} ",
    ("reproduce", "results"): "invalid choice 'results' for argument 'what'. Expected one of ('paper', 'benchmark')",
    ("pretrain", "--resume"): "Missing from ddjax pretrain: RECIPE One of mnist-usps-fixed, mnist-usps-random, ",
}


@pytest.mark.parametrize("argv, message", UNPARSED.items(), ids=map(" ".join, UNPARSED))
def test_words_that_do_not_parse(ddjax, monkeypatch, argv, message):
    """Whatever the terminal can show, tyro's box becomes one line."""
    for encoding in ("utf-8", "ascii"):
        monkeypatch.setattr(Screen, "encoding", encoding)
        assert_refused(ddjax, argv, message)
        said = ddjax(*argv).err
        assert said.endswith(f" (see `ddjax {argv[0]} --help`)\n") and said.isascii() and "---" not in said


def test_refusal_by_a_real_process(tmp_path):
    save_npz(tmp_path / "own.npz", {"y_test": None})
    before = tree(tmp_path)
    for argv, message in [
        ((*OWN, "--out", "out"), "y_test missing"),
        (("distill", "digits", "--num-nets", "0"), "--num-nets is 0"),
    ]:
        result = process(*argv, cwd=tmp_path)
        assert (result.status, result.out) == (2, "loading the data\n")
        assert result.err.startswith("ddjax: ") and result.err.count("\n") == 1 and message in result.err
    assert tree(tmp_path) == before


# Output folders


def test_output_folders_that_cannot_be(ddjax):
    save_npz(Path("own.npz"))
    Path("file").write_text("text")
    Path("foreign").mkdir()
    Path("foreign/thesis.tex").write_text("work of years")
    for out, message in [
        ("file", "cannot use file"),
        ("file/below", "cannot use file/below"),
        ("/proc/ddjax", "cannot use /proc/ddjax"),
        ("foreign", "foreign is not empty and holds no run"),
    ]:
        for resume in ((), ("--resume",)):
            assert_refused(ddjax, (*OWN, "--out", out, *resume), message)


def test_output_folder_of_another_run(ddjax, vector_run, tmp_path):
    shutil.copytree(vector_run, tmp_path, dirs_exist_ok=True)
    config = json.loads(Path("out/config.json").read_text())
    own = ["distill", "digits", "--out", "out", "--data", config["recipe"]["data"]["data"]]
    same = [*own, "--model", "linear", *TINY, "--init", "random", "--num-nets", 2, "--valid-nets", 2, "--test-nets", 5]
    same.append("--learn-labels")
    assert_refused(ddjax, same, "out already holds a run: continue it with --resume")
    assert_refused(ddjax, [*same, "--resume", "--seed", 5], "other settings (seed 0 there, 5 now)")
    assert_refused(ddjax, [*own, "--model", "linear", "--resume"], "eval_every 4 there, 100 now")
    Path("out/config.json").write_text('{"recipe": {')
    assert_refused(ddjax, [*same, "--resume"], "out/config.json is damaged (it is no JSON (")


SHORT = (*OWN, *TINY, "--no-compare", "--out", "out")


@pytest.fixture
def half_done(ddjax, monkeypatch):
    """Begins a run that is left before its report; by default one on own.npz."""

    def begin(*argv):
        with monkeypatch.context() as patch:
            patch.setattr(outcome, "evaluate", enough)
            with pytest.raises(EnoughError):
                ddjax(*(argv or SHORT))
        return ddjax

    save_npz(Path("own.npz"))
    return begin


def origins() -> list[dict[str, Any]]:
    return json.loads(Path("out/config.json").read_text())["origins"]


def test_a_run_goes_on_with_the_data_that_it_began_with(half_done):
    """Unless it is told to, and then says so."""
    ddjax = half_done()
    changed = npz_arrays()["x_train"].copy()
    changed[0, 0] += 1
    save_npz(Path("own.npz"), {"x_train": changed})
    assert_refused(ddjax, (*SHORT, "--resume"), "out was begun with something else (data own.npz")
    assert len(origins()) == 1
    result = ddjax(*SHORT, "--resume", "--accept-changes")
    assert (result.status, result.err) == (0, "")
    before, after = origins()
    assert before["inputs"]["data"] != after["inputs"]["data"] and before["code"] == after["code"]
    assert_refused(ddjax, (*OWN, *TINY, "--out", "out"), "out already holds a run: continue it with --resume")
    save_npz(Path("own.npz"))  # as it was at first, but not when its figures were made
    assert_refused(ddjax, (*SHORT, "--resume"), "out was begun with something else (data own.npz")
    assert ddjax(*SHORT, "--resume", "--accept-changes").status == 0 and origins() == [before, after]  # it is only read


def test_a_run_goes_on_with_the_pool_that_it_began_with(pooled, half_done):
    argv = ("distill", "mnist-poison", *POOLED, "--no-compare", "--out", "half")
    half_done(*argv)
    Path("pool.safetensors").unlink()
    small_pool(seed=1)
    assert_refused(pooled, (*argv, "--resume"), "half was begun with something else (pool ")
    assert pooled(*argv, "--resume", "--accept-changes").status == 0


def test_a_run_that_goes_on_elsewhere_says_so(half_done, monkeypatch):
    """Its seconds are of two machines."""
    ddjax = half_done()
    monkeypatch.setattr(provenance, "machine", lambda: "another")
    assert ddjax(*SHORT, "--resume").status == 0
    begun, went_on = origins()
    assert went_on == {**begun, "machine": "another"} and begun["machine"] != "another"


def test_a_run_goes_on_under_the_code_that_it_began_with(half_done, monkeypatch):
    """But what is finished is read by any."""
    ddjax = half_done()
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code", lambda: "another")
        was = f"code {origins()[0]['code']} there, another now"
        assert_refused(ddjax, (*SHORT, "--resume"), f"out was begun with something else ({was}): go back to that")
        patch.setattr(provenance, "versions", lambda: origins()[0]["versions"] | {"jax": "99"})
        assert_refused(ddjax, (*SHORT, "--resume"), f"{was}; jax {jax.__version__} there, 99 now")
    result = ddjax(*SHORT, "--resume")
    assert result.status == 0
    held, began = tree(Path("out")), origins()
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code", lambda: "another")
        for module, name in ((distilling, "run"), (outcome, "evaluate")):
            patch.setattr(module, name, enough)
        reads = [ddjax(*SHORT, "--resume", *others) for others in ((), ("--accept-changes",))]
    table = result.out[result.out.index("own, recipe digits: accuracy") :]
    assert all(read.status == 0 and read.out.endswith(table) for read in reads)
    assert origins() == began and len(began) == 1
    assert {name: held[name] for name in RUN_FILES} == {name: tree(Path("out"))[name] for name in RUN_FILES}
    assert_refused(
        ddjax,
        (*SHORT, "--resume", "--outer-steps", 8),
        "--outer-steps is 8, but the run in out has taken 12: give more",
    )


def test_what_was_left_out_is_compared_later(half_done):
    ddjax = half_done()
    short = ddjax(*SHORT, "--resume")
    assert "random real" not in short.out and "training images" not in short.out
    whole = ddjax(*OWN, *TINY, "--out", "out", "--resume")
    assert "\nown, recipe digits: accuracy on the 30 test examples, %\n" in whole.out
    assert "3 random real images, 1 step" in whole.out and "all 55 training images" in whole.out
    again = ddjax(*SHORT, "--resume")  # which has what is asked for, and more
    assert again.status == 0 and "3 random real images, 1 step" in again.out


# Artefacts


def rewrite(path: Path, change) -> None:
    """Saves the artefact again with tensors and header as `change(tensors, header)` leaves them."""
    loaded = load_artifact(path)
    tensors, header = safetensors.numpy.load_file(path), loaded.metadata
    change(tensors, header)
    safetensors.numpy.save_file(tensors, path, metadata={"ddjax": json.dumps(header)})


def wide(tensors, header):
    tensors["images"] = np.zeros((1, 3, 7), np.float32)


WRONG_ARTEFACTS = {
    "images of another width": (wide, "images [7] of 3 classes, but its model reads [6] of 3"),
    "model of other inputs": (
        lambda t, h: h["model"].update(input_shape=[7]),
        "images [6] of 3 classes, but its model reads [7] of 3",
    ),
    "model of more classes": (lambda t, h: h["model"].update(num_classes=4), "but its model reads [6] of 4"),
    "unknown model": (lambda t, h: h["recipe"]["network"].update(model="vgg"), "unknown model 'vgg'"),
    "lenet": (lambda t, h: h["recipe"]["network"].update(model="lenet"), "choose --model mlp or linear"),
    "direction": (lambda t, h: h["recipe"]["inner"].update(direction="up"), "--direction is 'up': choose one of gd"),
    "no recipe": (lambda t, h: h.pop("recipe"), "the 'ddjax' header lacks recipe"),
    "strange recipe": (lambda t, h: h["recipe"].update(colour="red"), "a recipe has no setting 'colour'"),
    "recipe out of range": (lambda t, h: h["recipe"]["report"].update(test_nets=0), "--test-nets is 0"),
    "recipe of words": (lambda t, h: h["recipe"]["report"].update(test_nets="five"), "--test-nets is 'five': give"),
    "no transform": (lambda t, h: h.pop("transform"), "the 'ddjax' header lacks transform"),
    "no mean": (lambda t, h: h["transform"].pop("mean"), "the transform 'standardise' is damaged"),
    "unknown transform": (lambda t, h: h["transform"].update(kind="pca"), "no transform of kind 'pca': the kinds are"),
    "short mean": (lambda t, h: h["transform"].update(mean=[0.0] * 2, std=[1.0] * 2), "does not fit inputs [6]"),
    "no tensors": (lambda t, h: t.pop("labels"), "lacks the tensors labels"),
    "nan": (lambda t, h: t.update(images=t["images"] * np.float32("nan")), "not finite"),
    "newer": (lambda t, h: h.update(format_version=99), "format version 99"),
}


@pytest.mark.parametrize("change, message", WRONG_ARTEFACTS.values(), ids=WRONG_ARTEFACTS.keys())
def test_artefacts_that_cannot_be_evaluated(ddjax, vector_run, change, message):
    shutil.copy(vector_run / "out" / "distilled.safetensors", "a.safetensors")
    rewrite(Path("a.safetensors"), change)
    assert_refused(ddjax, ("evaluate", "a.safetensors", "--data", vector_run / "own.npz"), message)


@pytest.mark.parametrize("key", ["transform", "class_names", "recipe"])
def test_artefacts_that_cannot_be_drawn(ddjax, vector_run, key):
    shutil.copy(vector_run / "out" / "distilled.safetensors", "a.safetensors")
    rewrite(Path("a.safetensors"), lambda t, h: h.pop(key))
    assert_refused(ddjax, ("plot", "a.safetensors"), f"header lacks {key}")


def test_weights_that_do_not_fit_the_model(ddjax, own_run):
    shutil.copy(own_run / "vectors" / "out" / "distilled.safetensors", "a.safetensors")
    rewrite(Path("a.safetensors"), lambda t, h: h["recipe"]["network"].update(model="mlp"))
    argv = ("evaluate", "a.safetensors", "--data", own_run / "vectors" / "own.npz")
    assert_refused(ddjax, argv, "its weights do not fit its model")


def test_artefact_on_other_data(ddjax, vector_run, own_run):
    out = vector_run / "out"
    assert_refused(ddjax, ("evaluate", out, "--data", "digits"), "digits has [28, 28, 1] of 10: give its own data set")
    assert_refused(ddjax, ("evaluate", out, "--data", "mnist"), "ddjax prepare mnist")
    assert_refused(ddjax, ("evaluate", out, "--num-nets", "0"), "--num-nets is 0")
    fixed = "--num-nets is 3, but the artefact is for its one fixed network: lower it, or leave it out"
    assert_refused(ddjax, ("evaluate", own_run / "vectors" / "out", "--num-nets", "3"), fixed)
    assert_refused(ddjax, ("evaluate", out, "--num-nets=-3"), "--num-nets is -3")


@pytest.mark.parametrize("command", ["evaluate", "plot"])
def test_damaged_and_foreign_files(ddjax, vector_run, command):
    whole = (vector_run / "out" / "distilled.safetensors").read_bytes()
    path = Path("a.safetensors")
    for content, message in [
        (whole[: len(whole) // 2], "is damaged or not a safetensors file"),
        (whole[:-1], "is damaged or not a safetensors file"),
        (b"", "is damaged or not a safetensors file"),
        (b"\xff" * 100, "is damaged or not a safetensors file"),
        (safetensors.numpy.save({"weight": np.zeros(3)}), "ddjax did not write"),
        (safetensors.numpy.save({"images": np.zeros(3)}, metadata={"ddjax": "{"}), "damaged 'ddjax' header"),
        (safetensors.numpy.save({"images": np.zeros(3)}, metadata={"ddjax": "[]"}), "damaged 'ddjax' header"),
    ]:
        path.write_bytes(content)
        assert_refused(ddjax, (command, path), message)


def test_pictures_that_cannot_be_written(ddjax, vector_run):
    Path("file").write_text("text")
    for out in ("file", "file/below", "/proc/ddjax"):
        assert_refused(ddjax, ("plot", vector_run / "out", "--out", out), f"cannot write pictures into {out}")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 6312000112128 bytes.\nand\nmore"),
        np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(np.float32)),
    ],
)
def test_want_of_memory_is_one_line(ddjax, monkeypatch, error):
    def want(*args, **kwargs):
        raise error

    monkeypatch.setattr(distilling, "distill", want)
    told = ddjax("distill", "digits")
    assert (told.status, told.err.count("\n")) == (1, 1)
    assert told.err.startswith("ddjax: there is not enough memory for this (")
    assert told.err.endswith("): ask for less, as by --batch-size or --num-nets\n")


def test_other_errors_keep_their_traceback(ddjax, monkeypatch):
    def defect(*args, **kwargs):
        raise RuntimeError("a defect")

    monkeypatch.setattr(distilling, "distill", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        ddjax("distill", "digits")


def test_a_path_that_can_be_none_is_bad_input(ddjax):
    for words in (("runs",), ("plot",), ("report",), ("evaluate",), ("export", "--to", "npz")):
        told = ddjax(*words, "x" * 5000)
        assert (told.status, told.err.count("\n")) == (2, 1), told.err
    told = ddjax("distill", "digits", "--data", "mnist", "--data-dir", "~nosuchuser/x")
    assert told.status == 2 and "is no folder of prepared data sets" in told.err


def test_errors_for_people_are_of_one_kind():
    kinds = [getattr(library, name) for name in library.__all__ if name.endswith("Error")]
    assert len(kinds) == 7 and all(issubclass(kind, library.DdjaxError) for kind in kinds)
    assert issubclass(library.InputError, ValueError) and issubclass(library.StorageError, OSError)
    assert str(library.StorageError("a\nb\x1b[2J")) == r"a\nb\x1b[2J"
