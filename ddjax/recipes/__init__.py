"""Every setting of an experiment, and the named experiments: plain data, no jax."""

from ddjax.recipes.named import RECIPES, get_recipe
from ddjax.recipes.schema import Recipe

__all__ = ["RECIPES", "Recipe", "get_recipe"]
