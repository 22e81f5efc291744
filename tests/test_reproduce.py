"""The paper's tables from nothing to RESULTS.md: all of it on digits, repetition, gaps, and the list of rows itself."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tyro
from helpers import compiled_once

from ddjax import evaluate_artifact
from ddjax.cli.main import DistillArgs
from ddjax.errors import InputError
from ddjax.experiment import distill as distilling
from ddjax.paper import page as results, reproduce, rows as paper
from ddjax.paper.filing import filed_recipe, portable
from ddjax.paper.rows import BASELINES, ROWS, RUNS, Run
from ddjax.recipes import RECIPES, get_recipe
from ddjax.storage import artifact

QUICK = reproduce.BUDGETS["quick"]
FIELDS = {"table", "row", "column", "paper", "run", "ours_mean", "ours_std", "networks", "status", "command"}
FIELDS |= {"commit", "seconds", "machine"}
PICTURES = {"images.png", "curve.png", "learning_rates.png"}
SCORED = "mnist-random"  # a run with every baseline


@pytest.fixture(autouse=True, scope="module")
def haste(tmp_path_factory):
    """The runs differ in little, and none of them takes long enough to be worth the compiler's pains; rank promotion and
    types are as users have them."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with compiled_once(tmp_path_factory.mktemp("compiled")), jax.numpy_rank_promotion("allow"):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All of the paper in the quick budget: the folder, and what the call returned."""
    root = tmp_path_factory.mktemp("paper") / "quick"
    return root, reproduce.reproduce(root, budget="quick", progress=False)


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def never(*args, **kwargs):
    raise AssertionError("called again")


def baselines_noted(monkeypatch) -> list[str]:
    """The baselines that are measured from now on, as they come."""
    noted: list[str] = []
    measure = reproduce.measure_baseline

    def note(part, *args):
        noted.append(part)
        return measure(part, *args)

    monkeypatch.setattr(reproduce, "measure_baseline", note)
    return noted


def tree(folder: Path, leave: tuple[str, ...] = ()) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in leave)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def by_place(rows) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["table"], row["row"], row["column"]): row for row in rows}


# All of it


def test_every_row_is_measured_and_filed(whole):
    root, returned = whole
    rows = read(root / "results" / "paper.json")
    assert rows == returned and len(rows) == len(ROWS) == len(by_place(rows))
    for row, expected in zip(rows, ROWS, strict=True):
        assert set(row) == FIELDS
        assert {name: row[name] for name in ("table", "row", "column", "paper", "run")} == {
            name: getattr(expected, name) for name in ("table", "row", "column", "paper", "run")
        }
        assert row["status"] == "measured", row
        assert 0 <= row["ours_mean"] <= 100 and 0 <= row["ours_std"] <= 50 and row["networks"] >= 1
        assert row["ours_std"] == 0 or row["networks"] > 1
        assert row["command"] == f"ddjax reproduce paper --only {row['run']}"
        assert row["seconds"] >= 0 and row["machine"] and isinstance(row["commit"], str)
    assert len({row["ours_mean"] for row in rows}) > 20


def figure(root: Path, row: paper.Row) -> tuple[float, float, int]:
    """Mean, deviation and count of a row, looked up in the files of its run."""
    folder = root / "results" / row.run
    summary = read(folder / "summary.json")
    if row.part in BASELINES:
        scores, prefix = read(folder / "baselines.json")[row.part], "accuracy"
    elif row.part.startswith("poisoning"):
        prefix, when = row.part.removeprefix("poisoning: ").split(", ")
        scores = {**summary["poisoning"][when], "num_nets": summary["poisoning"]["num_nets"]}
    else:
        scores = summary["distilled"]
        prefix = {"distilled": "accuracy", "before": "accuracy_before"}[row.part]
    return scores[f"{prefix}_mean"], scores[f"{prefix}_std"], scores["num_nets"]


def test_figures_are_those_of_the_runs(whole):
    root, rows = whole
    for row, expected in zip(rows, ROWS, strict=True):
        assert (row["ours_mean"], row["ours_std"], row["networks"]) == figure(root, expected)


