"""Data sets: loading, preparing, splitting, normalising and drawing batches on the device."""

from ddjax.data.dataset import (
    Dataset,
    MissingDataError,
    Split,
    denormalise,
    draw_batch,
    hold_out,
    normalise,
)
from ddjax.data.pictures import as_pictures, parse_shape
from ddjax.data.sources import DATASETS, load_dataset, prepare

__all__ = [
    "DATASETS",
    "Dataset",
    "MissingDataError",
    "Split",
    "as_pictures",
    "denormalise",
    "draw_batch",
    "hold_out",
    "load_dataset",
    "normalise",
    "parse_shape",
    "prepare",
]
