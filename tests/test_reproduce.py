"""The paper's tables from nothing to RESULTS.md: all of it on digits, repetition, provenance, gaps, and the list of rows."""

import dataclasses
import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import compiled_once

from ddjax import evaluate_artifact, make_dataset
from ddjax.cli.distill import Distill
from ddjax.cli.main import main
from ddjax.data.catalogue import source_of
from ddjax.errors import InputError
from ddjax.experiment.outcome import comparison
from ddjax.experiment.setup import set_up
from ddjax.paper import page as results, reproduce, rows as paper
from ddjax.paper.budgets import BUDGETS, Budget
from ddjax.paper.filing import command, departures, filed_recipe, portable
from ddjax.paper.rows import ROWS
from ddjax.paper.runs import BASELINES, EPOCHS, PROTOCOL, RUNS, STEPS, Run
from ddjax.recipes import RECIPES, Recipe, get_recipe
from ddjax.show import plots
from ddjax.storage import artifact, provenance
from ddjax.training import devices, fit
from ddjax.training.pretrain import Training

QUICK = BUDGETS["quick"]
FIELDS = {
    "book",
    "table",
    "row",
    "column",
    "paper",
    "run",
    "part",
    "ours_mean",
    "ours_std",
    "networks",
    "departs",
    "status",
}
FIELDS |= {"command", "commit", "seconds", "machine"}
PICTURES = {"images.png", "curve.png", "learning_rates.png"}
BOOKS = ("paper", "benchmark")
BESIDE = (*BASELINES, PROTOCOL)
SCORED = "mnist-random"  # a run with every baseline


@pytest.fixture(autouse=True, scope="module")
def haste(tmp_path_factory):
    """The runs differ in little, and none of them takes long enough to be worth the compiler's pains, nor the memory that
    forgetting compiled programs saves; the first pictures stand for all. Rank promotion and types are as users have them."""
    drawn: dict[str, bytes] = {}
    plot_run, plot_ablation = plots.plot_run, plots.plot_ablation

    def run_once(held, metrics, folder):
        if not PICTURES & set(drawn):
            drawn.update({path.name: path.read_bytes() for path in plot_run(held, metrics, folder)})
        for name in PICTURES:
            (folder / name).write_bytes(drawn[name])

    def ablation_once(points, path):
        if path.name not in drawn:
            plot_ablation(points, path)
            drawn[path.name] = path.read_bytes()
        path.write_bytes(drawn[path.name])

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with (
            compiled_once(tmp_path_factory.mktemp("compiled")),
            jax.numpy_rank_promotion("allow"),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(jax, "clear_caches", lambda: None)
            patch.setattr(plots, "plot_run", run_once)
            patch.setattr(plots, "plot_ablation", ablation_once)
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All of the paper and of the benchmark in the quick budget: the folder, and what the calls returned."""
    root = tmp_path_factory.mktemp("paper") / "quick"
    of_paper, of_benchmark = (reproduce.reproduce(root, book, budget="quick", progress=False) for book in BOOKS)
    return root, of_paper + of_benchmark


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The page built from what the repository has under `results/`: the folder, and its rows."""
    root = tmp_path_factory.mktemp("committed")
    shutil.copytree(Path(__file__).parents[1] / "results", root / "results")
    reproduce.reproduce(root, page_only=True, progress=False)
    return root, filed_rows(root)


@pytest.fixture
def idle(monkeypatch):
    """Nothing is run from now on."""
    for name in ("distill", "pretrain_for"):
        monkeypatch.setattr(reproduce, name, never)
    monkeypatch.setattr(Budget, "measure", never)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def filed_rows(root: Path) -> list[dict[str, Any]]:
    return [row for book in BOOKS for row in read(root / "results" / f"{book}.json")]


def never(*args, **kwargs):
    raise AssertionError("called again")


def baselines_noted(monkeypatch) -> list[str]:
    """The baselines that are measured from now on, as they come; all of them do equally well."""
    noted: list[str] = []

    def note(self, part, experiment, like):
        noted.append(part)
        return {"accuracy_mean": 12.5, "accuracy_std": 0.5, "num_nets": 2, "chosen": "anew"}

    monkeypatch.setattr(Budget, "measure", note)
    return noted


def tree(folder: Path, leave: tuple[str, ...] = ()) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in leave)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def by_place(rows) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["table"], row["row"], row["column"]): row for row in rows}