def test_seconds_and_commit_are_those_of_the_figure_itself(whole):
    root, rows = whole
    for row, expected in zip(rows, ROWS, strict=True):
        folder = root / "results" / row["run"]
        facts = read(folder / "provenance.json")
        own = read(folder / "baselines.json")[expected.part] if expected.part in BASELINES else facts
        seconds = own["seconds"] if expected.part in BASELINES else facts["seconds_distilling"]
        assert (row["commit"], row["machine"], row["seconds"]) == (own["commit"], own["machine"], seconds)
        assert set(facts["versions"]) >= {"ddjax", "jax", "jaxlib"} and facts["python"].count(".") == 2


def test_figures_are_those_of_the_artefacts(whole):
    """Evaluated anew from the file alone: one fixed network, fresh ones, and those that a pool holds out."""
    root, rows = whole
    for name in ("mnist-fixed", "mnist-random", "mnist-usps-random", "mnist-usps-fixed"):
        (row,) = [r for r, e in zip(rows, ROWS, strict=True) if (e.run, e.part) == (name, "distilled")]
        evaluation, count = evaluate_artifact(root / "results" / name)
        assert count == 400 and len(evaluation.accuracy) == row["networks"]
        assert evaluation.accuracy[:, -1].mean() == pytest.approx(row["ours_mean"], abs=0.26)


def test_one_network_is_one_figure_for_each_set_of_images(whole):
    for part, fixed in (("k-means", 3), ("class average", 1), ("random real", 2), ("optimised real", 2)):
        for name, count in (("mnist-fixed", fixed), ("mnist-random", max(fixed, 2))):
            assert read(whole[0] / "results" / name / "baselines.json")[part]["num_nets"] == count


def test_each_kept_run_is_whole(whole):
    root, _ = whole
    assert {path.name for path in (root / "results").iterdir() if path.is_dir()} == set(RUNS)
    for name, run in RUNS.items():
        folder = root / "results" / name
        files = {*reproduce.KEPT, "provenance.json", *(["baselines.json"] if run.baselines else [])}
        assert files <= {path.name for path in folder.iterdir()} <= files | {"baselines.json"}
        assert set(run.baselines) <= set(read(folder / "baselines.json") if run.baselines else {})
        recipe = artifact.load_artifact(folder).metadata["recipe"]
        assert filed_recipe(folder) == portable(QUICK.shrink(run.settings))
        assert recipe["data"] == "digits" and recipe["init"] == run.settings.init
        assert read(folder / "summary.json")["num_test"] == 400


def test_equal_settings_are_run_once(whole):
    """The runs that the quick budget makes equal have one folder of work among them, and files that are the same."""
    root, _ = whole
    groups: dict[str, list[str]] = {}
    for name, run in RUNS.items():
        groups.setdefault(json.dumps(portable(QUICK.shrink(run.settings))), []).append(name)
    made = {path.name for path in (root / "runs").iterdir()}
    assert len(made) == len(groups) < len(RUNS)
    for members in groups.values():
        assert len(made & set(members)) == 1
        contents = {(root / "results" / name / artifact.FILE_NAME).read_bytes() for name in members}
        assert len(contents) == 1
    pools = {path.name for path in (root / "pools").iterdir()}
    assert pools == {"digits.safetensors"}


