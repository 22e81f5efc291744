"""A user's own data in one .npz file, checked before anything is computed from it."""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.arrays import checked_dataset, fail
from ddjax.data.dataset import Dataset, MissingDataError
from ddjax.data.mapped import array_of
from ddjax.errors import InputError

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_MOST, _DENSEST = 2**28, 250  # bytes that may come of anything, and how many of one byte beyond that
_OPTIONAL = ("mean", "std", "class_names", "feature_names")
# What NumPy raises on archives with flipped or missing bytes, found by flipping them.
ARCHIVE_DAMAGE = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, KeyError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, OverflowError),
)


def load_npz(path: Path) -> Dataset:
    """Reads a data set from an .npz file.

    Its arrays are those of `checked_dataset`.

    Raises:
      MissingDataError: no such file.
      InputError: anything wrong with its contents; the message names the file and the array.
    """
    arrays = _read(path)
    return checked_dataset(arrays, name=path.stem, where=str(path), source=str(path.resolve()))


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.exists() and not path.is_file():  # a pipe might never end
        fail(str(path), "it is not an .npz file, nor any file", "give the path of one")
    if not path.exists():
        raise MissingDataError(
            f"{path}: there is no such file: give the path of an .npz file with {_listed(_REQUIRED)}"
        )
    advice = "write it again with numpy.savez"
    try:
        with path.open("rb") as file:
            archive: Any = np.load(file, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                return _read_members(path, archive)
    except PermissionError:
        fail(str(path), "it may not be read", "change its permissions")
    except InputError:
        raise
    except ARCHIVE_DAMAGE:
        fail(str(path), "it is not an .npz file, or a damaged one", advice)
    fail(str(path), "it holds a single array (.npy), not an .npz archive", advice)


def _read_members(path: Path, archive: Any) -> dict[str, np.ndarray]:
    missing = [name for name in _REQUIRED if name not in archive.files]
    if missing:
        found = _listed(archive.files) if archive.files else "nothing"
        fail(str(path), f"{_listed(missing)} missing (found {found})", f"save {_listed(_REQUIRED)}")
    _require_size(path, archive)
    arrays = {}
    for name in (*_REQUIRED, *(name for name in _OPTIONAL if name in archive.files)):
        try:
            arrays[name] = array_of(path, archive, name)
        except MemoryError:
            fail(str(path), f"{name} is damaged, or larger than the memory", "write it again, or use fewer examples")
        except ARCHIVE_DAMAGE as error:
            if "allow_pickle" in str(error):
                kind = "strings" if name.endswith("_names") else "numbers"
                fail(str(path), f"{name} is an object array, which is not read for safety", f"save it as {kind}")
            fail(str(path), f"{name} is damaged", "write the file again with numpy.savez")
        if not isinstance(arrays[name], np.ndarray):
            fail(str(path), f"{name} is not an array", "write the file again with numpy.savez")
    return arrays


def _listed(names: Any) -> str:
    return ", ".join(names)


def _require_size(path: Path, archive: Any) -> None:
    """A small file may not become gigabytes: what is that dense holds nothing to learn from."""
    whole, stored = sum(member.file_size for member in archive.zip.infolist()), max(path.stat().st_size, 1)
    if whole > max(_MOST, _DENSEST * stored):
        what = f"{stored / 1e6:.1f} MB hold arrays of {whole / 1e9:.1f} GB"
        fail(str(path), what, "save it with numpy.savez, uncompressed, if that is meant")
