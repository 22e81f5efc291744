"""USPS, the 16x16 set of "The Elements of Statistical Learning", which tensorflow-datasets has not."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddjax.data.catalogue.entry import Entry, RawFile
from ddjax.data.catalogue.whole import Examples, WholePictures


def _read(files: Mapping[str, Path], split: str) -> Examples:
    """Lines of a label and 256 grey values from -1 (background) to 1 (ink)."""
    with gzip.open(files[split], "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, dtype=np.float64, ndmin=2)
    pixels = np.rint((table[:, 1:] + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(-1, 16, 16, 1), {"label": table[:, 0].astype(np.int64)}


USPS = Entry(
    folder="usps",
    version="1.0.0",
    description="USPS handwritten digits, 16x16 grey (7291 train, 2007 test).",
    homepage="https://hastie.su.domains/ElemStatLearn/data.html",
    terms="no licence is stated",
    files={
        "train": RawFile("https://hastie.su.domains/ElemStatLearn/datasets/zip.train.gz"),
        "test": RawFile("https://hastie.su.domains/ElemStatLearn/datasets/zip.test.gz"),
    },
    stored=WholePictures(_read, (16, 16, 1), id_digits=5),
    digests={
        "train": "273d2f0849534345aef57efffdbf3f1ac509dcca6717e2e78f225997518b66a7",
        "test": "5b2537a0a00752c30fe4b62e9b88df5a3311b9c779e423b957d83d2954bfdaae",
    },
    border=4 / 28,  # its digits fill the picture, where MNIST's keep to 20x20 of 28x28
)