# All of it


def test_every_row_is_measured_and_filed(whole):
    root, returned = whole
    rows = filed_rows(root)
    assert rows == returned and len(rows) == len(ROWS) == len(by_place(rows))
    for row, expected in zip(rows, ROWS, strict=True):
        assert set(row) == FIELDS
        assert {name: row[name] for name in ("book", "table", "row", "column", "paper", "run")} == {
            name: getattr(expected, name) for name in ("book", "table", "row", "column", "paper", "run")
        }
        assert row["status"] == "measured", row
        assert 0 <= row["ours_mean"] <= 100 and 0 <= row["ours_std"] <= 50 and row["networks"] >= 1
        assert row["ours_std"] == 0 or row["networks"] > 1
        assert row["command"] == f"ddjax reproduce {row['book']} --only {row['run']}"
        assert row["seconds"] >= 0 and row["machine"] and isinstance(row["commit"], str)
    assert len({row["ours_mean"] for row in rows}) > 20


def figure(root: Path, row: paper.Row) -> tuple[float, float, int]:
    """Mean, deviation and count of a row, looked up in the files of its run."""
    folder = root / "results" / row.run
    summary = read(folder / "summary.json")
    if row.part in BESIDE:
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
        (begun,) = facts["origins"]
        own = read(folder / "baselines.json")[expected.part] if expected.part in BESIDE else begun
        seconds = own["seconds"] if expected.part in BESIDE else facts["seconds_distilling"]
        assert (row["commit"], row["machine"], row["seconds"]) == (own["commit"], own["machine"], seconds)
        assert set(own["versions"]) >= {"ddjax", "jax", "jaxlib", "numpy", "scikit-learn", "pillow"}
        assert begun["python"].count(".") == 2 and begun["inputs"]["data"].startswith("digits")


def test_figures_are_those_of_the_artefacts(whole):
    """Evaluated anew from the file alone: one fixed network, fresh ones, and those that a pool holds out."""
    root, rows = whole
    for name in ("mnist-fixed", "mnist-random", "mnist-usps-random", "mnist-usps-fixed"):
        row, *_ = (r for r, e in zip(rows, ROWS, strict=True) if (e.run, e.part) == (name, "distilled"))
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
        assert files <= {path.name for path in folder.iterdir()} <= files | {"baselines.json", "README.md"}
        assert set(run.baselines) <= set(read(folder / "baselines.json") if run.baselines else {})
        recipe = artifact.load_artifact(folder).metadata["recipe"]
        assert filed_recipe(folder) == portable(QUICK.shrink(run.settings))
        assert recipe["data"]["data"] == "digits" and recipe["network"]["init"] == run.settings.network.init
        summary = read(folder / "summary.json")
        # The baselines' figures stand in one place.
        assert summary["num_test"] == 400 and not {"random_real", "all_data"} & set(summary)


def test_equal_settings_are_run_once(whole):
    """The runs that the quick budget makes equal have one folder of work among them, and files that are the same."""
    root, _ = whole
    groups: dict[Recipe, list[str]] = {}
    for name, run in RUNS.items():
        groups.setdefault(portable(QUICK.shrink(run.settings)), []).append(name)
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
        spread += f" `{row['departs']}`" if row["departs"] else ""
        cell = f"{row['paper'] or '–'} → **{row['ours_mean']:.1f}{spread}"
        assert any(line.startswith(f"| {row['row']} |") and f"| {cell} |" in line for line in lines), cell


def test_the_page_of_the_quick_budget_says_what_it_is_at_its_top(whole, committed):
    title, _, warning, *_ = (whole[0] / "RESULTS.md").read_text().splitlines()
    assert title == "# Results of the quick budget, all of them on scikit-learn's digits"
    assert warning.startswith("**Quick budget: every run here, whatever the tables call it, is a linear network")
    text = (committed[0] / "RESULTS.md").read_text()
    assert text.startswith("# Results\n\nBuilt by") and "Quick budget" not in text


