"""Recipes: each one valid, told in words and storable; names found; values of the wrong kind refused."""

import dataclasses
import json
import subprocess
import sys

import pytest

import ddjax
from ddjax.errors import InputError
from ddjax.recipes import RECIPES, Recipe, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name):
    recipe = get_recipe(name)
    assert recipe.validate() is recipe
    assert name == name.lower() and "_" not in name
    doc = RECIPES[name].__doc__
    assert doc and len(doc) > 40 and doc.strip().endswith(".")
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    assert 0 < recipe.eval_every <= recipe.outer_steps


def test_digits_needs_no_download():
    assert get_recipe("digits").data == "digits"


def test_unknown_names_are_answered_with_the_nearest():
    for name in ("digit", "Digits", "didgits"):
        with pytest.raises(InputError, match=f"unknown recipe '{name}': did you mean .*digits"):
            get_recipe(name)
    with pytest.raises(InputError, match="choose one of digits"):
        get_recipe("")


def test_recipes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(get_recipe("digits"), "lr", 1.0)  # noqa: B010 (a type checker refuses the plain form)


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
        ({"direction": "up"}, "--direction is 'up': choose one of gd, momentum, adam"),
    ],
)
def test_values_of_the_wrong_kind(changes, message):
    with pytest.raises(InputError) as excinfo:
        Recipe(**changes).validate()
    assert str(excinfo.value) == message


def test_a_whole_number_may_stand_for_a_float():
    assert Recipe(lr=1, clip=2).validate().lr == 1


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
