"""What the catalogue knows of a data set: where its raw files are, and how their contents are written and read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ddjax.data.transforms import Transform

Key = int | str
Record = dict[str, Any]


class RawFile(NamedTuple):
    """One file to download. Without a published checksum (None) the format's own integrity check has to do."""

    url: str
    size: int = 0
    sha256: str | None = None


class Stored(Protocol):
    """How a kind of data set lies in a folder of tensorflow-datasets.

    splits: the names of its official splits.
    features: the official features of a record by name, as connectors of tensorflow-datasets.
    records: (raw files by role, split) -> records under their official keys, which decide the order on disk.
    read: (builder of a prepared folder, (height, width) of cropped pictures if any) -> x_train, y_train, x_test, y_test as
      in `Dataset`, and class_names.
    """

    @property
    def splits(self) -> tuple[str, ...]: ...
    def features(self) -> dict[str, Any]: ...
    def records(self, files: Mapping[str, Path], split: str) -> Iterator[tuple[Key, Record]]: ...
    def read(self, builder: Any, crop: tuple[int, int] | None) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Entry:
    """One named data set.

    folder: where tensorflow-datasets puts it, e.g. "mnist", or "voc/2007" for a configuration of a set.
    transform: by the constants that the literature uses; None means fitted to the training set.
    terms: on what terms the data may be used, in words, as far as their makers say.
    border: see `Dataset`.
    digests: of the examples of each split, see `download.add_to_digest`, of a set whose files have no published checksums.
    crop: (height, width) that pictures of many sizes are brought to unless told otherwise; None: all have one size.
    """

    folder: str
    version: str
    description: str
    homepage: str
    terms: str
    files: Mapping[str, RawFile]
    stored: Stored
    transform: Transform | None = None
    border: float = 0.0
    digests: Mapping[str, str] = field(default_factory=dict)
    crop: tuple[int, int] | None = None
