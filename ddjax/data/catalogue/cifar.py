"""CIFAR-10 and CIFAR-100, from their archives of binary records."""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddjax.data.catalogue.entry import Entry, RawFile
from ddjax.data.catalogue.whole import Examples, WholePictures
from ddjax.data.transforms import Standardise


def _records(archive: Path, members: Sequence[str], labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of so many label bytes and 3 x 32 x 32 pixel bytes: images [N, 32, 32, 3], label bytes [N, labels]."""
    with tarfile.open(archive, "r:gz") as opened:
        files = [opened.extractfile(member) for member in members]
        raw = b"".join(file.read() for file in files if file is not None)
    records = np.frombuffer(raw, np.uint8).reshape(-1, labels + 3 * 32 * 32)
    return records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, :labels]


def _read_10(files: Mapping[str, Path], split: str) -> Examples:
    members = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[split]
    images, labels = _records(files["archive"], [f"cifar-10-batches-bin/{member}" for member in members], 1)
    return images, {"label": labels[:, 0]}


def _read_100(files: Mapping[str, Path], split: str) -> Examples:
    images, labels = _records(files["archive"], [f"cifar-100-binary/{split}.bin"], 2)
    return images, {"coarse_label": labels[:, 0], "label": labels[:, 1]}


_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar
cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl
hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture insects
large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
_HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_TERMS = "no licence is stated; its page asks to cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"


CIFAR10 = Entry(
    folder="cifar10",
    version="3.0.2",
    description="CIFAR-10: 60000 32x32 colour images in 10 classes, 6000 a class.",
    homepage=_HOMEPAGE,
    terms=_TERMS,
    files={
        "archive": RawFile(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    },
    stored=WholePictures(
        _read_10,
        (32, 32, 3),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        id_digits=5,
    ),
    transform=Standardise.by(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261)),
)

CIFAR100 = Entry(
    folder="cifar100",
    version="3.0.2",
    description="CIFAR-100: 60000 32x32 colour images in 100 classes, 600 a class.",
    homepage=_HOMEPAGE,
    terms=_TERMS,
    files={
        "archive": RawFile(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )
    },
    stored=WholePictures(
        _read_100,
        (32, 32, 3),
        class_names=tuple(_FINE.split()),
        id_digits=5,
        other_labels={"coarse_label": tuple(_COARSE.split())},
    ),
    transform=Standardise.by(mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762)),
)
