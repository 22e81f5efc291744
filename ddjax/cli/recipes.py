"""`ddjax recipes`."""

import inspect
from dataclasses import dataclass

from ddjax.recipes import RECIPES


@dataclass(frozen=True)
class Recipes:
    """List the named experiments, and what each reaches, on what, in what time."""

    def run(self) -> None:
        for name, make in RECIPES.items():
            print(f"{name}\n    " + inspect.cleandoc(make.__doc__ or "").replace("\n", "\n    ") + "\n")
