"""Data sets by name or by file: the front door of this package."""

import difflib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.catalogue import CATALOGUE
from ddjax.data.dataset import Dataset
from ddjax.data.download import download_and_prepare
from ddjax.data.folder import load_folder
from ddjax.data.npz import load_npz
from ddjax.data.pictures import as_pictures, parse_shape
from ddjax.data.prepared import data_root, find_prepared, load_prepared
from ddjax.data.splitting import stratified_part
from ddjax.data.transforms import Standardise
from ddjax.errors import InputError, one_line


def load_dataset(
    name: str | os.PathLike[str], *, data_dir: str | os.PathLike[str] | None = None, pictures: str | None = None
) -> Dataset:
    """Loads a data set into memory.

    Args:
      name: one of `DATASETS`; any other set that tensorflow-datasets prepared in `data_dir`, in its array_record format, whose
        records have a picture or a vector and a class; the path of an .npz file (see `arrays.checked_dataset` for what is in
        it); or that of a folder of pictures, one folder a class (see `folder.load_folder`).
      data_dir: the folder of sets prepared by tensorflow-datasets; by default $TFDS_DATA_DIR, else
        ~/tensorflow_datasets. `digits` and .npz files do not use it.
      pictures: the shape to bring all pictures to, such as "32x32x3" (see `as_pictures`); None leaves them as they are.

    Raises:
      MissingDataError: the set is not prepared there, or there is no such file.
      InputError: an unknown name, data that is damaged or inconsistent, no shape, or examples that are not pictures.
    """
    shape = parse_shape(pictures) if pictures else None
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    path = _path(name) if isinstance(name, str) and name not in _LOADERS else None
    if path is not None and path.suffix == ".npz":
        dataset = load_npz(path)
    elif path is not None and path.is_dir():
        dataset = load_folder(path, shape)
    elif isinstance(name, str) and name not in _LOADERS and find_prepared(name, data_root(data_dir)):
        dataset = load_prepared(name, data_dir=data_dir, size=shape and shape[:2])
    else:
        dataset = _LOADERS[_known(name)](data_dir=data_dir, size=shape and shape[:2])
    return dataset if shape is None else as_pictures(dataset, shape)


def _path(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        path.is_dir()  # which fails where no path can be so long, or of such characters
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{name[:80]!r} is neither a data set nor a path ({one_line(error, 80)})") from error
    return path


def prepare(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Downloads a named set and writes it where `load_dataset` looks; does nothing where it is there already.

    Returns one line that says what was done and where the set lies.

    Raises:
      InputError: an unknown name, a download that failed, or a folder that cannot be written.
    """
    if _known(name) not in CATALOGUE:
        return f"{name} comes with the library and needs no preparation"
    root = data_root(data_dir)
    if folder := find_prepared(name, root):
        return f"{name} {folder.name} is already prepared in {folder}"
    folder = download_and_prepare(name, root)
    return f"{name} {folder.name} prepared in {folder}"


def _load_digits(**where: Any) -> Dataset:
    """scikit-learn's 1797 handwritten digits, laid out like MNIST: 20x20 in the middle of 28x28, 1397 train, 400 test."""
    del where
    from sklearn.datasets import load_digits

    bundled: Any = load_digits()
    labels = bundled.target.astype(np.int32)
    enlarged = _enlarge(bundled.images.astype(np.int64), size=20, top=16)
    images = np.pad(enlarged, ((0, 0), (4, 4), (4, 4)))[..., None]
    test = stratified_part(labels, 400, seed=0)
    return Dataset(
        name="digits",
        x_train=images[~test],
        y_train=labels[~test],
        x_test=images[test],
        y_test=labels[test],
        transform=Standardise.fitted_to(images[~test]),
        class_names=tuple(str(name) for name in bundled.target_names),
        source="digits:1.0.0",
    )


def _enlarge(images: np.ndarray, *, size: int, top: int) -> np.ndarray:
    """Bilinear enlargement [N, n, n] int in 0..top -> [N, size, size] uint8, in integers: the same bits everywhere."""
    n = images.shape[-1]
    unit = 2 * size  # positions and weights are whole multiples of 1/unit of a source pixel
    weights = np.zeros((size, n), np.int64)
    for row in range(size):
        low, part = divmod((2 * row + 1) * n - size, unit)
        weights[row, max(low, 0)] += unit - part
        weights[row, min(low + 1, n - 1)] += part
    scale = top * unit**2
    return np.asarray((weights @ images @ weights.T * 255 + scale // 2) // scale, np.uint8)


_LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": _load_digits,
    **{name: partial(load_prepared, name) for name in CATALOGUE},
}
# The names, with a line on each.
DATASETS: dict[str, str] = {
    "digits": "scikit-learn's 1797 handwritten digits, laid out like MNIST; they come with the library.",
    **{name: entry.description for name, entry in CATALOGUE.items()},
}


def _known(name: str) -> str:
    if not isinstance(name, str):
        raise InputError(
            f"a data set is loaded by its name or the path of an .npz file, not by a {type(name).__name__}: the names are "
            f"{', '.join(DATASETS)}"
        )
    if name in _LOADERS:
        return name
    nearest = difflib.get_close_matches(name.lower().replace("-", ""), DATASETS, n=3)
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise InputError(
        f"there is no data set named {name!r}: {hint}the names are {', '.join(DATASETS)}, the path of a file "
        "ending in .npz, that of a folder with a folder of pictures for each class, and any set that tensorflow-datasets has "
        "prepared in the array_record format where the library looks"
    )
