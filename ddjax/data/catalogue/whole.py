"""Data sets whose every record is one picture, all of one size, and its class."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ddjax.data.catalogue.entry import Key, Record
from ddjax.data.mapped import filled

Labels = Mapping[str, np.ndarray]
Examples = tuple[np.ndarray, Labels]  # images [N, H, W, C] uint8; "label", and what other labels there are, [N] int

_READ_BATCH = 4096  # one call for thousands of records is 5 times as fast as one call for each


@dataclass(frozen=True)
class WholePictures:
    """See `entry.Stored`.

    read_split: (raw files by role, "train" or "test") -> `Examples`.
    input_shape: (H, W, C). class_names: None means the digits '0'..'9'. id_digits: 0 where the official set has no ids.
    other_labels: further labels that the official set has, and their names; ddjax stores them and leaves them alone.
    """

    read_split: Callable[[Mapping[str, Path], str], Examples]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    id_digits: int = 0
    other_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def features(self) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        label = tfds.features.ClassLabel(names=self.class_names, num_classes=None if self.class_names else 10)
        others = {name: tfds.features.ClassLabel(names=names) for name, names in self.other_labels.items()}
        ids = {"id": tfds.features.Text()} if self.id_digits else {}
        return {"image": tfds.features.Image(shape=self.input_shape), "label": label} | others | ids

    def records(self, files: Mapping[str, Path], split: str) -> Iterator[tuple[Key, Record]]:
        from PIL import Image

        images, labels = self.read_split(files, split)
        if len(images) != len(labels["label"]):
            raise ValueError(f"{len(images)} {split} images but {len(labels['label'])} labels")
        for index, image in enumerate(images):
            # Of arrays tensorflow-datasets makes a PNG with TensorFlow; of Pillow's images it does so with Pillow.
            picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            ids = {"id": f"{split}_{index:0{self.id_digits}d}"} if self.id_digits else {}
            yield index, {"image": picture} | {name: int(labels[name][index]) for name in labels} | ids

    def read(self, builder: Any, crop: tuple[int, int] | None) -> dict[str, np.ndarray]:
        del crop  # they have one size already
        arrays: dict[str, np.ndarray] = {}
        for split, source in zip(self.splits, builder.as_data_source(split=list(self.splits)), strict=True):
            arrays[f"x_{split}"], arrays[f"y_{split}"] = _decode(source)
        return arrays | {"class_names": np.array(builder.info.features["label"].names)}


def _decode(source: Any) -> tuple[np.ndarray, np.ndarray]:
    labels: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for start in range(0, len(source), _READ_BATCH):
            for record in source.__getitems__(range(start, min(start + _READ_BATCH, len(source)))):
                labels.append(record["label"])
                yield record["image"]

    stacked = filled(len(source), images())
    return stacked, np.array(labels, np.int32)
