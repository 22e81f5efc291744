"""MNIST and the sets that are published in its file format."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddjax.data.catalogue.entry import Entry, RawFile
from ddjax.data.catalogue.whole import Examples, WholePictures
from ddjax.data.transforms import Standardise

_NAMES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def _files(base: str, *published: tuple[int, str]) -> dict[str, RawFile]:
    """The four files below an address, with the size and SHA-256 of each."""
    return {role: RawFile(base + name, *known) for (role, name), known in zip(_NAMES.items(), published, strict=True)}


def _read_idx(path: Path) -> np.ndarray:
    """An array in the IDX format of MNIST: two zero bytes, the type (8: uint8), the rank, big-endian sizes, the data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is not an IDX file of bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read(files: Mapping[str, Path], split: str) -> Examples:
    return _read_idx(files[f"{split}_images"])[..., None], {"label": _read_idx(files[f"{split}_labels"])}


MNIST = Entry(
    folder="mnist",
    version="3.0.1",
    description="The MNIST database of handwritten digits.",
    homepage="http://yann.lecun.com/exdb/mnist/",
    terms="copyright Y. LeCun and C. Cortes; CC BY-SA 3.0, as others have it",
    files=_files(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    stored=WholePictures(_read, (28, 28, 1)),
    transform=Standardise.by(mean=(0.1307,), std=(0.3081,)),
)

FASHION_MNIST = Entry(
    folder="fashion_mnist",
    version="3.0.1",
    description="Fashion-MNIST: 28x28 grey pictures of Zalando's articles in 10 classes.",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    terms="MIT",
    files=_files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
    stored=WholePictures(
        _read,
        (28, 28, 1),
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
)
