"""Arrays as a data set, whoever made them: checked before anything is computed from them."""

import hashlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from ddjax.data.dataset import Dataset
from ddjax.data.splitting import stratified_part
from ddjax.data.transforms import Standardise
from ddjax.errors import InputError

_TEST_SHARE = 1 / 5  # of examples of which no part is set aside


def checked_dataset(arrays: Mapping[str, np.ndarray], *, name: str, where: str, source: str = "arrays") -> Dataset:
    """A data set of arrays.

    x_train, x_test: pictures [N, H, W, C], uint8 or float; grey pictures [N, H, W] uint8, which get an axis of one channel;
    sequences [N, L, D] float, as of embeddings; or vectors [N, D], uint8 or float. y_train, y_test: [N] or [N, 1] integers
    from 0. Optional: class_names [K] strings; feature_names [D] strings, of vectors; mean and std, one value or one for each
    entry of the last axis, in units of the inputs with uint8 divided by 255: without them inputs are standardised by x_train,
    see `Standardise.fitted_to`.

    Args:
      arrays: by those names.
      name: of the data set.
      where: what a message begins with, such as the path of their file.
      source: where they come from; a digest of them is added to it.

    Raises:
      InputError: anything wrong with them; the message names the array.
    """
    x = {key: _inputs(where, key, arrays[key]) for key in ("x_train", "x_test")}
    y = {key: _labels(where, key, arrays[key]) for key in ("y_train", "y_test")}
    for split in ("train", "test"):
        images, labels = len(x[f"x_{split}"]), len(y[f"y_{split}"])
        if images != labels:
            fail(where, f"x_{split} has {images} examples but y_{split} has {labels}", "make them equally long")
    for what in ("shape", "dtype"):
        train, test = x["x_train"][:1], x["x_test"][:1]
        if getattr(train, what) != getattr(test, what):
            detail = f"x_train is {_describe(arrays['x_train'])} but x_test is {_describe(arrays['x_test'])}"
            fail(where, detail, "give both in one shape and type")
    class_names = _class_names(where, arrays.get("class_names"), y["y_train"], y["y_test"])
    mean, std = (
        _statistic(where, key, arrays.get(key), np.asarray(fitted), x["x_train"].shape[-1])
        for key, fitted in Standardise.fitted_to(x["x_train"])._asdict().items()
    )
    if not (std > 0).all():
        fail(where, f"std has the value {std.min()}", "give positive standard deviations, or leave std out")
    features = arrays.get("feature_names", np.array([], str))
    if features.dtype.kind != "U" or features.shape not in ((0,), x["x_train"].shape[1:]):
        wanted = (
            f"give {x['x_train'].shape[1]} strings" if x["x_train"].ndim == 2 else "leave it out: only vectors have it"
        )
        fail(where, f"feature_names is {_describe(features)}", wanted)
    digest = _digest([*x.values(), *y.values(), mean, std, np.array(class_names)])
    parts: dict[str, Any] = {**x, **y}
    return Dataset(
        name=name,
        **parts,
        transform=Standardise(mean, std),
        class_names=class_names,
        source=f"{source}#{digest}",
        feature_names=tuple(map(str, features)),
    )


def fail(where: str, defect: str, advice: str) -> NoReturn:
    """Raises the one line that bad data get."""
    raise InputError(f"{where}: {defect}: {advice}")


def split_off(where: str, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a data set in which a fifth of each class of (x, y) is the test part."""
    y = _labels(where, "y_train", y)
    sizes = np.bincount(y)
    if sizes[sizes > 0].min() < 2:
        few = int(np.flatnonzero(sizes == 1)[0])
        fail(where, f"class {few} has a single example", "give at least two, so that one can be held out for the test")
    test = stratified_part(y, round(len(y) * _TEST_SHARE), seed=0)
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(_describe(array).encode())
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()[:16]


def _inputs(where: str, name: str, array: np.ndarray) -> np.ndarray:
    """[N, H, W, C], [N, L, D] or [N, D], uint8 or finite float32."""
    if array.ndim not in (2, 3, 4):
        fail(
            where,
            f"{name} has shape {list(array.shape)}",
            "give pictures [N, H, W, C], sequences [N, L, D] or vectors [N, D]",
        )
    if array.size == 0:
        fail(where, f"{name} is empty (shape {list(array.shape)})", "give at least one example")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        fail(where, f"{name} has type {array.dtype}", "give it as uint8 (0 to 255) or float32")
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] > 4:
        fail(where, f"{name} has shape {list(array.shape)}, channels first", "move the channels last: [N, H, W, C]")
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the next lines report
            array = array.astype(np.float32, copy=False)
        if not all(np.isfinite(part).all() for part in np.array_split(array, 1 + array.nbytes // 2**28)):
            bad = ~np.isfinite(array)
            first = [int(i) for i in np.unravel_index(bad.argmax(), bad.shape)]
            count = int(bad.sum())
            defect = f"{name} has {count} value{'s' * (count != 1)} not finite in float32, the first at {first}"
            fail(where, defect, "remove or repair those examples")
    return np.ascontiguousarray(array[..., None] if array.ndim == 3 and array.dtype == np.uint8 else array)


def _labels(where: str, name: str, array: np.ndarray) -> np.ndarray:
    """[N] int32, none negative."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = "take argmax(axis=1) of one-hot labels" if array.ndim == 2 else "give one integer an example"
        fail(where, f"{name} has shape {list(array.shape)}", hint)
    if array.size == 0:
        fail(where, f"{name} is empty", "give at least one label")
    if array.dtype.kind not in "iu":
        fail(where, f"{name} has type {array.dtype}", "give class numbers as integers, such as int32")
    for bad, what in ((array < 0, "negative"), (array > 2**31 - 1, "too large")):
        if bad.any():
            place = int(bad.argmax())
            fail(where, f"{name} has the label {array[place]} at {place}, which is {what}", "number the classes from 0")
    return array.astype(np.int32)


def _class_names(where: str, names: np.ndarray | None, y_train: np.ndarray, y_test: np.ndarray) -> tuple[str, ...]:
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        fail(where, f"class_names is {_describe(names)}", "give one string a class")
    num_classes = int(y_train.max()) + 1 if names is None else len(names)
    if num_classes < 2:
        fail(where, f"y_train has {num_classes} class{'es' * (num_classes != 1)}", "give at least two classes")
    if num_classes > len(y_train) or not np.isin(np.arange(num_classes), y_train).all():
        absent = next(i for i in range(num_classes) if i not in y_train)
        fail(where, f"y_train has no example of class {absent}", "number the classes 0, 1, 2, ... without gaps")
    for name, labels in (("y_train", y_train), ("y_test", y_test)):
        if labels.max() >= num_classes:
            place = int((labels >= num_classes).argmax())
            defect = f"{name} has the label {labels[place]} at {place}, but there are {num_classes} classes"
            fail(where, defect, f"use labels 0 to {num_classes - 1}")
    return tuple(str(i) for i in range(num_classes)) if names is None else tuple(str(name) for name in names)


def _statistic(where: str, name: str, given: np.ndarray | None, computed: np.ndarray, channels: int) -> np.ndarray:
    if given is None:
        return computed
    if given.dtype.kind not in "fiu" or given.ndim > 1 or given.size not in (1, channels):
        fail(where, f"{name} is {_describe(given)}", f"give 1 or {channels} floats, or leave it out")
    value = given.reshape(-1).astype(np.float32)
    if not np.isfinite(value).all():
        fail(where, f"{name} has values that are not finite", "give finite numbers, or leave it out")
    return np.broadcast_to(value, computed.shape).copy() if value.size == 1 else value
