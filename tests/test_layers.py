"""The layers of ddjax: imports go downwards only, and some packages are used in one place only."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first; a module may import from its own layer and from lower ones.
LAYERS = (
    ("errors", "files", "recipe", "recipes", "paper"),
    ("core", "tensorfile"),
    ("models", "data"),
    ("evaluate", "fit", "real_sets", "baselines", "poisoning", "artifact", "devices", "provenance", "pretrain"),
    ("run", "experiment", "distilling", "replay", "report", "plots"),
    ("rows", "results", "reproduce"),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
ONLY_IN = {"flax": "models", "tensorflow_datasets": "data"}
CORE_MAY_USE = {"jax", "optax", "chex", "numpy", *sys.stdlib_module_names}


def imported(source, module):
    """Names of everything that `source`, the text of `module`, imports anywhere in it, relative imports made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from ddjax import artifact` imports the module ddjax.artifact.
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == "ddjax" else [base]


def forbidden(part, name):
    """Whether a module of this part of ddjax may not import `name`."""
    package, *rest = name.split(".")
    if package != "ddjax":
        return (
            ONLY_IN.get(package, part) != part
            or (part == "core" and package not in CORE_MAY_USE)
            or (part in LAYERS[0] and package == "jax")
        )
    target = rest[0] if rest else "ddjax"
    return (
        RANK.get(target, len(LAYERS)) > RANK[part]
        or {part, target} == {"models", "data"}
        or (part == "core" and target not in ("core", "errors"))
    )


def violations(source, module):
    """What of the imports of `module` (as in "ddjax.core.inner") breaks the order of the layers."""
    part = module.split(".")[1]
    if part not in RANK:
        return [f"{module} is in no layer"]
    return [f"{module} imports {name}" for name in imported(source, module) if forbidden(part, name)]


def modules():
    for path in sorted((ROOT / "ddjax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts != ("ddjax", "__init__"):
            yield ".".join(parts), path.read_text()


def test_imports_go_downwards():
    found = [violation for module, source in modules() for violation in violations(source, module)]
    assert found == []


def test_every_part_of_the_order_exists():
    assert {module.split(".")[1] for module, _ in modules()} == set(RANK)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ddjax.core.inner", "from ddjax.models import LeNet"),
        ("ddjax.core.inner", "from ddjax.recipes import Recipe"),
        ("ddjax.core.inner", "import flax.linen as nn"),
        ("ddjax.core.inner", "import sklearn"),
        ("ddjax.core.inner", "from ..models import model"),
        ("ddjax.core.inner", "from ddjax import DistilledData"),
        ("ddjax.models.lenet", "from ddjax import data"),
        ("ddjax.data.sources", "from ddjax.models.model import Model"),
        ("ddjax.data.sources", "def f():\n    from flax import nnx"),
        ("ddjax.evaluate", "import ddjax.experiment"),
        ("ddjax.artifact", "import ddjax"),
        ("ddjax.recipes", "import jax.numpy as jnp"),
        ("ddjax.run", "from ddjax.cli import main"),
        ("ddjax.run", "if True:\n    import tensorflow_datasets as tfds"),
        ("ddjax.utils", "import os"),
    ],
)
def test_a_planted_violation_is_found(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "ddjax.core.inner",
            "from ddjax.core.losses import Loss\nfrom . import losses\nimport jax.numpy, optax, typing",
        ),
        ("ddjax.models.lenet", "import flax\nfrom ddjax.errors import InputError\nfrom ddjax.core import losses"),
        ("ddjax.experiment", "from ddjax import artifact, baselines\nfrom ddjax.run import run"),
        ("ddjax.data.prepared", "import tensorflow_datasets.core"),
    ],
)
def test_what_is_allowed_is_not_reported(module, source):
    assert violations(source, module) == []
