"""The named data sets: versions, statistics, where their raw files are, and how those files are read.

Names, versions, features and example order are those of tensorflow-datasets, so a folder prepared here and one prepared
by its own builders hold the same examples. Its builders need TensorFlow to unpack the files; these readers do not.
USPS is not in its catalogue: the 16x16 set of "The Elements of Statistical Learning" is added here.
"""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddjax.data.catalogue.cub import CUB200
from ddjax.data.catalogue.entry import Entry, RawFile
from ddjax.data.catalogue.voc import VOC2007
from ddjax.data.catalogue.whole import Examples, WholePictures
from ddjax.data.transforms import Standardise


def _read_idx(path: Path) -> np.ndarray:
    """An array in the IDX format of MNIST: two zero bytes, the type (8: uint8), the rank, big-endian sizes, the data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is not an IDX file of bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read_mnist(files: Mapping[str, Path], split: str) -> Examples:
    return _read_idx(files[f"{split}_images"])[..., None], _read_idx(files[f"{split}_labels"])


def _read_cifar10(files: Mapping[str, Path], split: str) -> Examples:
    """Records of 1 label byte and 3 x 32 x 32 pixel bytes, in one tar archive."""
    members = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[split]
    with tarfile.open(files["archive"], "r:gz") as archive:
        opened = [archive.extractfile(f"cifar-10-batches-bin/{member}") for member in members]
        raw = b"".join(file.read() for file in opened if file is not None)
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _read_svhn(files: Mapping[str, Path], split: str) -> Examples:
    """MATLAB arrays X [32, 32, 3, N] and y [N, 1], where the digit 0 is written as 10."""
    import scipy.io

    contents = scipy.io.loadmat(files[split])
    return np.moveaxis(contents["X"], -1, 0), contents["y"].reshape(-1) % 10


def _read_usps(files: Mapping[str, Path], split: str) -> Examples:
    """Lines of a label and 256 grey values from -1 (background) to 1 (ink)."""
    with gzip.open(files[split], "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, dtype=np.float64, ndmin=2)
    pixels = np.rint((table[:, 1:] + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(-1, 16, 16, 1), table[:, 0].astype(np.int64)


def _mnist_files(base: str, checksums: Mapping[str, tuple[str, int, str]]) -> dict[str, RawFile]:
    return {role: RawFile(base + name, size, sha256) for role, (name, size, sha256) in checksums.items()}


CATALOGUE: dict[str, Entry] = {
    "mnist": Entry(
        folder="mnist",
        version="3.0.1",
        description="The MNIST database of handwritten digits.",
        homepage="http://yann.lecun.com/exdb/mnist/",
        files=_mnist_files(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            {
                "train_images": (
                    "train-images-idx3-ubyte.gz",
                    9912422,
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                "train_labels": (
                    "train-labels-idx1-ubyte.gz",
                    28881,
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
                "test_images": (
                    "t10k-images-idx3-ubyte.gz",
                    1648877,
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                "test_labels": (
                    "t10k-labels-idx1-ubyte.gz",
                    4542,
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            },
        ),
        stored=WholePictures(_read_mnist, (28, 28, 1)),
        transform=Standardise.by(mean=(0.1307,), std=(0.3081,)),
    ),
    "fashion_mnist": Entry(
        folder="fashion_mnist",
        version="3.0.1",
        description="Fashion-MNIST: 28x28 grey pictures of Zalando's articles in 10 classes.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        files=_mnist_files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            {
                "train_images": (
                    "train-images-idx3-ubyte.gz",
                    26421880,
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                ),
                "train_labels": (
                    "train-labels-idx1-ubyte.gz",
                    29515,
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                ),
                "test_images": (
                    "t10k-images-idx3-ubyte.gz",
                    4422102,
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                ),
                "test_labels": (
                    "t10k-labels-idx1-ubyte.gz",
                    5148,
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                ),
            },
        ),
        stored=WholePictures(
            _read_mnist,
            (28, 28, 1),
            class_names=(
                *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            ),
        ),
    ),
    "cifar10": Entry(
        folder="cifar10",
        version="3.0.2",
        description="CIFAR-10: 60000 32x32 colour images in 10 classes, 6000 a class.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        files={
            "archive": RawFile(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            )
        },
        stored=WholePictures(
            _read_cifar10,
            (32, 32, 3),
            class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            id_digits=5,
        ),
        transform=Standardise.by(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261)),
    ),
    "svhn_cropped": Entry(
        folder="svhn_cropped",
        version="3.1.0",
        description="Street View House Numbers, cropped to 32x32 (without the 531131 extra examples).",
        homepage="http://ufldl.stanford.edu/housenumbers/",
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
        stored=WholePictures(_read_svhn, (32, 32, 3), id_digits=6),
        transform=Standardise.by(mean=(0.4379, 0.4440, 0.4729), std=(0.1980, 0.2010, 0.1970)),
    ),
    "usps": Entry(
        folder="usps",
        version="1.0.0",
        description="USPS handwritten digits, 16x16 grey (7291 train, 2007 test).",
        homepage="https://hastie.su.domains/ElemStatLearn/data.html",
        files={
            "train": RawFile("https://hastie.su.domains/ElemStatLearn/datasets/zip.train.gz"),
            "test": RawFile("https://hastie.su.domains/ElemStatLearn/datasets/zip.test.gz"),
        },
        stored=WholePictures(_read_usps, (16, 16, 1), id_digits=5),
        border=4 / 28,  # its digits fill the picture, where MNIST's keep to 20x20 of 28x28
    ),
    "voc2007": VOC2007,
    "cub200": CUB200,
}
