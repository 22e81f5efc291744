"""Pieces of long work that lie in a folder until all of it is done, so that it can be interrupted and go on from there."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddjax.storage.archive import read_arrays
from ddjax.storage.files import write_whole
from ddjax.storage.processes import agreed

# How a piece comes about: (its number, what computes its arrays) -> its arrays.
Piece = Callable[[int, Callable[[], list[np.ndarray]]], list[np.ndarray]]


def pieces(folder: Path, work: str) -> Piece:
    """Computes the pieces of the `work`, a digest of all that they depend on, and keeps them; those that `folder` has
    already are read. What is left of other work goes. Of several processes, each of which has a folder, the first one's counts.

    Raises:
      OSError: a piece cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if not path.name.startswith(work):
            path.unlink()

    def piece(number: int, compute: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        path = folder / f"{work}-{number}.npz"
        held = agreed(lambda: read_arrays(path))
        if held is not None:
            return list(held.values())
        arrays = compute()
        file = io.BytesIO()
        np.savez(file, *arrays)
        write_whole(path, file.getvalue())
        return arrays

    return piece
