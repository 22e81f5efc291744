"""A user's own data in one .npz file, checked before anything is computed from it."""

from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.arrays import checked_dataset, fail
from ddjax.data.dataset import Dataset, MissingDataError
from ddjax.data.mapped import array_of
from ddjax.errors import InputError
from ddjax.storage.archive import ARCHIVE_DAMAGE, too_dense

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("mean", "std", "class_names", "feature_names")


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
    if (dense := too_dense(archive, path.stat().st_size)) is not None:
        fail(str(path), dense, "save it with numpy.savez, uncompressed, if that is meant")
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
