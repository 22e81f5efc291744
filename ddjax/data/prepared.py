"""Data sets prepared on disk by tensorflow-datasets, read without TensorFlow and cached as plain arrays.

Layout: `<root>/<name>/<version>/dataset_info.json` beside array_record files. Decoding a set takes seconds, reading its
cache a fraction of one.
"""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.catalogue import CATALOGUE, records
from ddjax.data.dataset import Dataset, MissingDataError
from ddjax.data.mapped import array_of
from ddjax.data.transforms import Standardise
from ddjax.errors import InputError, unlogged
from ddjax.storage.archive import ARCHIVE_DAMAGE

_CACHE_FORMAT = "1"
_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "class_names")


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of prepared sets: data_dir, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        return root.expanduser()
    except RuntimeError as error:
        raise InputError(f"{root} is no folder of prepared data sets ({error}): give another --data-dir") from error


def find_prepared(name: str, root: Path) -> Path | None:
    """The version folder of a prepared set: the official version if present, else the newest one; None if none."""
    # An interrupted preparation leaves folders too, but not with a bare version for a name.
    folders = [info.parent for info in (root / _folder(name)).glob("*/dataset_info.json")]
    versions = [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    official = CATALOGUE[name].version if name in CATALOGUE else ""
    return max(versions, key=lambda f: (f.name == official, [int(n) for n in f.name.split(".")]), default=None)


def _folder(name: str) -> str:
    return CATALOGUE[name].folder if name in CATALOGUE else name


def load_prepared(
    name: str, *, data_dir: str | os.PathLike[str] | None, size: tuple[int, int] | None = None
) -> Dataset:
    """Reads a set from its prepared folder.

    Args:
      name: key of `CATALOGUE`, or of another set that tensorflow-datasets prepared in the array_record format.
      data_dir: see `data_root`.
      size: (height, width) of pictures that are cropped or resized as they are read, if not the set's own.

    Raises:
      MissingDataError: it is not prepared there.
      InputError: the folder is damaged, or in a format that only TensorFlow reads.
    """
    root, entry = data_root(data_dir), CATALOGUE.get(name)
    folder = find_prepared(name, root)
    if folder is None:
        raise MissingDataError(
            f"{name} is not prepared in {root / _folder(name)}: run `ddjax prepare {name}`, "
            "or set TFDS_DATA_DIR to the folder that holds prepared sets"
        )
    crop = size if entry is None else entry.crop and (size or entry.crop)
    suffix = f"@{crop[0]}x{crop[1]}" + "x3" * (entry is not None) if crop else ""
    key = _cache_key(folder, suffix)
    candidates = _cache_paths(folder, suffix)
    arrays = next((found for path in candidates if (found := _read_cache(path, key)) is not None), None)
    if arrays is None:
        arrays = _read_records(name, folder, crop)
        _write_cache(candidates, key, arrays)
    parts: dict[str, Any] = {part: arrays[part] for part in _ARRAYS[:4]}
    return Dataset(
        name=name,
        **parts,
        transform=(entry and entry.transform) or Standardise.fitted_to(arrays["x_train"]),
        class_names=tuple(str(class_name) for class_name in arrays["class_names"]),
        source=f"{name}:{folder.name}{suffix}",
        border=entry.border if entry else 0.0,
    )


def _read_records(name: str, folder: Path, crop: tuple[int, int] | None) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds

    how = f"run `ddjax prepare {name}`" if name in CATALOGUE else "prepare it with file_format='array_record'"
    again = f"delete {folder} and {how}"
    read = CATALOGUE[name].stored.read if name in CATALOGUE else records.read
    try:
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        if file_format != "array_record":
            raise InputError(f"{name} in {folder} is in {file_format} format, which needs TensorFlow to read: {again}")
        builder: Any = tfds.builder_from_directory(str(folder))
        with unlogged(lambda message: "OpenCV is not installed" in message):  # Pillow is this library's choice
            return read(builder, crop)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each layer below (json, protobuf, array_record, Pillow) has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{name} in {folder} is damaged ({reason}): {again}") from error


def _cache_key(folder: Path, suffix: str) -> str:
    """Changes whenever a prepared file or the size of crops does, without reading the files."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and "ddjax_cache" not in p.name)
    listing = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr((_CACHE_FORMAT + suffix, listing)).encode()).hexdigest()


def _cache_paths(folder: Path, suffix: str) -> list[Path]:
    """Where the cache may be, in order: beside the data; in the user's cache, one folder for each source folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    name = f"ddjax_cache{suffix}.npz"
    return [folder / name, user / "ddjax" / f"{folder.parent.name}-{folder.name}-{place}" / name]


def _read_cache(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The cached arrays, or None if there are none, they are of other data, or a checksum of the archive fails."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            return {name: array_of(path, archive, name) for name in _ARRAYS}
    except (MemoryError, *ARCHIVE_DAMAGE):
        return None


def _write_cache(candidates: list[Path], key: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes the first candidate that can be written. Without a cache the next start is slower, nothing else."""
    for path in candidates:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Root may write anywhere; a folder that someone made read-only is left alone all the same.
            if path.parent.stat().st_mode & 0o222 == 0:
                continue
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="ddjax_cache.", suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, allow_pickle=False, key=np.array(key), **arrays)
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)  # whole or not at all, also when several processes start at once
            except BaseException:
                os.unlink(temporary)
                raise
            return
        except OSError:
            continue