def test_the_page_has_every_table_run_and_picture(whole):
    root, rows = whole
    text = (root / "RESULTS.md").read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == [*dict.fromkeys(row.table for row in ROWS), "Runs"]  # and none that is not measured
    assert "not measured" not in text.split("## Runs")[0].split("## Table 1")[1]
    assert [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")] == list(RUNS)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    expected = {f"results/{name}/{picture}" for name in RUNS for picture in PICTURES}
    assert sorted(pictures) == sorted(expected | {"results/steps.png", "results/epochs.png"})
    for link in pictures:
        assert (root / link).read_bytes().startswith(b"\x89PNG"), link
    anchors = re.findall(r"\]\(#([^)]+)\)", text)
    assert anchors == list(RUNS)
    # Every cell, as the page promises to show it.
    lines = text.splitlines()
    for row in rows:
        many = row["networks"] > 1
        spread = f" ± {row['ours_std']:.1f}** ({row['networks']})" if many else "**"
        cell = f"{row['paper'] or '–'} → **{row['ours_mean']:.1f}{spread}"
        assert any(line.startswith(f"| {row['row']} |") and f"| {cell} |" in line for line in lines), cell


def test_paths_of_this_machine_are_not_written_down(whole):
    """What is filed is committed and read elsewhere."""
    root, _ = whole
    for path in (root / "results" / "paper.json", root / "RESULTS.md", *root.glob("results/*/*.json")):
        assert str(root) not in path.read_text(), path


# Again


def test_a_second_call_repeats_nothing(copy, monkeypatch):
    monkeypatch.setattr(distilling, "distill", never)
    monkeypatch.setattr(reproduce, "measure_baseline", never)
    monkeypatch.setattr(reproduce, "pretrain_for", never)
    before = tree(copy, leave=("steps.png", "epochs.png"))
    rows = reproduce.reproduce(copy, budget="quick", progress=False)
    assert all(row["status"] == "measured" for row in rows)
    assert tree(copy, leave=("steps.png", "epochs.png")) == before


def test_a_lost_baseline_is_measured_again_alone(copy, monkeypatch):
    path = copy / "results" / SCORED / "baselines.json"
    held = read(path)
    lost = held.pop("K-NN on random real")
    path.write_text(json.dumps(held))
    measured = baselines_noted(monkeypatch)
    monkeypatch.setattr(distilling, "distill", never)
    rows = reproduce.reproduce(copy, only=[SCORED], budget="quick", progress=False)
    assert measured == ["K-NN on random real"]
    found = read(path)
    assert {name: found[name] for name in held} == held
    assert {k: v for k, v in found["K-NN on random real"].items() if k != "seconds"} == {
        k: v for k, v in lost.items() if k not in ("seconds", "commit")
    } | {"commit": found["K-NN on random real"]["commit"]}
    (row,) = [r for r, e in zip(rows, ROWS, strict=True) if (e.run, e.part) == (SCORED, "K-NN on random real")]
    assert row["status"] == "measured" and row["ours_mean"] == lost["accuracy_mean"]


def test_a_lost_result_comes_from_its_run(copy, monkeypatch):
    """The folder of the work holds a finished run, which is not run again: the files are written once more."""
    name = "digits"
    shutil.rmtree(copy / "results")
    before = tree(copy / "runs", leave=(*PICTURES, "summary.json"))
    rows = reproduce.reproduce(copy, only=[name], budget="quick", progress=False)
    assert {row["run"] for row in rows if row["status"] == "measured"} == {name}
    assert {row["status"] for row in rows if row["run"] != name} == {"not run yet"}
    assert tree(copy / "runs", leave=(*PICTURES, "summary.json")) == before


# Gaps


TINY = {"outer_steps": 2, "eval_every": 1, "batch_size": 16, "model": "linear"}


@pytest.fixture
def paper_of(monkeypatch):
    """`paper_of(name=run)`: a paper of these runs alone, and of one row for each; the budget may be the full one."""

    def arm(part="distilled", **runs):
        monkeypatch.setattr(reproduce, "RUNS", runs)
        monkeypatch.setattr(results, "RUNS", runs)
        monkeypatch.setattr(
            reproduce, "ROWS", tuple(paper.Row("Table", part, name, "90.0", name, part) for name in runs)
        )

    return arm


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(
        InputError, match="^there is no run named 'mnist': choose among digits, digits-exact, mnist-fixed"
    ):
        reproduce.reproduce(tmp_path, only=["digits", "mnist"], budget="quick", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_data_says_so_and_the_others_are_done(tmp_path, paper_of, capsys):
    paper_of(
        first=Run("digits", TINY), second=Run("digits", {**TINY, "data": "svhn_cropped"}), third=Run("digits", TINY)
    )
    rows = reproduce.reproduce(tmp_path, data_dir=str(tmp_path / "void"))
    status = {row["run"]: row["status"] for row in rows}
    assert f"second: left out, {status['second']}\n" in capsys.readouterr().out
    assert status["first"] == status["third"] == "measured"
    assert "svhn_cropped" in status["second"] and "ddjax prepare svhn_cropped" in status["second"]
    empty = ("ours_mean", "ours_std", "networks", "commit", "seconds", "machine")
    assert {rows[1][name] for name in empty} == {None}
    text = (tmp_path / "RESULTS.md").read_text()
    assert "90.0 → not measured" in text and "### second" not in text
    missing = text.split("## Not measured")[1].split("## ")[0]
    assert f"| `second` | {status['second']} | `ddjax reproduce paper --only second` |" in missing
    assert "`first`" not in missing and not (tmp_path / "results" / "second").exists()


def test_named_runs_raise_what_they_lack(tmp_path, paper_of):
    paper_of(first=Run("digits", TINY), second=Run("digits", {**TINY, "data": "svhn_cropped"}))
    with pytest.raises(InputError, match="ddjax prepare svhn_cropped"):
        reproduce.reproduce(tmp_path, only=["second", "first"], data_dir=str(tmp_path / "void"), progress=False)
    assert not (tmp_path / "results" / "first").exists()


def test_runs_for_an_accelerator_are_left_out_unless_named(tmp_path, paper_of):
    assert jax.default_backend() == "cpu"
    paper_of(here=Run("digits", TINY), there=Run("digits", {**TINY, "seed": 1}, accelerator=True))
    here, there = reproduce.reproduce(tmp_path, progress=False)
    assert here["status"] == "measured"
    assert there["status"] == "for an accelerator, and there is none here" and there["ours_mean"] is None
    assert "| `there` | for an accelerator, and there is none here |" in (tmp_path / "RESULTS.md").read_text()
    here, there = reproduce.reproduce(tmp_path, only=["there"], progress=False)
    assert here["status"] == there["status"] == "measured" and there["ours_mean"] is not None


def test_results_of_other_settings_are_not_shown_for_the_recipes(tmp_path, paper_of):
    """The row says so, and the work of the old settings, once out of the way, makes room for a new measurement."""
    paper_of(only=Run("digits", TINY))
    (before,) = reproduce.reproduce(tmp_path, progress=False)
    assert before["status"] == "measured"
    paper_of(only=Run("digits", {**TINY, "seed": 9}))
    (other,) = reproduce.reproduce(tmp_path, progress=False)
    assert other["ours_mean"] is None and "other settings" in other["status"]
    assert "90.0 → not measured" in (tmp_path / "RESULTS.md").read_text()
    with pytest.raises(InputError, match="seed 0 there, 9 now"):
        reproduce.reproduce(tmp_path, only=["only"], progress=False)
    shutil.rmtree(tmp_path / "runs")
    (again,) = reproduce.reproduce(tmp_path, only=["only"], progress=False)
    assert again["status"] == "measured"
    assert artifact.load_artifact(tmp_path / "results" / "only").metadata["recipe"]["seed"] == 9


@pytest.mark.parametrize("elsewhere", [True, False], ids=["taken from another run", "made anew"])
def test_baselines_of_former_settings_are_forgotten(tmp_path, paper_of, monkeypatch, elsewhere):
    knn, other = "K-NN on random real", {**TINY, "seed": 1}
    others = {"z": Run("digits", other)} if elsewhere else {}
    paper_of(knn, a=Run("digits", TINY, baselines=(knn,)), **others)
    first, *_ = reproduce.reproduce(tmp_path, progress=False)
    if not elsewhere:
        shutil.rmtree(tmp_path / "runs")
    measured = baselines_noted(monkeypatch)
    paper_of(knn, a=Run("digits", other, baselines=(knn,)), **others)
    second, *_ = reproduce.reproduce(tmp_path, progress=False)
    assert measured == [knn]
    assert first["status"] == second["status"] == "measured" and first["ours_mean"] != second["ours_mean"]


# The list


def test_every_row_has_its_run_and_part():
    known = {"distilled", "before", *BASELINES}
    known |= {f"poisoning: {w}, {when}" for w in ("overall", "modified", "attacked") for when in ("before", "after")}
    for row in ROWS:
        assert row.run in RUNS and row.part in known
        assert row.table and row.row and row.column
        assert row.part not in BASELINES or row.part in RUNS[row.run].baselines
        assert not row.part.startswith("poisoning") or RUNS[row.run].settings.poison
        assert re.fullmatch(r"((about )?\d+(\.\d+)?( ± \d+\.\d+)?†?)?", row.paper), row.paper
    places = [(row.table, row.row, row.column) for row in ROWS]
    assert len(set(places)) == len(places)
    assert {row.run for row in ROWS} == set(RUNS)
    for name, run in RUNS.items():
        assert set(run.baselines) == {row.part for row in ROWS if row.run == name and row.part in BASELINES}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_a_recipe_and_its_command_says_it(name):
    run = RUNS[name]
    assert run.settings.validate() is not None and run.recipe in RECIPES
    assert set(run.changes) <= {field.name for field in dataclasses.fields(get_recipe(run.recipe))}
    program, command, recipe, *flags = run.command.split()
    assert (program, command, recipe) == ("ddjax", "distill", run.recipe)
    args = tyro.cli(DistillArgs, args=flags, default=DistillArgs(get_recipe(recipe)))
    assert args.recipe == run.settings and not args.resume and args.out is None
    assert set(run.baselines) <= set(BASELINES) and len(set(run.baselines)) == len(run.baselines)
    quick = QUICK.shrink(run.settings)
    assert quick.validate().data == "digits" and (quick.pool == "") == (quick.source == "") == (run.settings.pool == "")


def test_runs_that_need_an_accelerator_are_marked():
    convolutional = {name for name, run in RUNS.items() if run.settings.model in ("alexcifar", "alexnet")}
    assert {name for name, run in RUNS.items() if run.accelerator} == convolutional != set()


def test_ablations_differ_in_one_thing_and_share_a_point():
    """S with three epochs, E with ten steps, all at one outer budget; the shared point is one run."""
    for base in ("mnist-fixed", "mnist-random"):
        runs = {name: run.settings for name, run in RUNS.items() if re.fullmatch(rf"{base}-s\d+-e\d+", name)}
        assert len(runs) == len(paper.STEPS) + len(paper.EPOCHS) - 1
        for name, recipe in runs.items():
            assert name == f"{base}-s{recipe.inner.steps}-e{recipe.inner.epochs}"
            assert recipe.inner.steps == 10 or recipe.inner.epochs == 3
        one_size = {recipe.replace(steps=1, epochs=1) for recipe in runs.values()}
        assert len(one_size) == 1
        budget: dict[str, Any] = {"outer_steps": 1, "num_nets": 1, "valid_nets": 1, "test_nets": 1}
        base_size = get_recipe(base).replace(steps=1, epochs=1, **budget)
        assert one_size.pop().replace(**budget) == base_size


def test_the_figures_of_the_paper_that_were_read_in_it():
    """Those that its abstract, text and tables give, without a dagger; everything else is marked as recalled."""
    told = {(row.table, row.row, row.column): row.paper for row in ROWS}
    assert told["Table 1", "distilled", "MNIST fixed, 10 images, one step"] == "93.8"
    assert told["Table 1", "before training", "MNIST fixed, 10 images, one step"] == "12.9"
    assert told["Table 1", "distilled", "MNIST random"] == "79.5 ± 8.1"
    assert told["Table 1", "distilled", "CIFAR-10 random"] == "36.8 ± 1.2"
    assert np.all(["†" in told["Table 1", part, "MNIST random"] for part in BASELINES if part != "full data"])
