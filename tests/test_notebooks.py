"""Every notebook runs from top to bottom in a fresh kernel, and is committed with the outputs of the code that it has."""

from pathlib import Path

import nbformat
import pytest
import run

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What does a few seconds' work where a cell has no smaller settings.
PRINTED = {
    "adaptation": "before training",
    "frozen_backbone": "0 to 4:",
    "linear_case": "directions of 12",
    "own_data_and_network": "3 distilled images",
    "poisoning": "3s taken for 8s, after",
    "quickstart": "10 distilled images",
    "several_devices": "8 devices",
    "steps_and_epochs": "S =  2, E = 1",
}


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def printed_by(notebook):
    return "".join(output["text"] for output in outputs_of(notebook) if output.get("name") == "stdout")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# The client's own shutdown leaves sockets to the collector on some Python versions.
@pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning")
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    run.execute(notebook, quick=True)
    assert PRINTED[path.stem] in printed_by(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_the_outputs_of_its_code(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata["ran"] == run.digest(notebook), f"run `python notebooks/run.py {path.stem}`"
    assert PRINTED[path.stem] in printed_by(notebook)
    found = outputs_of(notebook)
    assert not [output for output in found if output.output_type == "error" or output.get("name") == "stderr"]
    drawn = any("image/png" in output.get("data", {}) for output in found)
    assert drawn or path.stem == "several_devices"
    assert path.stat().st_size < 1_000_000


def test_there_is_a_notebook_for_each_that_is_known():
    assert [path.stem for path in NOTEBOOKS] == sorted(PRINTED)
