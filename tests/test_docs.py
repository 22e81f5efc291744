"""README and docs/: the site builds, every command parses, every snippet of Python runs, figures are those of the results."""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_cli import in_process

import ddjax
from ddjax.cli.main import _parse
from ddjax.data.prepared import find_prepared
from ddjax.evaluation import baselines
from ddjax.evaluation.tuning import Tuning
from ddjax.experiment import distill as distilling, protocol
from ddjax.paper.runs import RUNS
from ddjax.storage.artifact import FILE_NAME
from ddjax.storage.provenance import digest_of_file
from ddjax.training import fit, pretrain

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """Every `ddjax ...` that stands in a line of its own, and what a shell joins to one by &&."""
    for page in PAGES:
        for line in re.findall(r"^    (\S.*)$", page.read_text(), re.M):
            for command in re.split(r"&&", re.sub(r"\s+#.*", "", line)):
                words = shlex.split(command)
                if words and words[0] == "ddjax":
                    yield pytest.param(words[1:], id=f"{page.stem}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_is_one(words):
    _parse(words)


# What a command of the pages is given besides, so that it takes seconds: what it does at length is tested elsewhere.
SHORTER = {
    "reproduce": ["--page-only"],
    "distill": ["--test-nets", "2"],
    "pretrain": ["--num-nets", "22"],
}
SETS = ("mnist", "usps", "cifar10")
PREPARED = [name for name in SETS if find_prepared(name, Path(os.environ.get("TFDS_DATA_DIR", "nowhere")))]


@pytest.fixture
def in_short(tmp_path, monkeypatch):
    """Two outer steps of whatever is distilled, and next to none of what it is compared with; in a folder of its own, where
    lie the files that pages speak of."""
    run = distilling.run
    monkeypatch.setattr(distilling, "run", lambda *a, outer_steps, **o: run(*a, outer_steps=min(2, outer_steps), **o))
    monkeypatch.setattr(fit, "full_data", partial(fit.full_data, steps=2))
    monkeypatch.setattr(pretrain, "fit", lambda key, loss, params, *a, **o: params)
    monkeypatch.setattr(protocol, "by_minibatches", lambda loss, key, params, *a, **o: params)
    few = Tuning(rounds=0, nets=2, random_sets=2)
    monkeypatch.setattr(baselines, "random_real", partial(baselines.random_real, tuning=few))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield tmp_path


def as_one(words):
    """Commands that differ in where they write are one."""
    return tuple(words[: words.index("--out")] if words[0] == "distill" and "--out" in words else words)


@pytest.mark.parametrize("words", {as_one(p.values[0]): p for p in commands()}.values())
def test_every_command_runs(words, in_short, in_haste):
    """Those that need MNIST, USPS or CIFAR-10 where these are prepared."""
    needed = [name for name in SETS if any(name in word for word in words) and words[0] != "reproduce"]
    if not set(needed) <= set(PREPARED):
        pytest.skip(f"needs {' and '.join(needed)}: set TFDS_DATA_DIR")
    if words[-1] == "torch":
        pytest.importorskip("torch")
    if words[0] != "distill":
        shutil.copytree(ROOT / "results" / "digits", "runs/digits")
    if words[0] == "evaluate" and words[1].startswith("results/"):
        shutil.copytree(ROOT / words[1], words[1])
    for kind in ("cat", "dog", "eel"):
        Path("pets", kind).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.RandomState(i).randint(0, 256, (32, 30, 3), np.uint8)
            Image.fromarray(pixels).save(f"pets/{kind}/{i}.png")
    x, y = np.random.RandomState(0).rand(60, 12).astype(np.float32), np.arange(60) % 3
    np.savez("mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    net = next(s for s in SNIPPETS["networks.md"] if "class Small" in s).split("model = ")[0]
    Path("net.py").write_text(f"{net}\n\nMyModule = Small\n")
    if words[:2] == ["distill", "mnist-usps-random"]:
        assert in_process("pretrain", *words[1:], *SHORTER["pretrain"]).status == 0
    protocol = ["--num-nets", "2"] if "--protocol" in words else []
    narrow = ["--width", "8"] if "convnet" in words and "--width" not in words else []
    done = in_process(*words, *SHORTER.get(words[0], protocol), *narrow)
    assert done.status == 0 and done.out, done.err


def test_pages_have_commands_and_snippets():
    assert len(list(commands())) > 20 and len(SNIPPETS) >= 4


SNIPPETS = {page.name: found for page in PAGES if (found := re.findall(r"```python\n(.*?)```", page.read_text(), re.S))}


@pytest.mark.parametrize("page", SNIPPETS)
def test_every_snippet_runs(page, in_short):
    """Those of a page one after the other, and the artefact of README."""
    shutil.copytree(ROOT / "results" / "digits", "runs/digits")
    names = {"__name__": "snippet"}
    for snippet in SNIPPETS[page]:
        exec(compile(snippet, page, "exec"), names)
    assert len(list(Path("runs").glob("*/distilled.safetensors"))) > 1 or page == "using.md"


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ROOT.glob("docs/*.md"):
        assert (tmp_path / "site" / f"{page.stem}.html").is_file()
    assert "meta-gradient" in (tmp_path / "site" / "api.html").read_text()
    recipes = (tmp_path / "site" / "recipes.html").read_text()
    assert all(name in recipes for name in ddjax.RECIPES)


def test_the_api_lists_every_public_name_once():
    listed = re.findall(r"(?:ddjax\.|^`)(\w+)", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert sorted(set(listed) - {"NAME"}) == ddjax.__all__


def test_every_ask_of_the_field_is_answered_somewhere():
    rows = (ROOT / "docs" / "asks.md").read_text().split("|---|---|\n")[1].strip().splitlines()
    assert len(rows) == 15 and all(len(row.split("|")) == 4 and row.split("|")[2].strip() for row in rows)


def test_links_of_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), (page.name, target)


FILED = {
    "MNIST, one fixed network | 10 ": "mnist-fixed-1step",
    "MNIST, one fixed network | 100": "mnist-fixed",
    "CIFAR-10, one fixed network": "cifar10-fixed",
    "MNIST, 200 fresh networks | 100 | 10 x 3 ": "mnist-random",
    "MNIST, 200 fresh networks | 100 | 10 x 10 ": "mnist-random-10x10",
    "trained on MNIST → USPS, 20 networks": "mnist-usps-random",
    "trained on USPS → MNIST, 20 networks": "usps-mnist-random",
}


@pytest.mark.parametrize("row", FILED)
def test_the_table_of_the_readme_has_the_figures_of_the_results(row):
    (line,) = re.findall(rf"^\| {re.escape(row)}.*$", (ROOT / "README.md").read_text(), re.M)
    name = FILED[row]
    found = json.loads((ROOT / "results" / name / "summary.json").read_text())["distilled"]
    several = f" ± {found['accuracy_std']:.1f}" if found["num_nets"] > 1 else ""
    assert line.endswith(f"| **{found['accuracy_mean']:.1f}{several}** |")
    inner = RUNS[name].settings.inner
    steps = f"{inner.steps} x {inner.epochs}" if inner.steps * inner.epochs > 1 else "1"
    assert f"| {inner.steps * inner.per_class * 10} | {steps} |" in line
    if found["num_nets"] > 1:
        assert f"{found['num_nets']} " in row


@pytest.mark.parametrize(
    "data, name, cores",
    [
        ("MNIST", "mnist-ipc1", "one core"),
        ("Fashion-MNIST", "fashion-mnist-ipc1", "two slower ones"),
        ("MNIST", "mnist-ipc10", "one slow core and later two"),
        ("Fashion-MNIST", "fashion-mnist-ipc10", "one slow core"),
    ],
)
def test_the_benchmark_of_the_readme_is_the_one_that_is_filed(data, name, cores):
    """Mean, deviation and minutes of the rows that it tells."""
    page, folder = " ".join((ROOT / "README.md").read_text().split()), ROOT / "results" / name
    found = json.loads((folder / "summary.json").read_text())["distilled"]
    minutes = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] / 60
    figure = f"of {data} {found['accuracy_mean']:.1f} ± {found['accuracy_std']:.1f} %"
    assert re.search(rf"{figure} [^%]*\([^)]*\) after {minutes:.0f} minutes of {cores}", page)
    assert found["num_nets"] == 50 and "% of 50 fresh ConvNets" in page
    assert re.search(rf"\|[^|]* of {data} {found['accuracy_mean']:.1f}[ ,]", page)


def test_figures_of_the_digits_are_those_that_are_filed():
    filed = {name: json.loads((ROOT / "results" / name / "summary.json").read_text()) for name in SEEDS}
    figure = {name: f"{summary['distilled']['accuracy_mean']:.2f}" for name, summary in filed.items()}
    first = figure["digits"]
    for page in ("README.md", "docs/start.md", "docs/using.md", "docs/method.md"):
        assert first in (ROOT / page).read_text(), page
    assert f"{', '.join(figure[name] for name in SEEDS)};" in (ROOT / "docs" / "running.md").read_text()
    exact = json.loads((ROOT / "results" / "digits-exact" / "summary.json").read_text())["distilled"]["accuracy_mean"]
    for page in ("README.md", "docs/method.md"):
        assert f"{exact:.2f} %" in (ROOT / page).read_text(), page


@pytest.mark.parametrize(
    "name", ["transfer_digits.json", "transfer_mnist.json", "protocol_mnist.json", "protocol_ipc1.json"]
)
def test_what_was_measured_of_an_artefact_is_of_the_one_that_is_filed(name):
    """A run that is filed anew makes these tables false: `benchmarks/transfer.py` measures them again."""
    for row in json.loads((ROOT / "benchmarks" / "results" / name).read_text()):
        assert row["digest"] == digest_of_file(ROOT / row["artefact"] / FILE_NAME), row["artefact"]


def test_tables_of_the_docs_are_those_that_were_measured():
    folder = ROOT / "benchmarks" / "results"
    page = (ROOT / "docs" / "using.md").read_text()
    for row in json.loads((folder / "transfer_digits.json").read_text()):
        several = f" ± {row['std']:.2f} ({row['networks']})" if row["networks"] > 1 else ""
        assert f"| {row['what']} | {row['mean']:.2f}{several} |" in page
    for row in json.loads((folder / "transfer_mnist.json").read_text()):
        several = f" ± {row['std']:.2f} ({row['networks']})" if row["networks"] > 1 else ""
        (line,) = (
            line for line in page.splitlines() if line.startswith(f"| {row['what']} | ") and line.count("|") == 4
        )
        column = 2 + ["results/mnist-fixed", "results/mnist-random"].index(row["artefact"])
        assert line.split("|")[column].strip() == f"{row['mean']:.2f}{several}", line
    page = (ROOT / "docs" / "beyond.md").read_text()
    for row in json.loads((folder / "techniques_digits.json").read_text()):
        figures = (
            f"{row['held_out']:.1f} | {row['test']:.1f} ± {row['test_std_over_seeds']:.1f} | {row['std_over_nets']:.1f}"
        )
        assert f"| {row['technique']} | {figures} | {row['ms']:.0f} | {row['megabytes']:.0f} |" in page, row
    for row in json.loads((folder / "protocol_mnist.json").read_text()):
        name = row["what"].removeprefix("protocol: ")
        assert f"| {name} | {row['mean']:.2f} ± {row['std']:.2f} |" in page, row
    for row in filed_benchmark("protocol_ipc1"):
        assert row["command"].removeprefix("python ") in " ".join(page.split())
        (line,) = re.findall(rf"^\| {row['what'].removeprefix('protocol: ')} \|.*% .*$", page, re.M)
        cell = line.split("|")[2 + ["results/mnist-ipc1", "results/fashion-mnist-ipc1"].index(row["artefact"])]
        assert cell.split(" % at ") == [f" {row['mean']:.2f} ± {row['std']:.2f}", f"{row['chosen'].split()[1]} "], row
    page = (ROOT / "docs" / "networks.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.count("|") == 8}
    for row in json.loads((folder / "frozen.json").read_text()):
        found = f"{row['accuracy_mean']:.1f} ± {row['accuracy_std']:.1f}"
        assert found in (page if row["images"] == "all the data" else lines[row["images"]]), row


def filed_benchmark(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def lines_of_throughput(name):
    for row in filed_benchmark(name):
        ratio, digits = row["torch_ms"] / row["ddjax_ms"], int(name == "throughput")
        ours = f"{row['ddjax_ms']:.{digits}f} ± {row['ddjax_spread_ms']:.{digits}f}"
        yield f"| {row['networks']} | {ours} | {row['torch_ms']:.0f} ± {row['torch_spread_ms']:.0f} | **{ratio:.2f}** |"


def lines_of_cost_model(name):
    def digits(number):
        return f"{number:.4g}" if number > 100 else f"{number:.2f}"

    for layer, *numbers in filed_benchmark(name)["rows"]:
        yield f"| {layer} | {' | '.join(map(digits, numbers))} |"


def lines_of_steps_epochs(name):
    for row in filed_benchmark(name):
        time, nets, steps = f"{row['ms']:.1f} ± {row['spread_ms']:.1f}", row["networks"], row["steps"] * row["epochs"]
        if row["sweep"] == "networks":
            yield f"| {nets} | {time} | {row['ms'] / nets:.1f} | {row['MB']:.1f} |"
        if row["sweep"] == "epochs" and row.get("window") and steps != 30 and name.endswith("window"):
            yield f"| {row['window']} of {steps} | {(steps - row['window']) // 2} | {time} | {row['MB']:.1f} |"
        if row["sweep"] == "window" and row["window"] in (2, 10, 20, 30):
            yield f"| {row['window']} of 30 | {(30 - row['window']) // 2} | {time} | {row['MB']:.1f} |"


def lines_of_memory(name):
    for rule in ("reverse_over_reverse", "mixed_mode", "mixed_mode, remat"):
        megabytes = [f"{row['bytes'] / 1e6:.1f}" for row in filed_benchmark(name) if row["rule"] == rule]
        yield f"| {rule} | {' | '.join(megabytes)} |"


def lines_of_conv(name):
    for row in filed_benchmark(name):
        times = " | ".join(f"{row[f'{form}_ms']:.3g}" for form in ("native", "patches", "planes"))
        where = f"{row['layer']} | {row['batch']} | {row['networks']} | {row['what']}"
        if (row["batch"], row["networks"]) != (64, 4):  # left out of the page, as more of the same
            yield f"| {where} | {times} | {row['native_ms'] / row['planes_ms']:.1f} |"


def lines_of_first_step(name):
    for row in filed_benchmark(name):
        yield f"| {row['recipe']} | {row['first_s']:.2f} | {row['second_s']:.3f} |"


def lines_of_scaling(name):
    for row in filed_benchmark(name)["rows"]:
        figures = f"{row['ms']:.0f} ± {row['spread_ms']:.0f} | {row['gflop_a_device']:.1f} | {row['bytes'] / 1000:.0f}"
        yield f"| {row['processes']} | {figures} |"


@pytest.mark.parametrize(
    "name, lines, count",
    [
        ("throughput", lines_of_throughput, 3),
        ("throughput_alexcifar", lines_of_throughput, 2),
        ("throughput_alexcifar_1024", lines_of_throughput, 2),
        ("throughput_convnet", lines_of_throughput, 2),
        ("throughput_convnet_1024", lines_of_throughput, 2),
        ("throughput_lenet_amd", lines_of_throughput, 3),
        ("steps_epochs", lines_of_steps_epochs, 9),
        ("steps_epochs_window", lines_of_steps_epochs, 3),
        ("first_step", lines_of_first_step, 5),
        ("memory", lines_of_memory, 3),
        ("conv", lines_of_conv, 18),
        ("cost_model", lines_of_cost_model, 6),
        ("cost_model_alexcifar", lines_of_cost_model, 6),
        ("cost_model_convnet", lines_of_cost_model, 5),
        ("scaling", lines_of_scaling, 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_of_the_benchmarks_are_those_that_were_measured(name, lines, count):
    page, found = (ROOT / "benchmarks" / "README.md").read_text(), list(lines(name))
    assert [line for line in found if line.removeprefix("|").removesuffix("|") not in page] == []
    assert len(found) == count


SEEDS = ("digits", "digits-seed1", "digits-seed2")


def test_public_functions_say_what_they_raise():
    """And the page of the API has every kind of error."""
    silent = []
    for name in ddjax.__all__:
        function = getattr(ddjax, name)
        if inspect.isfunction(function):
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            if any(isinstance(node, ast.Raise) for node in ast.walk(tree)):
                silent += [] if re.search(r"Raises", function.__doc__ or "") else [name]
    assert silent == []
    api = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in ddjax.__all__ if name.endswith("Error") and f"ddjax.{name}" not in api] == []
