"""Pictures in another size or number of channels, so that two data sets can share a network's input."""

import dataclasses
import re

import numpy as np

from ddjax.data.dataset import Dataset
from ddjax.data.transforms import Standardise
from ddjax.errors import InputError

Shape = tuple[int, int, int]


def parse_shape(text: str) -> Shape:
    """(height, width, channels) from text such as "28x28x1".

    Raises:
      InputError: anything else, sides above 9999 or channels other than 1 (grey) and 3 (RGB).
    """
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})x([13])", str(text), re.ASCII)
    if match is None:
        raise InputError(
            f"{text!r} is no shape of pictures: give HEIGHTxWIDTHxCHANNELS such as 28x28x1 or 32x32x3, with 1 channel for "
            "grey or 3 for RGB"
        )
    height, width, channels = map(int, match.groups())
    return height, width, channels


def as_pictures(dataset: Dataset, shape: Shape) -> Dataset:
    """The data set with all its pictures resized and turned into grey or RGB; itself where they have that shape already.

    Where the set has a `border`, that much of every side is left black, and the pictures are resized to what is inside.
    Resizing is Pillow's bilinear filter, which averages over all pixels that a smaller picture leaves out. Grey becomes
    RGB by repetition; RGB becomes grey by the ITU-R 601 luma, as Pillow's mode "L". uint8 stays uint8, float32 float32.
    The set's transform is kept where it still holds (grey repeated in its own size), otherwise it is fitted to the new
    training pictures. `source` ends with "@" and the shape.

    Args:
      dataset: of pictures [N, H, W, C], uint8 or float32, C being 1 or 3.
      shape: (height, width, channels), as from `parse_shape`.

    Raises:
      InputError: its examples are no such pictures.
    """
    old = dataset.input_shape
    if old == shape:
        return dataset
    described = "x".join(map(str, shape))
    if len(old) != 3 or old[2] not in (1, 3):
        what = {1: "vectors", 2: "sequences"}.get(len(old), "examples")
        raise InputError(
            f"{dataset.name}: {what} of shape {list(old)} cannot become pictures of {described}: leave --pictures out, or "
            "give pictures [height, width, channels] with 1 or 3 channels"
        )
    inside = round(shape[0] * (1 - 2 * dataset.border)), round(shape[1] * (1 - 2 * dataset.border))
    x_train, x_test = (_converted(x, shape, inside) for x in (dataset.x_train, dataset.x_test))
    repeated = old == (*shape[:2], 1) and not dataset.border
    transform = dataset.transform if repeated else Standardise.fitted_to(x_train)
    blank = "" if inside == shape[:2] else f", {inside[0]}x{inside[1]} of it filled"
    source = f"{dataset.source}@{described}{blank}"
    return dataclasses.replace(dataset, x_train=x_train, x_test=x_test, transform=transform, source=source, border=0.0)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One picture [H, W, C], uint8 or float32, in another (height, width) by Pillow's bilinear filter."""
    from PIL import Image

    def resize(array: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BILINEAR))

    if picture.shape[:2] == size:
        return picture
    if picture.shape[-1] == 1:
        return resize(picture[..., 0])[..., None]
    if picture.dtype == np.uint8:
        return resize(picture)
    return np.stack([resize(np.ascontiguousarray(plane)) for plane in np.moveaxis(picture, -1, 0)], axis=-1)


def converted(picture: np.ndarray, shape: Shape) -> np.ndarray:
    """One picture [H, W, 1 or 3], uint8 or float32, in another size and number of channels."""
    grey = _grey(picture) if shape[2] < picture.shape[-1] else picture
    return np.broadcast_to(resized(grey, shape[:2]), shape)


def _grey(picture: np.ndarray) -> np.ndarray:
    """One RGB picture [H, W, 3] as [H, W, 1]."""
    if picture.dtype == np.uint8:  # in sixteen bits after the point, rounded, as Pillow does
        return np.asarray((picture @ np.array([[19595], [38470], [7471]], np.uint32) + 0x8000) >> 16, np.uint8)
    return np.asarray(picture @ np.array([[0.299], [0.587], [0.114]], picture.dtype))


def _converted(pictures: np.ndarray, shape: Shape, inside: tuple[int, int]) -> np.ndarray:
    """One at a time into the middle of one array: nothing but the result is ever held in full."""
    result = np.zeros((len(pictures), *shape), pictures.dtype)
    top, left = ((side - filled) // 2 for side, filled in zip(shape, inside, strict=False))
    middle = result[:, top : top + inside[0], left : left + inside[1]]
    for place, picture in zip(middle, pictures, strict=True):
        place[:] = converted(picture, (*inside, shape[2]))
    return result