def test_the_artefact_tells_of_its_pool(whole):
    told = artifact.load_artifact(whole[0] / "results" / "mnist-usps-random").metadata["pool"]
    assert told == {
        "data_source": "digits:1.0.0",
        "training": {"steps": 20, "batch_size": 32, "lr": 2e-3},
        "seed": 0,
        "num_nets": 4,
        "test_nets": 2,
        "digest": provenance.digest_of_file(whole[0] / "pools" / "digits.safetensors"),
    }


def test_paths_of_this_machine_are_not_written_down(whole):
    """What is filed is committed and read elsewhere."""
    root, _ = whole
    for path in (*root.glob("results/*.json"), root / "RESULTS.md", *root.glob("results/*/*.json")):
        assert str(root) not in path.read_text(), path


# Again


def test_a_second_call_repeats_nothing(copy, idle):
    before = tree(copy, leave=("steps.png", "epochs.png"))
    for book in BOOKS:
        rows = reproduce.reproduce(copy, book, budget="quick", progress=False)
        assert all(row["status"] == "measured" and row["book"] == book for row in rows)
    assert tree(copy, leave=("steps.png", "epochs.png")) == before


def test_a_named_run_that_is_measured_says_so_and_how_to_repeat_it(copy, idle, capsys):
    reproduce.reproduce(copy, only=["digits"], budget="quick")
    commit = read(copy / "results" / "digits" / "provenance.json")["origins"][0]["commit"]
    told = f"digits: measured already, at commit {commit}; --only digits --again measures it anew\n"
    assert capsys.readouterr().out == told


def test_flags_reach_what_they_are_for(monkeypatch, tmp_path, capsys):
    asked: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)  # this process has its devices already
    monkeypatch.setattr(reproduce, "reproduce", lambda *places, **options: asked.append((places, options)) or [])
    flags = ["--page-only", "--accept-changes", "--again", "--only", "digits"]
    main(["reproduce", "benchmark", *flags, "--out", str(tmp_path)])
    told = {"only": ("digits",), "again": True, "accept_changes": True, "page_only": True}
    assert asked == [((tmp_path, "benchmark"), told | {"budget": "full", "data_dir": None})]


def test_a_pool_is_announced_before_it_is_trained(tmp_path, monkeypatch, capsys):
    def told_before(recipe, **options):
        raise LookupError(capsys.readouterr().out)

    monkeypatch.setattr(reproduce, "pretrain_for", told_before)
    with pytest.raises(LookupError) as raised:
        reproduce.reproduce(tmp_path, only=["usps-mnist-random"], data_dir=str(tmp_path))
    pool = tmp_path / "pools" / "usps-28x28x1-lenet.safetensors"
    assert raised.value.args[0] == (
        "usps-mnist-random: distilling\n"
        f"usps-mnist-random: starts from 140 networks trained on usps; those that {pool} lacks are trained now\n"
    )


def test_every_filed_set_has_its_card(committed):
    """What it is made of and on what terms, its normalisation, what it reaches, and what it is not good for."""
    root, _ = committed
    folders = [path.parent for path in (root / "results").glob("*/distilled.safetensors")]
    assert len(folders) > 20
    for folder in folders:
        words = (folder / "README.md").read_text()
        held, summary = artifact.load_artifact(folder), read(folder / "summary.json")
        homepage, terms = source_of(held.metadata["data"])
        assert (
            words.startswith(f"# {folder.name}\n") and homepage in words and f"| terms of the data | {terms} |" in words
        )
        assert f"**{summary['distilled']['accuracy_mean']:.2f}**" in words
        means = ", ".join(f"{mean:.4g}" for mean in held.metadata["transform"]["mean"])
        assert f"mean {means}, std" in words
        assert ("the weights in the file, and no others" in words) == (held.params is not None)
        assert ("**It is an attack**" in words) == bool(held.metadata["recipe"]["data"]["poison"])


@pytest.mark.parametrize(("name", "given"), [("cifar10-poison", True), ("usps-mnist-random", False)])
def test_networks_are_trained_on_the_given_data_where_they_are_the_source_too(name, given, tmp_path, monkeypatch):
    def asked(recipe, *, dataset=None, **options):
        raise InputError(f"given: {dataset is some}")

    some = make_dataset((np.zeros((40, 32, 32, 3), np.uint8), np.arange(40) % 10))
    monkeypatch.setattr(reproduce, "pretrain_for", asked)
    with pytest.raises(InputError, match=f"^given: {given}$"):
        reproduce.reproduce(tmp_path, only=[name], dataset=some, progress=False)


