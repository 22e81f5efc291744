"""Augmentation: changes of pictures at random that leave their class as it is, by name for recipes.

All of them are differentiable, and so can be taken of distilled images within the unroll (differentiable siamese augmentation,
arXiv 2102.08259, whose ranges these are; here each picture has parameters of its own).
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ddjax.errors import InputError

# (key, inputs [b, ...] float32) -> inputs of the same shape.
Augment = Callable[[jax.Array, jax.Array], jax.Array]

PADDING = 4
_SCALE, _ANGLE = 1.2, math.radians(15)


def crop(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """Pictures [b, H, W, C] padded by 4 pixels on every side, by reflection (`numpy.pad`), and cut back to size.

    Where each is cut is drawn on its own, uniformly from all 9 x 9 places.
    """
    row_key, column_key = jax.random.split(key)
    count, height, width, _ = pictures.shape
    rows, columns = _window(row_key, count, height), _window(column_key, count, width)
    # Whole rows first, then whole pixels: on a CPU half the time of cutting a padded copy, picture by picture.
    pictures = jnp.take_along_axis(pictures, rows[:, :, None, None], axis=1, mode="promise_in_bounds")
    return jnp.take_along_axis(pictures, columns[:, None, :, None], axis=2, mode="promise_in_bounds")


def flip(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """Every other picture on average mirrored left to right."""
    mirrored = jax.random.bernoulli(key, shape=(len(pictures), 1, 1, 1))
    return jnp.where(mirrored, pictures[:, :, ::-1], pictures)


def scale(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """Height and width each times a factor from 1 / 1.2 to 1.2, about the middle."""
    factors = jax.random.uniform(key, (len(pictures), 2), pictures.dtype, 1 / _SCALE, _SCALE)
    return _seen_through(pictures, jax.vmap(jnp.diag)(1 / factors))


def rotate(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """By up to 15 degrees either way, about the middle."""
    angle = jax.random.uniform(key, (len(pictures),), pictures.dtype, -_ANGLE, _ANGLE)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return _seen_through(pictures, jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2))


def brightness(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """A number from -0.5 to 0.5 added to each picture, in the space that the network reads."""
    return pictures + _each(key, pictures, -0.5, 0.5)


def saturation(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """What a pixel's channels differ by from their mean, times a number from 0 to 2."""
    grey = jnp.mean(pictures, axis=3, keepdims=True)
    return grey + (pictures - grey) * _each(key, pictures, 0.0, 2.0)


def contrast(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """What values differ by from the mean of their picture, times a number from 0.5 to 1.5."""
    mean = jnp.mean(pictures, axis=(1, 2, 3), keepdims=True)
    return mean + (pictures - mean) * _each(key, pictures, 0.5, 1.5)


def cutout(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """Zeros in a rectangle of half the height and half the width, its middle anywhere."""
    count, height, width, _ = pictures.shape
    row_key, column_key = jax.random.split(key)
    hidden = [
        jnp.abs(jnp.arange(side, dtype=jnp.int32)[None] - jax.random.randint(k, (count, 1), 0, side, dtype=jnp.int32))
        <= side // 4
        for k, side in ((row_key, height), (column_key, width))
    ]
    return jnp.where((hidden[0][:, :, None] & hidden[1][:, None, :])[..., None], 0, pictures)


def alike(augment: Augment) -> Augment:
    """The augmentation with the same parameters for every picture, in batches of whatever size (arXiv 2102.08259, sec. 3.2)."""
    return lambda key, pictures: jax.vmap(lambda picture: augment(key, picture[None])[0])(pictures)


def _each(key: jax.Array, pictures: jax.Array, low: float, high: float) -> jax.Array:
    return jax.random.uniform(key, (len(pictures), 1, 1, 1), pictures.dtype, low, high)


def _seen_through(pictures: jax.Array, maps: jax.Array) -> jax.Array:
    """Pictures sampled where linear maps [b, 2, 2] put each pixel, about the middle; bilinear, the edge going on outside."""
    _, height, width, _ = pictures.shape
    middle = (jnp.asarray([height, width], pictures.dtype) - 1) / 2
    rows, columns = jnp.meshgrid(*(jnp.arange(side, dtype=pictures.dtype) for side in (height, width)), indexing="ij")
    grid = jnp.stack([rows, columns]).reshape(2, -1) - middle[:, None]

    def one(picture: jax.Array, matrix: jax.Array) -> jax.Array:
        at = (matrix @ grid + middle[:, None]).reshape(2, height, width)
        sample = partial(jax.scipy.ndimage.map_coordinates, coordinates=list(at), order=1, mode="nearest")
        return jnp.stack([sample(channel) for channel in jnp.moveaxis(picture, 2, 0)], axis=2)

    seen: jax.Array = jax.vmap(one)(pictures, maps)
    return seen


def _window(key: jax.Array, count: int, side: int) -> jax.Array:
    """int32 [count, side]: the places along a side that windows see which begin up to `PADDING` before or behind it."""
    start = jax.random.randint(key, (count, 1), -PADDING, PADDING + 1, dtype=jnp.int32)
    last = side - 1
    return last - jnp.abs(last - jnp.abs(start + jnp.arange(side, dtype=jnp.int32)[None]))


PARTS: dict[str, Augment] = {
    "crop": crop,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
    "brightness": brightness,
    "saturation": saturation,
    "contrast": contrast,
    "cutout": cutout,
}


def make_augment(name: str, input_shape: tuple[int, ...], flag: str = "--augment") -> Augment | None:
    """The augmentation `name` for examples of `input_shape`, as `make_draw_batch` takes it; None for "none".

    Args:
      name: keys of `PARTS` joined by "-", one after the other; each has a key of its own.
      flag: what errors call it.

    Raises:
      InputError: there is no such augmentation, or the examples are no pictures, or smaller than the padding allows.
    """
    if name == "none":
        return None
    names, smallest = name.split("-"), PADDING + 1  # a reflection does not repeat the edge
    if not set(names) <= set(PARTS):
        raise InputError(f"{flag} is {name!r}: give none, or some of {', '.join(PARTS)} joined by -, as crop-flip")
    if len(input_shape) != 3 or min(input_shape[:2]) < smallest:
        raise InputError(
            f"{flag} {name} is for pictures [height, width, channels] of at least {smallest}x{smallest}, but the examples "
            f"have shape {list(input_shape)}: give {flag} none"
        )

    def in_turn(key: jax.Array, pictures: jax.Array) -> jax.Array:
        for part, own in zip(names, jax.random.split(key, len(names)), strict=True):
            pictures = PARTS[part](own, pictures)
        return pictures

    return in_turn if len(names) > 1 else PARTS[name]
