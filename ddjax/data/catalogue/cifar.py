"""CIFAR-10, from its archive of binary records."""

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddjax.data.catalogue.entry import Entry, RawFile
from ddjax.data.catalogue.whole import Examples, WholePictures
from ddjax.data.transforms import Standardise


def _read(files: Mapping[str, Path], split: str) -> Examples:
    """Records of 1 label byte and 3 x 32 x 32 pixel bytes, in one tar archive."""
    members = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[split]
    with tarfile.open(files["archive"], "r:gz") as archive:
        opened = [archive.extractfile(f"cifar-10-batches-bin/{member}") for member in members]
        raw = b"".join(file.read() for file in opened if file is not None)
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


CIFAR10 = Entry(
    folder="cifar10",
    version="3.0.2",
    description="CIFAR-10: 60000 32x32 colour images in 10 classes, 6000 a class.",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    terms="no licence is stated; its page asks to cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    files={
        "archive": RawFile(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    },
    stored=WholePictures(
        _read,
        (32, 32, 3),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        id_digits=5,
    ),
    transform=Standardise.by(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261)),
)
