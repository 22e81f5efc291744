"""Runs notebooks from top to bottom and keeps their outputs, as they are committed.

pip install '.[notebooks]' && python notebooks/run.py [NAME ...]
"""

import hashlib
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of the code that outputs are of."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def execute(notebook: nbformat.NotebookNode, *, quick: bool = False) -> None:
    """Runs it in an empty folder; `quick` adds the small settings that some cells have beside theirs."""
    for cell in notebook.cells:
        if quick and "quick" in cell.metadata:
            cell.source += "\n" + cell.metadata["quick"]
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()


def main() -> None:
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
    for name in names:
        path = FOLDER / f"{name}.ipynb"
        notebook, started = nbformat.read(path, as_version=4), time.monotonic()
        execute(notebook)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when each was run
        notebook.metadata.pop("language_info", None)
        notebook.metadata["ran"] = digest(notebook)
        nbformat.write(notebook, path)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
