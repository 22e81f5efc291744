"""Augmentation of real batches: changes of pictures at random that leave their class as it is, by name for recipes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddjax.errors import InputError

# (key, inputs [b, ...] float32) -> inputs of the same shape.
Augment = Callable[[jax.Array, jax.Array], jax.Array]

PADDING = 4


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


def crop_flip(key: jax.Array, pictures: jax.Array) -> jax.Array:
    """`crop`, and every other picture on average mirrored left to right: the paper's, for CIFAR-10."""
    crop_key, flip_key = jax.random.split(key)
    pictures = crop(crop_key, pictures)
    mirrored = jax.random.bernoulli(flip_key, shape=(len(pictures), 1, 1, 1))
    return jnp.where(mirrored, pictures[:, :, ::-1], pictures)


def _window(key: jax.Array, count: int, side: int) -> jax.Array:
    """int32 [count, side]: the places along a side that windows see which begin up to `PADDING` before or behind it."""
    start = jax.random.randint(key, (count, 1), -PADDING, PADDING + 1, dtype=jnp.int32)
    last = side - 1
    return last - jnp.abs(last - jnp.abs(start + jnp.arange(side, dtype=jnp.int32)[None]))


AUGMENTS: dict[str, Augment | None] = {"none": None, "crop": crop, "crop-flip": crop_flip}


def make_augment(name: str, input_shape: tuple[int, ...]) -> Augment | None:
    """The augmentation `name` for examples of `input_shape`, as `make_draw_batch` takes it; None for "none".

    Raises:
      InputError: there is no such augmentation, or the examples are no pictures, or smaller than the padding allows.
    """
    if name not in AUGMENTS:
        raise InputError(f"--augment is {name!r}: choose one of {', '.join(AUGMENTS)}")
    augment, smallest = AUGMENTS[name], PADDING + 1  # a reflection does not repeat the edge
    if augment is not None and (len(input_shape) != 3 or min(input_shape[:2]) < smallest):
        raise InputError(
            f"--augment {name} is for pictures [height, width, channels] of at least {smallest}x{smallest}, but the examples "
            f"have shape {list(input_shape)}: give --augment none"
        )
    return augment
