"""The scripts that measure the docs' tables, on small artefacts: what their rows say is what the library finds."""

import json
import shlex
import sys
from pathlib import Path

import frozen
import numpy as np
import pytest
import techniques
import transfer
from helpers import compiled_once

import ddjax
from ddjax.errors import InputError
from ddjax.evaluation import baselines, tuning
from ddjax.storage.artifact import FILE_NAME
from ddjax.storage.provenance import digest_of_file
from ddjax.training import devices

ROOT = Path(__file__).parents[1]
SMALL = {"model": "mlp", "gate_width": 0.0, "batch_size": 32, "eval_every": 5, "outer_steps": 10, "lr": 0.2}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Runs a script's `main` with these words and returns its rows."""
    few = tuning.Tuning(
        (0.01, 0.1), 0, trials=2, nets=2, random_sets=2, kmeans_sets=2, candidates=5, nets_per_candidate=1
    )
    monkeypatch.setattr(tuning, "TUNING", few)
    for name in ("train_on", "optimised_real"):
        monkeypatch.setattr(baselines, name, with_default(getattr(baselines, name), few))

    def run(script, *words):
        monkeypatch.setattr(script, "use_all_cores", lambda: None)
        monkeypatch.setattr(devices, "use_all_cores", lambda: None)
        monkeypatch.setattr(sys, "argv", ["script", *map(str, words), "--json", str(tmp_path / "rows.json")])
        script.main()
        return json.loads((tmp_path / "rows.json").read_text())

    return run


def with_default(function, few):
    return lambda *arguments, **options: function(*arguments, **{"tuning": few, **options})


def test_what_digits_transfer_to(measured, tmp_path, monkeypatch):
    recipe = ddjax.get_recipe("digits").replace(**SMALL, steps=2, epochs=2)
    done = ddjax.distill(recipe, tmp_path / "run", compare=False, progress=False)
    rows = measured(transfer, tmp_path / "run", "--num-nets", 2, "--models", "linear", "--epochs", 1)
    found = {row["what"]: row for row in rows}
    accuracy = done.summary.distilled["accuracy_mean"]
    assert found["as documented"]["mean"] == pytest.approx(accuracy, abs=1e-4)
    assert found["in float64"]["mean"] == pytest.approx(accuracy, abs=1)
    assert found["1 of 2 epochs"]["mean"] == pytest.approx(done.summary.accuracy_by_step["2"], abs=1e-4)
    assert found["4 epochs, the last one's rates"]["mean"] != found["as documented"]["mean"]
    for what, count in (
        ("fresh weights", 2),
        ("fresh weights, he", 2),
        ("another network: linear", 2),
        ("steps in another order", 2),
        ("4 epochs, the last one's rates", 1),
        ("one rate for all steps", 1),
        ("momentum 0.9, a tenth of the rates", 1),
        ("sgd, shuffled minibatches, 1 epochs", 5),
        ("adam, shuffled minibatches, 1 epochs", 5),
    ):
        assert found[what]["networks"] == count and 0 <= found[what]["mean"] <= 100, what
    made = digest_of_file(tmp_path / "run" / FILE_NAME)
    assert all(row["commit"] and row["machine"] and row["digest"] == made for row in rows)
    with pytest.raises(InputError, match="no artefact at"):
        measured(transfer, tmp_path / "nowhere")


def test_rows_of_an_interrupted_call_are_kept(measured, tmp_path, monkeypatch):
    """By the same command; another artefact, or other code, begins anew."""
    taken = []

    def rows(stop):
        def row(what):
            if what == stop:
                raise KeyboardInterrupt
            taken.append(what)
            return np.array([1.0, 2.0])

        return lambda path, args: [(what, lambda what=what: row(what)) for what in "abc"]

    words = ROOT / "results" / "digits", "--num-nets", 2
    monkeypatch.setattr(transfer, "rows", rows("c"))
    with pytest.raises(KeyboardInterrupt):
        measured(transfer, *words)
    part = tmp_path / "rows.json.part"
    assert [row["what"] for row in json.loads(part.read_text())] == taken == ["a", "b"]
    assert not (tmp_path / "rows.json").exists()
    begun = part.read_text()
    monkeypatch.setattr(transfer, "rows", rows(None))
    assert [(row["what"], row["mean"], row["networks"]) for row in measured(transfer, *words)] == [
        (what, 1.5, 2) for what in "abc"
    ]
    assert taken == ["a", "b", "c"] and not part.exists()
    part.write_text(begun)
    with monkeypatch.context() as patch:
        patch.setattr(transfer.provenance, "code", lambda: "other")
        measured(transfer, *words)
    assert taken == [*"abc", *"abc"]
    part.write_text(begun)
    measured(transfer, words[0], "--num-nets", 3)
    assert taken == [*"abc"] * 3


