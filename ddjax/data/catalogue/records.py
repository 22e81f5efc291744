"""Sets that tensorflow-datasets prepared and that are in no catalogue: whatever has one input and one class a record."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ddjax.data.arrays import split_off
from ddjax.data.mapped import filled
from ddjax.data.pictures import resized

_READ_BATCH = 1024


def read(builder: Any, crop: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """The arrays of such a set, as `read` of `entry.Stored` has them.

    The input is the picture or the vector of numbers that the set names for supervised learning, or the only one it has; so is
    the class. The test part is `test`, else `validation`, else a fifth of `train`.
    """
    info = builder.info
    of_input, of_label = _keys(info)
    present = [split for split in ("train", "test", "validation") if split in info.splits][:2]
    if "train" not in present:
        raise ValueError(f"its splits are {', '.join(info.splits)}, and train is not among them")
    read = [_read(source, of_input, of_label, crop) for source in builder.as_data_source(split=present)]
    names = {"class_names": np.array(info.features[of_label].names)}
    if len(read) == 1:
        return split_off(info.name, *read[0]) | names
    (x_train, y_train), (x_test, y_test) = read
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test} | names


def _keys(info: Any) -> tuple[str, str]:
    """The names of a record's input and class."""
    import tensorflow_datasets as tfds

    features, told = info.features, info.supervised_keys or ()
    inputs = [k for k, f in features.items() if isinstance(f, tfds.features.Image) or _is_vector(f)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    for keys, wanted in ((inputs, "picture or vector"), (labels, "class")):
        named = [key for key in told if key in keys]
        if len(named or keys) != 1:
            raise ValueError(
                f"its records have {', '.join(features)}, of which {len(keys)} are a {wanted}: one is needed"
            )
        keys[:] = named or keys
    return inputs[0], labels[0]


def _is_vector(feature: Any) -> bool:
    shape, dtype = getattr(feature, "shape", None), getattr(feature, "np_dtype", None)
    return shape is not None and len(shape) == 1 and shape[0] is not None and np.dtype(dtype).kind in "fiu"


def _read(source: Any, of_input: str, of_label: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    labels: list[int] = []

    def inputs() -> Iterator[np.ndarray]:
        expected: tuple[int, ...] | None = None
        for start in range(0, len(source), _READ_BATCH):
            for record in source.__getitems__(range(start, min(start + _READ_BATCH, len(source)))):
                value = np.asarray(record[of_input])
                value = resized(value, size) if size and value.ndim == 3 else value
                labels.append(int(record[of_label]))
                expected = expected or value.shape
                if value.shape != expected:
                    first, other = ("x".join(map(str, shape)) for shape in (expected, value.shape))
                    raise ValueError(f"it has pictures of {first} and of {other}: give --pictures, such as 32x32x3")
                yield value if value.dtype == np.uint8 else value.astype(np.float32)

    stacked = filled(len(source), inputs())
    return stacked, np.array(labels, np.int32)
