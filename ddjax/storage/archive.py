"""Archives of arrays (.npz) that may be anybody's: no pickle, and no small file that becomes gigabytes."""

import io
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.storage.files import read_whole

_MOST, _DENSEST = 2**28, 250  # bytes that may come of anything, and how many of one byte beyond that
# What NumPy raises on archives with flipped or missing bytes, found by flipping them.
ARCHIVE_DAMAGE = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, KeyError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, OverflowError, NotImplementedError, IndexError),
)


def too_dense(archive: Any, stored: int) -> str | None:
    """What is wrong with an opened archive of so many bytes, in words, where it would become gigabytes: what is that dense
    holds nothing to learn from."""
    whole, stored = sum(member.file_size for member in archive.zip.infolist()), max(stored, 1)
    if whole <= max(_MOST, _DENSEST * stored):
        return None
    return f"{stored / 1e6:.1f} MB hold arrays of {whole / 1e9:.1f} GB"


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """All arrays of an archive that ddjax wrote; None where there is no such file, or it is damaged."""
    try:
        content = read_whole(path, 2**31)
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if too_dense(archive, len(content)):
                return None
            arrays = {name: archive[name] for name in archive.files}
            return arrays if all(isinstance(array, np.ndarray) for array in arrays.values()) else None
    except (MemoryError, *ARCHIVE_DAMAGE):
        return None
