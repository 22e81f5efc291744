"""Every setting of an experiment, and the named experiments: plain data, no jax."""

from ddjax.recipes import scratch as scratch  # first, since recipes are listed in the order in which they are made

# isort: split
from ddjax.recipes import adaptation as adaptation, pictures as pictures, poisoning as poisoning

# isort: split
from ddjax.recipes import benchmark as benchmark
from ddjax.recipes.advice import known_trouble
from ddjax.recipes.loops import Inner, Outer
from ddjax.recipes.registry import RECIPES, get_recipe
from ddjax.recipes.schema import SETTINGS, Data, Network, Recipe, Report

__all__ = [
    "RECIPES",
    "SETTINGS",
    "Data",
    "Inner",
    "Network",
    "Outer",
    "Recipe",
    "Report",
    "get_recipe",
    "known_trouble",
]
