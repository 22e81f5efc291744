"""Arrays as a folder of tensorflow-datasets, written without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_records(out: Path, arrays: Mapping[str, np.ndarray], *, name: str, description: str) -> None:
    """Writes arrays with one leading axis as the records of a split "train", in their order, in the array_record format.

    Args:
      out: folder to make; its parent exists.
      arrays: what each record has under each name, [N, ...].
      name, description: of the data set, as its info has them.
    """
    import tensorflow_datasets as tfds

    out.mkdir()
    features = {key: tfds.features.Tensor(shape=a.shape[1:], dtype=a.dtype) for key, a in arrays.items()}
    version = tfds.core.Version("1.0.0")
    identity = tfds.core.DatasetIdentity(name=name, version=version, data_dir=str(out), module_name="ddjax")
    info: Any = tfds.core.DatasetInfo(
        builder=identity, features=tfds.features.FeaturesDict(features), description=description
    )
    count = len(next(iter(arrays.values())))
    # One shard, so that the order of the records is that of the arrays.
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=count, file_format="array_record")
    writer.initialize_splits(["train"])
    writer.add_examples({"train": [{key: array[i] for key, array in arrays.items()} for i in range(count)]})
    writer.close_all()
