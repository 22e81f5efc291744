"""`ddjax prepare`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ddjax.cli.places import DataDir

NAMES = "mnist, fashion_mnist, cifar10, cifar100, svhn_cropped, usps, voc2007, cub200"


@dataclass(frozen=True)
class Prepare:
    """Download data sets and prepare them, without TensorFlow, where tensorflow-datasets looks for them."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="NAME...", help=f"Any of: {NAMES}. (digits needs no preparation.)"),
    ]
    data_dir: DataDir = None

    def run(self) -> None:
        from ddjax.data import prepare
        from ddjax.errors import InputError

        if not self.names:
            raise InputError(f"name the data sets to prepare, any of {NAMES}")
        for name in self.names:
            print(prepare(name, data_dir=self.data_dir), flush=True)
