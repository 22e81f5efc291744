"""A user's own data from Python: arrays, or anything that gives (example, label) by number, as a PyTorch dataset does."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddjax.data.arrays import checked_dataset, fail, split_off
from ddjax.data.dataset import Dataset


def make_dataset(
    train: Any,
    test: Any = None,
    *,
    class_names: Sequence[str] = (),
    feature_names: Sequence[str] = (),
    name: str = "own",
) -> Dataset:
    """A data set of examples in memory.

    Args:
      train: (inputs, labels), two arrays as `checked_dataset` takes them; or a sequence of (example, label) pairs, the example
        an array, a PyTorch tensor or a Pillow image, the label an integer from 0. A PyTorch tensor of three axes has its
        channels first, and they are moved last.
      test: the same; None: a fifth of each class of `train`, the same in every run.
      class_names: one a class, in the order of the labels; the numbers if none are given.
      feature_names: one a column of a table; a pandas DataFrame has them itself.
      name: of the data set, in reports.

    Raises:
      InputError: anything wrong with them, in one line.
    """
    x, y = _arrays(train, name, "train")
    arrays = split_off(name, x, y) if test is None else {"x_train": x, "y_train": y}
    if test is not None:
        arrays["x_test"], arrays["y_test"] = _arrays(test, name, "test")
    named = feature_names or getattr(train[0] if isinstance(train, tuple) else None, "columns", ())
    for key, names in (("class_names", class_names), ("feature_names", named)):
        if len(names):
            arrays[key] = np.array([str(each) for each in names])
    return checked_dataset(arrays, name=name, where=name, source=name)


def _arrays(part: Any, where: str, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [N, ...] and labels [N] of either kind."""
    if isinstance(part, tuple) and len(part) == 2 and all(hasattr(array, "shape") for array in part):
        return np.asarray(part[0]), np.asarray(part[1])
    if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
        kind = type(part).__name__
        fail(where, f"{which} is a {kind}", "give (inputs, labels) or a sequence of (example, label) pairs")
    if not len(part):
        fail(where, f"{which} is empty", "give at least one example a class")
    examples: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for number in range(len(part)):
        pair = part[number]
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            fail(where, f"{which}[{number}] is no pair", "give (example, label) under every number")
        example = _example(pair[0])
        if examples and (example.shape, example.dtype) != (examples[0].shape, examples[0].dtype):
            first, other = (f"{e.dtype} {list(e.shape)}" for e in (examples[0], example))
            fail(where, f"{which}[0] is {first} but {which}[{number}] is {other}", "give all one shape and type")
        examples.append(example)
        labels.append(np.asarray(pair[1]))
    if any(label.ndim for label in labels):
        fail(where, f"the labels of {which} are arrays", "give one integer an example")
    return np.stack(examples), np.stack(labels)


def _example(example: Any) -> np.ndarray:
    array = np.asarray(example)
    # PyTorch's pictures are [C, H, W]; its module is not imported to ask.
    if type(example).__module__.split(".")[0] == "torch" and array.ndim == 3 and array.shape[0] in (1, 3):
        return np.moveaxis(array, 0, -1)
    return array
