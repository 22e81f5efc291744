"""The named data sets, one file a family: versions, constants, where their raw files are, and how those are read.

Names, versions, features and example order are those of tensorflow-datasets, so a folder prepared here and one prepared
by its own builders hold the same examples. Its builders need TensorFlow to unpack the files; these readers do not.
"""

from ddjax.data.catalogue.cifar import CIFAR10, CIFAR100
from ddjax.data.catalogue.cub import CUB200
from ddjax.data.catalogue.entry import Entry
from ddjax.data.catalogue.idx import FASHION_MNIST, MNIST
from ddjax.data.catalogue.svhn import SVHN_CROPPED
from ddjax.data.catalogue.usps import USPS
from ddjax.data.catalogue.voc import VOC2007

CATALOGUE: dict[str, Entry] = {
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn_cropped": SVHN_CROPPED,
    "usps": USPS,
    "voc2007": VOC2007,
    "cub200": CUB200,
}

# What is built in is scikit-learn's copy.
_DIGITS = (
    "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    "CC BY 4.0 (UCI Machine Learning Repository)",
)


def source_of(name: str) -> tuple[str, str] | None:
    """Where a named data set is from, and on what terms it may be used; None of a data set of one's own."""
    if name == "digits":
        return _DIGITS
    return (CATALOGUE[name].homepage, CATALOGUE[name].terms) if name in CATALOGUE else None
