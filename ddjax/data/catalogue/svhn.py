"""Street View House Numbers, from MATLAB files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddjax.data.catalogue.entry import Entry, RawFile
from ddjax.data.catalogue.whole import Examples, WholePictures
from ddjax.data.transforms import Standardise


def _read(files: Mapping[str, Path], split: str) -> Examples:
    """MATLAB arrays X [32, 32, 3, N] and y [N, 1], where the digit 0 is written as 10."""
    import scipy.io

    contents = scipy.io.loadmat(files[split])
    return np.moveaxis(contents["X"], -1, 0), {"label": contents["y"].reshape(-1) % 10}


SVHN_CROPPED = Entry(
    folder="svhn_cropped",
    version="3.1.0",
    description="Street View House Numbers, cropped to 32x32 (without the 531131 extra examples).",
    homepage="http://ufldl.stanford.edu/housenumbers/",
    terms="for non-commercial use only",
    files={
        "train": RawFile(
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            182040794,
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        "test": RawFile(
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            64275384,
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    },
    stored=WholePictures(_read, (32, 32, 3), id_digits=6),
    transform=Standardise.by(mean=(0.4379, 0.4440, 0.4729), std=(0.1980, 0.2010, 0.1970)),
)
