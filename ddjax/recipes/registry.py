"""The named recipes: a recipe's docstring is the experiment, what it is, what it reaches, on what, in what time."""

import difflib
from collections.abc import Callable

from ddjax.errors import InputError
from ddjax.recipes.schema import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {}


def recipe(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Registers a function `() -> Recipe` under its own name, with hyphens."""
    RECIPES[make.__name__.replace("_", "-")] = make
    return make


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
      InputError: there is none; the message names the nearest.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(RECIPES)}"
        raise InputError(f"unknown recipe {name!r}: {hint}")
    return RECIPES[name]()
