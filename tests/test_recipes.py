"""Recipes: each one valid, told in words and storable; names found; values of the wrong kind refused."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddjax
from ddjax.errors import InputError
from ddjax.paper.runs import RUNS
from ddjax.recipes import RECIPES, Recipe, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name):
    recipe = get_recipe(name)
    recipe.validate()
    assert name == name.lower() and "_" not in name
    doc = RECIPES[name].__doc__
    assert doc and len(doc) > 40 and doc.strip().endswith(".")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert 0 < recipe.report.eval_every <= recipe.outer.outer_steps


RESULTS = Path(__file__).parents[1] / "results"
PAPER, BENCHMARK = (json.loads((RESULTS / f"{book}.json").read_text()) for book in ("paper", "benchmark"))
FIGURE = re.compile(r"(paper )?(\d+\.\d+)(?: ± (\d+\.\d+))? %")


@pytest.mark.parametrize("name", RECIPES)
def test_figures_of_a_recipe_are_those_of_its_rows(name):
    """Every figure in percent of its docstring: after the word "paper" one of the paper's, else one of ours, rounded."""
    rows = [
        row
        for row in PAPER
        if row["run"].startswith((f"{name}-s", f"{name}-exact", f"{name}-10x10")) or row["run"] == name
    ] or [row for row in BENCHMARK if RUNS[row["run"]].recipe == name]
    doc = " ".join((RECIPES[name].__doc__ or "").split())
    told = FIGURE.findall(doc)
    for paper, mean, spread in told:
        if paper:
            assert any(row["paper"].startswith(f"{mean} ± {spread}" if spread else mean) for row in rows), mean
        else:
            found = [row for row in rows if f"{row['ours_mean'] or 0:.{len(mean.split('.')[1])}f}" == mean]
            assert found and (not spread or f"{found[0]['ours_std']:.1f}" == spread), (mean, spread)
    assert told or "ot measured" in doc
    minutes = re.search(r"in (\d+) minutes", doc)
    if minutes:
        assert next(round(row["seconds"] / 60) for row in rows if row["run"] == name) == int(minutes[1])


def test_digits_needs_no_download():
    assert get_recipe("digits").data.data == "digits"


def test_unknown_names_are_answered_with_the_nearest():
    for name in ("digit", "Digits", "didgits"):
        with pytest.raises(InputError, match=f"unknown recipe '{name}': did you mean .*digits"):
            get_recipe(name)
    with pytest.raises(InputError, match="choose one of digits"):
        get_recipe("")


def test_recipes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(get_recipe("digits").outer, "lr", 1.0)  # noqa: B010 (a type checker refuses the plain form)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 1.5}, "--steps is 1.5: give a value of type int"),
        ({"steps": "2"}, "--steps is '2': give a value of type int"),
        ({"num_nets": True}, "--num-nets is True: give a value of type int"),
        ({"learn_labels": 1}, "--learn-labels is 1: give a value of type bool"),
        ({"lr": None}, "--lr is None: give a value of type float"),
        ({"model": 3}, "--model is 3: give a value of type str"),
        ({"init": "warm"}, "--init is 'warm': choose one of fixed, random"),
        ({"direction": "up"}, "--direction is 'up': choose one of gd, momentum, nesterov, adam"),
    ],
)
def test_values_of_the_wrong_kind(changes, message):
    with pytest.raises(InputError) as excinfo:
        Recipe().replace(**changes).validate()
    assert str(excinfo.value) == message


def test_a_whole_number_may_stand_for_a_float():
    recipe = Recipe().replace(lr=1, clip=2)
    recipe.validate()
    assert recipe.outer.lr == 1


def test_listing_recipes_imports_no_jax():
    code = f"""
import sys, types
sys.modules["ddjax"] = package = types.ModuleType("ddjax")  # without its __init__, which imports the rest
package.__path__ = {ddjax.__path__!r}
from ddjax.recipes import RECIPES
print(len(RECIPES), set(sys.modules) & {{"jax", "flax", "numpy"}})
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{len(RECIPES)} set()\n", "")
