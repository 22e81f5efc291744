"""What is built for people to install: the wheel and the source distribution."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both, by `python -m build`, but with the build backend that is installed."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_has_the_library_and_nothing_else(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ddjax").rglob("*.py")}
    assert {name for name in names if name.startswith("ddjax/")} == modules | {"ddjax/py.typed"}
    assert all(name.startswith(("ddjax/", "ddjax-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(tmp_path / "there"), str(wheel)], check=True, capture_output=True)
    # Away from the checkout, so that nothing but the wheel can be what runs.
    ask = "import ddjax.cli.main as m; print(m.__file__); m.main(['recipes'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    done = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(str(tmp_path / "there")), done.stderr
    assert "mnist-fixed-1step" in done.stdout


def test_the_source_distribution_can_be_tested_and_documented(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = (
        "tests/test_inner.py",
        "docs/index.md",
        "examples/train_in_jax.py",
        "benchmarks/harness.py",
        "CITATION.cff",
    )
    assert {*wanted, "ddjax/core/inner.py", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= names


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert importlib.metadata.version("ddjax") == project["version"]
