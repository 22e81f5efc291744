"""Data sets: loading, preparing, splitting, transforming and drawing batches on the device."""

from ddjax.data.augment import Augment, alike, make_augment
from ddjax.data.dataset import Dataset, MissingDataError, Split, check_covariance, whitened
from ddjax.data.own import make_dataset
from ddjax.data.pictures import as_pictures, parse_shape
from ddjax.data.sampling import make_draw_batch
from ddjax.data.sources import DATASETS, load_dataset, prepare
from ddjax.data.splitting import hold_out
from ddjax.data.transforms import Standardise, Transform, Whiten, principal_axes, transform_for, transform_from_json

__all__ = [
    "DATASETS",
    "Augment",
    "Dataset",
    "MissingDataError",
    "Split",
    "Standardise",
    "Transform",
    "Whiten",
    "alike",
    "as_pictures",
    "check_covariance",
    "hold_out",
    "load_dataset",
    "make_augment",
    "make_dataset",
    "make_draw_batch",
    "parse_shape",
    "prepare",
    "principal_axes",
    "transform_for",
    "transform_from_json",
    "whitened",
]
