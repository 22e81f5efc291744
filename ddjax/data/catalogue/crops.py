"""Data sets of objects in larger pictures: each object, cropped by its box and resized as it is read, is one example."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddjax.data.catalogue.entry import Key, Record

_READ_BATCH = 64  # encoded pictures in memory at a time


class Object(NamedTuple):
    """One object of a picture.

    box: [4] float, (top, left, bottom, right) as fractions of the picture's height and width. label: its class, from 0.
    """

    box: np.ndarray
    label: int
    class_name: str


@dataclass(frozen=True)
class Crops:
    """See `entry.Stored`.

    make_features, read_files: what `features` and `records` of `Stored` are.
    objects: a record as read, its pictures still encoded -> the objects that are examples.
    train, test: the official splits that make up each.
    """

    make_features: Callable[[], dict[str, Any]]
    read_files: Callable[[Mapping[str, Path], str], Iterator[tuple[Key, Record]]]
    objects: Callable[[Record], list[Object]]
    train: tuple[str, ...] = ("train",)
    test: tuple[str, ...] = ("test",)

    @property
    def splits(self) -> tuple[str, ...]:
        return self.train + self.test

    def features(self) -> dict[str, Any]:
        return self.make_features()

    def records(self, files: Mapping[str, Path], split: str) -> Iterator[tuple[Key, Record]]:
        return self.read_files(files, split)

    def read(self, builder: Any, crop: tuple[int, int] | None) -> dict[str, np.ndarray]:
        import tensorflow_datasets as tfds

        assert crop is not None, "the catalogue gives such sets a size"
        pictures = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
        skip = {name: tfds.decode.SkipDecoding() for name in pictures}
        arrays: dict[str, np.ndarray] = {}
        names: dict[int, str] = {}
        for split, parts in (("train", self.train), ("test", self.test)):
            sources = builder.as_data_source(split=list(parts), decoders=skip)
            # Read twice, first for the boxes alone: then the crops have an array of the right length to go into.
            objects = [self.objects(record) for record in _records(sources)]
            names |= {o.label: o.class_name for found in objects for o in found}
            arrays[f"y_{split}"] = np.array([o.label for found in objects for o in found], np.int32)
            arrays[f"x_{split}"] = _cropped(_records(sources), objects, crop)
        absent = sorted(set(range(max(names) + 1)).difference(arrays["y_train"].tolist()))
        if absent:
            raise ValueError(f"no training example of class {absent[0]}")
        return arrays | {"class_names": np.array([names[label] for label in sorted(names)])}


def _records(sources: list[Any]) -> Iterator[Record]:
    for source in sources:
        for start in range(0, len(source), _READ_BATCH):
            yield from source.__getitems__(range(start, min(start + _READ_BATCH, len(source))))


def _cropped(records: Iterator[Record], objects: list[list[Object]], size: tuple[int, int]) -> np.ndarray:
    """Crops of all objects, picture by picture: [N, height, width, 3] uint8."""
    from PIL import Image

    crops = np.empty((sum(map(len, objects)), *size, 3), np.uint8)
    places = iter(crops)
    for record, found in zip(records, objects, strict=True):
        with Image.open(io.BytesIO(record["image"])) as file:
            image = file.convert("RGB")  # a few pictures of CUB are grey
        for o in found:
            crop = image.crop(_pixels(o.box, image.size)).resize(size[::-1], Image.Resampling.BILINEAR)
            next(places)[:] = np.asarray(crop)
    return crops


def _pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels of a picture of (width, height), one at least in each direction."""
    width, height = size
    top, left, bottom, right = np.rint(box * [height, width, height, width]).astype(int).tolist()
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)
