"""The layers of ddjax: imports go downwards only, and some packages are used in one place only."""

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first; a module may import from its own room and from lower ones.
LAYERS = (
    ("errors",),
    ("recipes",),
    ("core",),
    ("storage",),
    ("models", "data"),
    ("evaluation",),
    ("training",),
    ("experiment",),
    ("show",),
    ("paper",),
    ("cli",),
    ("__main__",),
)
PLAIN = ("errors", "recipes")  # which import no jax
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
ONLY_IN = {"flax": "models", "tensorflow_datasets": "data"}
CORE_MAY_USE = {"jax", "optax", "chex", "numpy", *sys.stdlib_module_names}


def imported(source, module, members=False):
    """Names of everything that `source`, the text of `module`, imports anywhere in it, relative imports made absolute.

    With `members`, what is imported out of a package or module is named too: it may be a module itself.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from ddjax import data` imports the room ddjax.data.
            each = [f"{base}.{alias.name}" for alias in node.names]
            yield from each if members or base == "ddjax" else [base]


def forbidden(part, name):
    """Whether a module of this part of ddjax may not import `name`."""
    package, *rest = name.split(".")
    if package != "ddjax":
        return (
            ONLY_IN.get(package, part) != part
            or (part == "core" and package not in CORE_MAY_USE)
            or (part in PLAIN and package == "jax")
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
            yield ".".join(part for part in parts if part != "__init__"), path.read_text()


def test_imports_go_downwards():
    found = [violation for module, source in modules() for violation in violations(source, module)]
    assert found == []


def resolved(name, known):
    """The module of `known` that an imported name stands for: itself, or the one that it is a name of; else None."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def circles(sources):
    """Modules of {name: text} that import themselves by way of others, if only inside a function."""
    edges = {}
    for module, source in sources.items():
        names = imported(source, module, members=True)
        edges[module] = {found for name in names if (found := resolved(name, sources))} - {module}
    while leaves := [module for module, targets in edges.items() if not targets & set(edges)]:
        for module in leaves:
            del edges[module]
    return sorted(edges)


def test_no_module_imports_itself_by_way_of_others():
    assert circles(dict(modules())) == []


def test_a_planted_circle_is_found():
    sources = dict(modules())
    sources["ddjax.core.losses"] += "\ndef f():\n    from ddjax.core.inner import unroll\n"
    assert {"ddjax.core.losses", "ddjax.core.inner"} <= set(circles(sources))
    by_room = {"ddjax.data": "from ddjax.data.npz import x", "ddjax.data.npz": "from ddjax.data import x"}
    assert circles(by_room) == ["ddjax.data", "ddjax.data.npz"]


def distribution(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def undeclared(sources, dependencies):
    """Packages that the texts import and that no dependency of the project brings."""
    declared = {distribution(re.match(r"[\w.-]+", line)[0]) for line in dependencies}
    known = importlib.metadata.packages_distributions()
    packages = {name.partition(".")[0] for module, source in sources for name in imported(source, module)}
    third = packages - {"ddjax", *sys.stdlib_module_names}
    return sorted(p for p in third if not declared & {distribution(d) for d in known.get(p, [p])})


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = project["dependencies"] + project["optional-dependencies"]["bench"]  # torch, to read a .pth
    dependencies += project["optional-dependencies"]["tensorboard"]
    assert undeclared(modules(), dependencies) == []
    assert undeclared(modules(), [line for line in dependencies if not line.startswith("scipy")]) == ["scipy"]


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
        ("ddjax.evaluate", "import ddjax.experiment.setup"),
        ("ddjax.storage.artifact", "import ddjax"),
        ("ddjax.recipes.schema", "import jax.numpy as jnp"),
        ("ddjax.training.loop", "from ddjax.cli.main import main"),
        ("ddjax.training.loop", "if True:\n    import tensorflow_datasets as tfds"),
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
        ("ddjax.experiment.setup", "from ddjax.storage import artifact\nfrom ddjax.training.loop import run"),
        ("ddjax.data.prepared", "import tensorflow_datasets.core"),
    ],
)
def test_what_is_allowed_is_not_reported(module, source):
    assert violations(source, module) == []


@pytest.mark.parametrize(
    "path",
    sorted(path for part in ("benchmarks", "examples", "tests/long") for path in (ROOT / part).glob("*.py")),
    ids=lambda path: path.name,
)
def test_scripts_import_what_there_is(path):
    """In functions too, which no test may call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddjax":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}"), (
                    alias.name
                )
