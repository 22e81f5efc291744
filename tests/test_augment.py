"""Augmentation of real batches: against numpy.pad, by chance that is as it should be, and refused where it makes no sense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.data import AUGMENTS, Split, Standardise, make_augment, make_draw_batch
from ddjax.errors import InputError

OFFSETS = [(row, column) for row in range(9) for column in range(9)]


def variants(picture, *, mirrored):
    """The pictures [h, w, c] that may come of one, as bytes."""
    height, width, _ = picture.shape
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = [padded[row : row + height, column : column + width] for row, column in OFFSETS]
    return [crop.tobytes() for crop in crops + [crop[:, ::-1] for crop in crops if mirrored]]


@pytest.mark.parametrize("shape", [(10, 11, 1), (6, 10, 3)])
@pytest.mark.parametrize("name, mirrored", [("crop", False), ("crop-flip", True)])
def test_every_crop_and_mirror_image_occurs_and_nothing_else(name, mirrored, shape):
    """One picture, very often: all variants of it about equally often. In narrower ones some mirror images are crops, too."""
    picture = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    known = {kind: number for number, kind in enumerate(variants(picture, mirrored=mirrored))}
    kinds, each = 162 if mirrored else 81, 60
    assert len(known) == kinds
    batch = jnp.asarray(np.broadcast_to(picture, (kinds * each, *shape)))
    augment = make_augment(name, shape)
    assert augment is not None
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = np.asarray(jax.jit(augment)(jax.random.key(0), batch))
    assert found.dtype == np.float32 and found.shape == batch.shape
    counts = np.bincount([known[one.tobytes()] for one in found], minlength=kinds)
    assert counts.min() > 0
    freedom = kinds - 1  # of a chi-squared, whose mean it is
    assert abs(np.sum((counts - each) ** 2 / each) - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pictures_keep_their_labels(dtype):
    """And each is changed by itself: those of one batch by many different moves."""
    pictures = np.random.RandomState(0).randint(0, 256, (20, 5, 6, 3)).astype(dtype)
    split = Split.on_device(pictures, np.arange(20, dtype=np.int32), Standardise.by([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    draw_batch = make_draw_batch(200, 20, make_augment("crop-flip", (5, 6, 3)))
    inputs, targets = jax.jit(draw_batch)(jax.random.key(3), split)
    clean, moves = np.asarray(split.transform(split.inputs)), set()
    for found, label in zip(np.asarray(inputs), np.asarray(targets).argmax(axis=1), strict=True):
        # To a rounding: a compiled transform may be contracted otherwise.
        near = [np.frombuffer(kind, np.float32).reshape(5, 6, 3) for kind in variants(clean[label], mirrored=True)]
        distances = np.abs(np.stack(near) - found).max(axis=(1, 2, 3))
        assert distances.min() < 1e-4 * np.abs(found).max()
        moves.add(int(distances.argmin()))
    assert len(moves) > 60  # 200 draws from 80 that differ
    again, other = (jax.jit(draw_batch)(jax.random.key(key), split)[0] for key in (3, 4))
    np.testing.assert_array_equal(inputs, again)
    assert not np.array_equal(inputs, other)


def test_none_is_none():
    """To the last bit what is drawn without a word of it."""
    assert make_augment("none", (4,)) is None
    pictures = np.random.RandomState(0).randint(0, 256, (20, 6, 6, 3), np.uint8)
    split = Split.on_device(pictures, np.arange(20, dtype=np.int32), Standardise.by([0.5], [0.2]))
    batches = [make_draw_batch(*args)(jax.random.key(0), split) for args in ((16, 20), (16, 20, AUGMENTS["none"]))]
    jax.tree.map(np.testing.assert_array_equal, *batches)


@pytest.mark.parametrize("shape", [(7,), (9, 7), (4, 9, 1), (9, 4, 1), (9, 9, 3, 2)])
def test_examples_that_cannot_be_augmented(shape):
    for name in ("crop", "crop-flip"):
        with pytest.raises(InputError) as excinfo:
            make_augment(name, shape)
        assert str(excinfo.value) == (
            f"--augment {name} is for pictures [height, width, channels] of at least 5x5, but the examples have shape "
            f"{list(shape)}: give --augment none"
        )


def test_an_unknown_name():
    with pytest.raises(InputError, match="^--augment is 'turn': choose one of none, crop, crop-flip$"):
        make_augment("turn", (9, 9, 1))