def test_a_lost_baseline_is_measured_again_alone(copy, monkeypatch):
    path = copy / "results" / SCORED / "baselines.json"
    held = read(path)
    lost = held.pop("K-NN on random real")
    path.write_text(json.dumps(held))
    measured, measure = [], Budget.measure

    def note(self, part, *args):
        measured.append(part)
        return measure(self, part, *args)

    monkeypatch.setattr(Budget, "measure", note)
    monkeypatch.setattr(reproduce, "distill", never)
    rows = reproduce.reproduce(copy, only=[SCORED], budget="quick", progress=False)
    assert measured == ["K-NN on random real"]
    found = read(path)
    assert {name: found[name] for name in held} == held
    assert {**found["K-NN on random real"], "seconds": 0} == {**lost, "seconds": 0}
    (row,) = [row for row in rows if (row["run"], row["part"]) == (SCORED, "K-NN on random real")]
    assert row["status"] == "measured" and row["ours_mean"] == lost["accuracy_mean"]


def test_a_lost_result_comes_from_its_run_and_has_the_origin_of_it(copy, idle, monkeypatch):
    """The folder of the work holds a finished run, which is not run again: it is filed as what it is, whatever runs now."""
    monkeypatch.setattr(provenance, "commit", lambda: "another commit")
    monkeypatch.setattr(provenance, "code", lambda: "other code")
    before, work = (tree(copy / folder, leave=(*PICTURES,)) for folder in ("results/digits", "runs"))
    shutil.rmtree(copy / "results")
    rows = reproduce.reproduce(copy, only=["digits"], budget="quick", progress=False)
    assert {row["run"] for row in rows if row["status"] == "measured"} == {"digits"}
    assert {row["status"] for row in rows if row["run"] != "digits"} == {"not run yet"}
    assert tree(copy / "runs", leave=(*PICTURES,)) == work
    assert tree(copy / "results" / "digits", leave=(*PICTURES,)) == before


# Provenance


def rows_of(rows, name: str) -> dict[str, dict[str, Any]]:
    return {row["part"]: row for row in rows if row["run"] == name}


def section(root: Path, name: str) -> str:
    return (root / "RESULTS.md").read_text().split(f"\n### {name}\n")[1].split("\n### ")[0]


def test_a_run_that_went_on_elsewhere_says_both_places(tmp_path, paper_of, monkeypatch):
    paper_of(only=Run("digits", TINY))
    monkeypatch.setattr(provenance, "commit", lambda: "first")
    monkeypatch.setattr(provenance, "machine", lambda: "one machine")
    reproduce.reproduce(tmp_path, progress=False)
    assert "outer steps" not in section(tmp_path, "only").split("\n\n")[1]
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "runs" / "only" / "summary.json").unlink()  # as an interruption leaves it
    paper_of(only=Run("digits", {**TINY, "outer_steps": 3}))
    monkeypatch.setattr(provenance, "code", lambda: "other code")
    monkeypatch.setattr(provenance, "commit", lambda: "second")
    monkeypatch.setattr(provenance, "machine", lambda: "another machine")
    with pytest.raises(
        InputError, match=r"begun with something else \(code \w+ there, other code now\).*--accept-changes"
    ):
        reproduce.reproduce(tmp_path, only=["only"], progress=False)
    (row,) = reproduce.reproduce(tmp_path, only=["only"], accept_changes=True, progress=False)
    assert (row["commit"], row["machine"]) == ("first, then second", "one machine, then another machine")
    assert "| one machine, then another machine | `first, then second` |" in (tmp_path / "RESULTS.md").read_text()
    assert re.search(
        r" at commit `first`; one machine; .*, for 2 outer steps; then at commit `second`; another machine; .*, for 3 outer "
        "steps; ",
        section(tmp_path, "only"),
    )


@pytest.fixture
def quick_budget(monkeypatch):
    """`quick_budget(pool_nets=6)`: another quick budget from now on."""
    return lambda **changes: monkeypatch.setitem(BUDGETS, "quick", dataclasses.replace(QUICK, **changes))


