"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import tyro

DataDir = Annotated[
    tyro.conf.DisallowNone[str | None],
    tyro.conf.arg(help="Folder of prepared data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."),
]
RunPath = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH", help="Folder of a run, or a distilled.safetensors file.")
]
