"""A user's own data in one .npz file, checked before anything is computed from it."""

import hashlib
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ddjax.data.dataset import Dataset, MissingDataError
from ddjax.data.transforms import Standardise
from ddjax.errors import InputError

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("mean", "std", "class_names")
# What NumPy raises on archives with flipped or missing bytes, found by flipping them.
ARCHIVE_DAMAGE = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, KeyError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, OverflowError),
)


def load_npz(path: Path) -> Dataset:
    """Reads a data set from an .npz file.

    Arrays: x_train, x_test pictures [N, H, W, C], uint8 or float; grey pictures [N, H, W] uint8, which get an axis of one
    channel; sequences [N, L, D] float, as of embeddings; or vectors [N, D], uint8 or float. y_train, y_test [N] or [N, 1]
    integers from 0; optional class_names [K] strings, mean and std (one value, or one for each entry of the last axis,
    in units of the inputs with uint8 divided by 255). Without them inputs are standardised by the statistics of x_train:
    a value a channel for pictures [N, H, W, C], one for all else.

    Raises:
      MissingDataError: no such file.
      InputError: anything wrong with its contents; the message names the file and the array.
    """
    arrays = _read(path)
    x = {name: _inputs(path, name, arrays[name]) for name in ("x_train", "x_test")}
    y = {name: _labels(path, name, arrays[name]) for name in ("y_train", "y_test")}
    for split in ("train", "test"):
        images, labels = len(x[f"x_{split}"]), len(y[f"y_{split}"])
        if images != labels:
            _fail(path, f"x_{split} has {images} examples but y_{split} has {labels}", "make them equally long")
    for what in ("shape", "dtype"):
        train, test = x["x_train"][:1], x["x_test"][:1]
        if getattr(train, what) != getattr(test, what):
            detail = f"x_train is {_describe(arrays['x_train'])} but x_test is {_describe(arrays['x_test'])}"
            _fail(path, detail, "save both in one shape and type")
    class_names = _class_names(path, arrays.get("class_names"), y["y_train"], y["y_test"])
    mean, std = (
        _statistic(path, name, arrays.get(name), np.asarray(fitted), x["x_train"].shape[-1])
        for name, fitted in Standardise.fitted_to(x["x_train"])._asdict().items()
    )
    if not (std > 0).all():
        _fail(path, f"std has the value {std.min()}", "give positive standard deviations, or leave std out")
    digest = _digest([*x.values(), *y.values(), mean, std, np.array(class_names)])
    parts: dict[str, Any] = {**x, **y}
    source = f"{path.resolve()}#{digest}"
    return Dataset(name=path.stem, **parts, transform=Standardise(mean, std), class_names=class_names, source=source)


def _fail(path: Path, defect: str, advice: str) -> NoReturn:
    raise InputError(f"{path}: {defect}: {advice}")


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(_describe(array).encode())
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[str, np.ndarray]:
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
        _fail(path, "it may not be read", "change its permissions")
    except InputError:
        raise
    except ARCHIVE_DAMAGE:
        _fail(path, "it is not an .npz file, or a damaged one", advice)
    _fail(path, "it holds a single array (.npy), not an .npz archive", advice)


def _read_members(path: Path, archive: Any) -> dict[str, np.ndarray]:
    missing = [name for name in _REQUIRED if name not in archive.files]
    if missing:
        found = _listed(archive.files) if archive.files else "nothing"
        _fail(path, f"{_listed(missing)} missing (found {found})", f"save {_listed(_REQUIRED)}")
    arrays = {}
    for name in (*_REQUIRED, *(name for name in _OPTIONAL if name in archive.files)):
        try:
            arrays[name] = archive[name]
        except MemoryError:
            _fail(path, f"{name} is damaged, or larger than the memory", "write it again, or use fewer examples")
        except ARCHIVE_DAMAGE as error:
            if "allow_pickle" in str(error):
                kind = "strings" if name == "class_names" else "numbers"
                _fail(path, f"{name} is an object array, which is not read for safety", f"save it as {kind}")
            _fail(path, f"{name} is damaged", "write the file again with numpy.savez")
        if not isinstance(arrays[name], np.ndarray):
            _fail(path, f"{name} is not an array", "write the file again with numpy.savez")
    return arrays