def test_heads_on_a_frozen_backbone(measured, tmp_path):
    words = shlex.split("digits --source digits --model mlp --outer-steps 4 --training-steps 200 --num-nets 2")
    rows = measured(frozen, *words, "--runs", tmp_path / "runs")
    found = {(row["images"], row["steps"]): row["accuracy_mean"] for row in rows}
    made = ["distilled for one step", "distilled for ten", "gradients matched", "random real", "k-means"]
    expected = {(images, steps) for images in made for steps in ("1", "10", frozen.TRAINED)}
    best = {("optimised real", "1"), ("optimised real", "10"), ("all the data", "200 of Adam")}
    assert set(found) == expected | best
    assert np.isfinite(list(found.values())).all()
    assert found["all the data", "200 of Adam"] > 50 < found["k-means", frozen.TRAINED]


def test_what_a_technique_is_worth(measured, tmp_path, monkeypatch):
    """Each differs from the base by its changes alone; rows are means over seeds of what the runs say."""
    for name, value in {"batch_size": 16, "eval_every": 1}.items():
        monkeypatch.setitem(techniques.BASE, name, value)
    few = ["--model", "linear", "--outer-steps", 2, "--seeds", 2, "--test-nets", 2, "--runs", tmp_path / "runs"]
    chosen = ["the paper's", "window of 10 steps"]
    monkeypatch.setattr(techniques.harness, "about", lambda: {"commit": "of today", "machine": "of today"})
    with compiled_once(tmp_path / "compiled"):
        rows = measured(techniques, "digits", *few, "--only", *chosen, "--together", "momentum", "soft labels")
    found = {row["technique"]: row for row in rows}
    assert list(found) == [*chosen, "together: momentum, soft labels"]
    assert found["together: momentum, soft labels"]["changes"] == {
        "direction": "momentum",
        "inner_lr": 0.01,
        "learn_labels": True,
    }
    for name, row in found.items():
        folders = sorted(
            (tmp_path / "runs").glob(f"digits/linear/{name.replace(' ', '-').replace(chr(39), '')}/seed-*")
        )
        told = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        assert len(told) == 2 and row["held_out"] == pytest.approx(np.mean([one["valid_accuracy"] for one in told]))
        assert row["test"] == pytest.approx(np.mean([one["distilled"]["accuracy_mean"] for one in told]))
        runs = [json.loads((folder / "config.json").read_text()) for folder in folders]
        assert {what: row[what] for what in ("commit", "machine")}.items() <= runs[0]["origins"][0].items()
        settings = [one["recipe"] for one in runs]
        assert [one["seed"] for one in settings] == [0, 1] and row["ms"] > 0 < row["megabytes"]
        flat = {k: v for part in settings[0].values() if isinstance(part, dict) for k, v in part.items()}
        assert {**techniques.BASE, **row["changes"]}.items() <= flat.items()
    assert found["window of 10 steps"]["megabytes"] < found["the paper's"]["megabytes"]


def test_every_technique_is_a_recipe_of_its_own():
    base = ddjax.get_recipe("digits").replace(**techniques.BASE)
    made = [base.replace(**changes) for changes in techniques.TECHNIQUES.values()]
    for recipe in made:
        recipe.validate()
    assert len({str(recipe) for recipe in made}) == len(made) and set(techniques.TOGETHER) <= set(techniques.TECHNIQUES)