def test_a_baseline_of_an_earlier_grid_is_marked_and_then_measured_again(copy, quick_budget, monkeypatch):
    quick_budget(tuning=dataclasses.replace(QUICK.tuning, rates=(0.01, 0.2)))
    stale = set(BASELINES) - {"full data"}
    before = rows_of(read(copy / "results" / "paper.json"), SCORED)
    rows = rows_of(reproduce.reproduce(copy, page_only=True, budget="quick", progress=False), SCORED)
    assert {part for part, row in rows.items() if row["status"] == "measured with an earlier grid"} == stale
    assert {part: row["ours_mean"] for part, row in rows.items()} == {p: row["ours_mean"] for p, row in before.items()}
    text, row = (copy / "RESULTS.md").read_text(), rows["class average"]
    assert f"→ **{row['ours_mean']:.1f} ± {row['ours_std']:.1f}** (2) ‡ |" in text and "\n‡ marks a baseline" in text
    assert "| measured with an earlier grid |" in section(copy, SCORED)
    measured = baselines_noted(monkeypatch)
    monkeypatch.setattr(reproduce, "distill", never)
    rows = rows_of(reproduce.reproduce(copy, only=[SCORED], budget="quick", progress=False), SCORED)
    assert set(measured) == stale and {row["status"] for row in rows.values()} == {"measured"}
    assert {part for part, row in rows.items() if row["ours_mean"] == 12.5} == stale
    reproduce.reproduce(copy, only=[SCORED], budget="quick", progress=False)
    assert len(measured) == len(stale)


def test_a_baseline_for_other_distilled_data_is_stale(copy, monkeypatch):
    path = copy / "results" / SCORED / "baselines.json"
    held = read(path)
    held["k-means"]["artifact"] = "another"
    path.write_text(json.dumps(held))
    rows = rows_of(reproduce.reproduce(copy, page_only=True, budget="quick", progress=False), SCORED)
    assert [part for part, row in rows.items() if row["status"] == "measured for other distilled data"] == ["k-means"]
    measured = baselines_noted(monkeypatch)
    reproduce.reproduce(copy, only=[SCORED], budget="quick", progress=False)
    assert measured == ["k-means"]


@pytest.mark.parametrize("changes", [{"training": Training(21, 32)}, {"pool_nets": 5}, {"pool_test_nets": 1}])
def test_what_another_pool_gave_is_not_shown(copy, quick_budget, changes):
    quick_budget(**changes)
    rows = reproduce.reproduce(copy, page_only=True, budget="quick", progress=False)
    pooled = {name for name, run in RUNS.items() if run.settings.network.source}
    other = "measured with other settings than the recipe has now"
    assert {row["run"] for row in rows if row["status"] == other} == pooled
    assert {row["status"] for row in rows if row["run"] not in pooled} == {"measured"}


def test_a_larger_pool_than_asked_for_will_do(copy, quick_budget):
    quick_budget(pool_nets=3)
    rows = reproduce.reproduce(copy, page_only=True, budget="quick", progress=False)
    assert rows_of(rows, "mnist-usps-fixed")["distilled"]["status"] == "measured"


def test_other_versions_are_told_and_no_reason_to_measure_again(copy, idle):
    path = copy / "results" / SCORED / "baselines.json"
    held = read(path)
    held["k-means"]["versions"]["scikit-learn"] = "0.1"
    path.write_text(json.dumps(held))
    rows = reproduce.reproduce(copy, only=[SCORED], budget="quick", progress=False)
    assert rows_of(rows, SCORED)["k-means"]["status"] == "measured"
    here = provenance.versions()["scikit-learn"]
    assert section(copy, SCORED).count(f"measured; scikit-learn was 0.1, and is {here} here |") == 1