def _listed(names: Any) -> str:
    return ", ".join(names)


def _inputs(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """[N, H, W, C], [N, L, D] or [N, D], uint8 or finite float32."""
    if array.ndim not in (2, 3, 4):
        _fail(
            path,
            f"{name} has shape {list(array.shape)}",
            "save pictures [N, H, W, C], sequences [N, L, D] or vectors [N, D]",
        )
    if array.size == 0:
        _fail(path, f"{name} is empty (shape {list(array.shape)})", "save at least one example")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        _fail(path, f"{name} has type {array.dtype}", "save it as uint8 (0 to 255) or float32")
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[2] == array.shape[3] > 4:
        _fail(path, f"{name} has shape {list(array.shape)}, channels first", "move the channels last: [N, H, W, C]")
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the next lines report
            array = array.astype(np.float32)
        bad = ~np.isfinite(array)
        if bad.any():
            first = [int(i) for i in np.unravel_index(bad.argmax(), bad.shape)]
            count = int(bad.sum())
            defect = f"{name} has {count} value{'s' * (count != 1)} not finite in float32, the first at {first}"
            _fail(path, defect, "remove or repair those examples")
    return np.ascontiguousarray(array[..., None] if array.ndim == 3 and array.dtype == np.uint8 else array)


def _labels(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """[N] int32, none negative."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = "take argmax(axis=1) of one-hot labels" if array.ndim == 2 else "save one integer an example"
        _fail(path, f"{name} has shape {list(array.shape)}", hint)
    if array.size == 0:
        _fail(path, f"{name} is empty", "save at least one label")
    if array.dtype.kind not in "iu":
        _fail(path, f"{name} has type {array.dtype}", "save class numbers as integers, such as int32")
    for bad, what in ((array < 0, "negative"), (array > 2**31 - 1, "too large")):
        if bad.any():
            where = int(bad.argmax())
            _fail(path, f"{name} has the label {array[where]} at {where}, which is {what}", "number the classes from 0")
    return array.astype(np.int32)


def _class_names(path: Path, names: np.ndarray | None, y_train: np.ndarray, y_test: np.ndarray) -> tuple[str, ...]:
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        _fail(path, f"class_names is {_describe(names)}", "save one string a class")
    num_classes = int(y_train.max()) + 1 if names is None else len(names)
    if num_classes < 2:
        _fail(path, f"y_train has {num_classes} class{'es' * (num_classes != 1)}", "give at least two classes")
    if num_classes > len(y_train) or not np.isin(np.arange(num_classes), y_train).all():
        absent = next(i for i in range(num_classes) if i not in y_train)
        _fail(path, f"y_train has no example of class {absent}", "number the classes 0, 1, 2, ... without gaps")
    for name, labels in (("y_train", y_train), ("y_test", y_test)):
        if labels.max() >= num_classes:
            where = int((labels >= num_classes).argmax())
            defect = f"{name} has the label {labels[where]} at {where}, but there are {num_classes} classes"
            _fail(path, defect, f"use labels 0 to {num_classes - 1}")
    return tuple(str(i) for i in range(num_classes)) if names is None else tuple(str(name) for name in names)


def _statistic(path: Path, name: str, given: np.ndarray | None, computed: np.ndarray, channels: int) -> np.ndarray:
    if given is None:
        return computed
    if given.dtype.kind not in "fiu" or given.ndim > 1 or given.size not in (1, channels):
        _fail(path, f"{name} is {_describe(given)}", f"save 1 or {channels} floats, or leave it out")
    value = given.reshape(-1).astype(np.float32)
    if not np.isfinite(value).all():
        _fail(path, f"{name} has values that are not finite", "save finite numbers, or leave it out")
    return np.broadcast_to(value, computed.shape).copy() if value.size == 1 else value
