"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import tyro

DataDir = Annotated[
    tyro.conf.DisallowNone[str | None],
    tyro.conf.arg(help="Folder of prepared data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."),
]
Distributed = Annotated[
    bool,
    tyro.conf.arg(
        help="This is one of several processes of one run, which JAX brings together: by $JAX_COORDINATOR_ADDRESS, "
        "$JAX_NUM_PROCESSES and $JAX_PROCESS_ID, or under SLURM, Open MPI, Kubernetes and on Cloud TPU."
    ),
]
RunPath = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH", help="Folder of a run, or a distilled.safetensors file.")
]