def test_files_of_before_are_read_and_their_baselines_are_stale(copy):
    """One flat origin, and baselines of which nobody knows what they were tuned with, nor for what."""
    folder = copy / "results" / SCORED
    old = {
        "commit": "f00",
        "machine": "a machine",
        "python": "3.11.7",
        "versions": {"jax": "0.4"},
        "seconds_distilling": 3,
    }
    (folder / "provenance.json").write_text(json.dumps(old | {"command": "ddjax distill", "seconds_last_call": 4}))
    own = ("accuracy_mean", "accuracy_std", "num_nets", "chosen", "seconds", "commit", "machine")
    held = {part: {name: figure[name] for name in own} for part, figure in read(folder / "baselines.json").items()}
    (folder / "baselines.json").write_text(json.dumps(held))
    rows = rows_of(reproduce.reproduce(copy, page_only=True, budget="quick", progress=False), SCORED)
    assert {rows[part]["status"] for part in BASELINES} == {"measured with an earlier grid"}
    assert {part: row["ours_mean"] for part, row in rows.items()} == {
        part: read(folder / "summary.json")["distilled"]["accuracy_mean"]
        if part == "distilled"
        else held[part]["accuracy_mean"]
        for part in rows
    }
    ours = rows["distilled"]
    assert (ours["status"], ours["commit"], ours["seconds"]) == ("measured", "f00", 3)
    assert " at commit `f00`; a machine; Python 3.11.7, jax 0.4; 3 s." in section(copy, SCORED)


def test_random_real_images_have_one_figure_wherever_they_are_measured(whole, monkeypatch):
    """`ddjax distill` compares with what the table has."""
    monkeypatch.setattr(fit, "full_data", lambda *args, **options: fit.Scores(np.zeros(1), "left out"))
    for name in ("mnist-random-s1-e3", "digits"):
        experiment = set_up(QUICK.shrink(RUNS[name].settings))
        like = artifact.load_artifact(whole[0] / "results" / name).distilled
        assert comparison(experiment, like)["random_real"] == Budget().measure("random real", experiment, like)


# What is committed


def printed_commands(root: Path) -> dict[str, str]:
    """The command of each run, as the page has it."""
    return dict(re.findall(r"\n### (\S+)\n\n`(ddjax distill [^`]+)`", (root / "RESULTS.md").read_text()))


def test_every_command_of_the_page_gives_the_settings_that_are_filed(committed, whole, monkeypatch):
    typed: list[Distill] = []
    monkeypatch.setattr(Distill, "run", lambda self: typed.append(self))
    for root, names in (
        (committed[0], {row["run"] for row in committed[1] if row["status"] == "measured"}),
        (whole[0], set(RUNS)),
    ):
        commands = printed_commands(root)
        assert set(commands) == names
        for name, line in commands.items():
            main(shlex.split(line)[1:])
            assert portable(typed[-1].recipe.recipe) == filed_recipe(root / "results" / name), line
    assert len(printed_commands(committed[0])) >= 28


@pytest.mark.parametrize(
    "changes", [{"clip": None}, {"remat": True, "learn_labels": True}, {"data": "my data.npz"}, {"lr": 1e-7, "seed": 3}]
)
def test_a_command_says_any_change(changes, monkeypatch):
    typed: list[Distill] = []
    monkeypatch.setattr(Distill, "run", lambda self: typed.append(self))
    recipe = get_recipe("mnist-usps-random").replace(**changes)
    main(shlex.split(command(recipe, "mnist-usps-random"))[1:])
    assert typed[0].recipe.recipe == recipe


def test_committed_summaries_hold_no_second_figure_of_a_baseline(committed):
    for path in committed[0].glob("results/*/summary.json"):
        assert not {"random_real", "all_data"} & set(read(path)), path


def test_rows_say_where_the_method_departs_from_the_papers(committed):
    departs = {(row["run"], row["part"]): row["departs"] for row in committed[1]}
    assert departs["mnist-fixed-1step", "distilled"] == "g c s a h"
    assert departs["mnist-random", "distilled"] == "r c s a h"
    assert departs["digits-exact", "distilled"] == "c s a h"
    assert departs["mnist-poison", "poisoning: attacked, after"] == "c s a h"
    assert {d for (_, part), d in departs.items() if part in BESIDE or part.endswith("before")} == {""}
    text = (committed[0] / "RESULTS.md").read_text()
    assert re.search(r"→ \*\*96\.\d\*\* `g c s a h` \|", text)
    assert all(f"\n- `{letter}`: " in text for letter in "grlmwzbcsah")
    assert "| gates 0.03, clip 1, cosine, average 0.99, best of 60 validations |" in text


def test_a_recipe_of_the_papers_own_departs_in_little():
    recipe = get_recipe("digits").replace(gate_width=0.0, clip=None, ema=0.0, outer_steps=1000, eval_every=300)
    assert departures(recipe) == {"s": "cosine", "h": "best of 4 validations"}
    assert departures(recipe.replace(start="real"))["r"] == "from real images"


# Gaps


TINY = {"outer_steps": 2, "eval_every": 1, "batch_size": 16, "model": "linear", "gate_width": 0.0}


@pytest.fixture
def paper_of(monkeypatch):
    """`paper_of(name=run)`: a paper of these runs alone, and of one row for each; the budget may be the full one."""

    def arm(part="distilled", book: paper.Book = "paper", **runs):
        monkeypatch.setattr(reproduce, "RUNS", runs)
        monkeypatch.setattr(results, "RUNS", runs)
        monkeypatch.setattr(
            reproduce, "ROWS", tuple(paper.Row("Table", part, name, "90.0", name, part, book) for name in runs)
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
    assert f"| `second` | {status['second']} |  | `ddjax reproduce paper --only second` |" in missing
    assert "`first`" not in missing and not (tmp_path / "results" / "second").exists()


def test_runs_of_the_benchmark_have_as_many_images_per_class_as_they_are_called_by():
    called = {name: re.fullmatch(r".+-ipc(\d+)", name) for name in RUNS}
    found = {name: RUNS[name].settings for name, match in called.items() if match}
    assert len(found) == 15
    for name, recipe in found.items():
        assert f"ipc{recipe.inner.steps * recipe.inner.per_class}" == name.rpartition("-")[2]


def test_a_book_is_made_without_the_other(tmp_path, paper_of, monkeypatch):
    """And its rows are filed by themselves, beside those of the other that are filed already."""
    other = paper.Row("Table of others", "distilled", "second", "80.0", "second", "distilled", "benchmark")
    paper_of(first=Run("digits", TINY), second=Run("digits", {**TINY, "seed": 1}))
    monkeypatch.setattr(reproduce, "ROWS", (reproduce.ROWS[0], other))
    (row,) = reproduce.reproduce(tmp_path, "benchmark", progress=False)
    assert (row["run"], row["book"], row["status"]) == ("second", "benchmark", "measured")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["second"]
    assert [r["status"] for r in filed_rows(tmp_path)] == ["not run yet", "measured"]
    (row,) = reproduce.reproduce(tmp_path, progress=False)
    assert (row["run"], row["status"]) == ("first", "measured")
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.index("## Table\n") < text.index("# Beyond the paper\n") < text.index("## Table of others\n")


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
    assert "| `there` | for an accelerator, and there is none here |  |" in (tmp_path / "RESULTS.md").read_text()
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
    (anew,) = reproduce.reproduce(tmp_path, only=["only"], again=True, progress=False)
    assert anew["status"] == "measured" and anew["seconds"] != again["seconds"]


def test_a_run_that_is_made_anew_can_be_interrupted(tmp_path, paper_of):
    """The same command goes on with what is half done of these settings; what is finished, or of others, makes room."""
    paper_of(only=Run("digits", TINY))
    again = partial(reproduce.reproduce, tmp_path, only=["only"], again=True, progress=False)
    again()
    mark = tmp_path / "runs" / "only" / "mark"

    def is_kept():
        mark.touch()
        (row,) = again()
        assert row["status"] == "measured"
        return mark.exists()

    assert not is_kept()
    (tmp_path / "runs" / "only" / "summary.json").unlink()
    assert is_kept()
    (tmp_path / "runs" / "only" / "summary.json").unlink()
    paper_of(only=Run("digits", {**TINY, "seed": 9}))
    assert not is_kept()


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
    assert first["status"] == second["status"] == "measured" and first["ours_mean"] != second["ours_mean"] == 12.5


# The list


def test_every_row_has_its_run_and_part():
    known = {"distilled", "before", *BESIDE}
    known |= {f"poisoning: {w}, {when}" for w in ("overall", "modified", "attacked") for when in ("before", "after")}
    for row in ROWS:
        assert row.run in RUNS and row.part in known
        assert row.table and row.row and row.column
        assert row.part not in BESIDE or row.part in RUNS[row.run].baselines
        assert not row.part.startswith("poisoning") or RUNS[row.run].settings.data.poison
        assert re.fullmatch(r"((about )?\d+(\.\d+)?( ± \d+\.\d+)?†?)?", row.paper), row.paper
    places = [(row.table, row.row, row.column) for row in ROWS]
    assert len(set(places)) == len(places)
    assert {row.run for row in ROWS} == set(RUNS)
    for name, run in RUNS.items():
        assert set(run.baselines) == {row.part for row in ROWS if row.run == name and row.part in BESIDE}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_a_recipe(name):
    run = RUNS[name]
    run.settings.validate()
    assert run.recipe in RECIPES and set(run.changes) <= set(run.settings.settings())
    assert set(run.baselines) <= set(BESIDE) and len(set(run.baselines)) == len(run.baselines)
    quick, network = QUICK.shrink(run.settings), run.settings.network
    quick.validate()
    assert quick.data.data == "digits"
    assert (quick.network.pool is None) == (quick.network.source is None) == (network.pool is None)


def test_runs_that_need_an_accelerator_are_marked():
    long = {name for name, run in RUNS.items() if "day" in run.cost}
    assert {name for name, run in RUNS.items() if run.accelerator} == long
    assert {name for name, run in RUNS.items() if run.settings.network.model == "alexnet"} < long


def test_what_is_open_says_its_cost(tmp_path, paper_of):
    paper_of(here=Run("digits", TINY, cost="9 hours"))
    reproduce.reproduce(tmp_path, page_only=True, progress=False)
    assert (
        "| `here` | not run yet | 9 hours | `ddjax reproduce paper --only here` |"
        in (tmp_path / "RESULTS.md").read_text()
    )
    for row in filed_rows(Path(__file__).parents[1]):
        assert row["status"] == "measured" or row["ours_mean"] is not None or RUNS[row["run"]].cost


def test_what_is_open_of_a_run_that_is_filed_says_which_part(tmp_path, paper_of, monkeypatch):
    paper_of(only=Run("digits", TINY, cost="9 hours"))
    beside = paper.Row("Table, too", "by the protocol", "only", "80.0", "only", "protocol")
    monkeypatch.setattr(reproduce, "ROWS", (*reproduce.ROWS, beside))
    reproduce.reproduce(tmp_path, progress=False)
    assert "| `only` | protocol: not run yet | 9 hours |" in (tmp_path / "RESULTS.md").read_text()


def test_an_exact_row_stands_beside_the_gated_one():
    one_step = (row for row in ROWS if row.run.startswith("mnist-fixed-1step") and row.table == "Table 1")
    gated, exact = (row for row in one_step if row.part == "distilled")
    assert gated.column == exact.column
    assert RUNS[gated.run].settings.replace(gate_width=0.0) == RUNS[exact.run].settings != RUNS[gated.run].settings


def test_headlines_are_of_three_seeds_and_differ_in_nothing_else(whole):
    """And the page has the mean of their figures, with the standard deviation of a sample."""
    rows = [row for row in whole[1] if row["table"] == paper.OVER_SEEDS]
    told = (whole[0] / "RESULTS.md").read_text().split(f"## {paper.OVER_SEEDS}")[1].split("##")[0]
    for column in (
        "MNIST fixed, 10 images, one step",
        "MNIST fixed",
        "CIFAR-10 fixed",
        "digits fixed, 10 images, one step",
    ):
        members = [row for row in rows if row["column"] == column]
        recipes = [RUNS[row["run"]].settings for row in members]
        assert [recipe.seed for recipe in recipes] == [0, 1, 2]
        assert {recipe.replace(seed=0) for recipe in recipes} == {recipes[0]}
        figures = [row["ours_mean"] for row in members]
        assert f"**{np.mean(figures):.1f} ± {np.std(figures, ddof=1):.1f}** of 3" in told


def test_ablations_differ_in_one_thing_and_share_a_point():
    """S with three epochs, E with ten steps, all at one outer budget; the shared point is one run."""
    for base in ("mnist-fixed", "mnist-random"):
        runs = {name: run.settings for name, run in RUNS.items() if re.fullmatch(rf"{base}-s\d+-e\d+", name)}
        assert len(runs) == len(STEPS) + len(EPOCHS) - 1
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
