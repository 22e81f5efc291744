"""Augmentation of real batches: against numpy.pad, by chance that is as it should be, and refused where it makes no sense."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.data import Split, Standardise, make_augment, make_draw_batch
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


@pytest.mark.parametrize("name", ["flip", "scale", "rotate", "brightness", "saturation", "contrast", "cutout"])
def test_what_each_part_does_to_a_picture(name):
    """By what it leaves as it is; each picture otherwise than the next, within the ranges that are said."""
    rng = np.random.RandomState(0)
    picture = rng.normal(size=(9, 9, 3)).astype(np.float32)
    batch = jnp.asarray(np.broadcast_to(picture, (300, 9, 9, 3)))
    augment = make_augment(name, (9, 9, 3))
    assert augment is not None
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = np.asarray(jax.jit(augment)(jax.random.key(0), batch))
    kinds = len({one.tobytes() for one in found})
    assert found.shape == batch.shape and found.dtype == np.float32 and (kinds == 2 if name == "flip" else kinds > 60)
    if name == "flip":
        mirrored = [np.array_equal(one, picture[:, ::-1]) for one in found]
        assert all(m or np.array_equal(one, picture) for m, one in zip(mirrored, found, strict=True))
        assert 120 < sum(mirrored) < 180
    elif name in ("scale", "rotate"):
        np.testing.assert_allclose(
            found[:, 4, 4], np.broadcast_to(picture[4, 4], (300, 3)), atol=1e-5
        )  # the middle stays
    elif name == "brightness":
        added = (found - picture).reshape(300, -1)
        np.testing.assert_allclose(added - added[:, :1], 0, atol=1e-5)
        assert -0.5 <= added.min() < -0.4 and 0.4 < added.max() <= 0.5
    elif name == "cutout":
        zeros = (found == 0).all(axis=3)
        assert np.all((found == picture) | zeros[..., None])
        assert zeros.sum(axis=(1, 2)).max() == 25 and zeros.any(axis=0).all()
    else:
        axes: tuple[int, ...] = (3,) if name == "saturation" else (1, 2, 3)
        np.testing.assert_allclose(
            found.mean(axis=axes), np.broadcast_to(picture, found.shape).mean(axis=axes), atol=1e-5
        )
        spread = np.asarray(found - found.mean(axis=axes, keepdims=True)).std(axis=(1, 2, 3))
        spread /= np.asarray(picture - picture.mean(axis=tuple(a - 1 for a in axes), keepdims=True)).std()
        low, high = (0, 2) if name == "saturation" else (0.5, 1.5)
        assert low <= spread.min() < low + 0.1 and high - 0.1 < spread.max() <= high + 1e-4


def test_a_quarter_turn_is_numpys_and_half_a_size_every_other_pixel():
    from ddjax.data.augment import _seen_through

    picture = np.random.RandomState(0).normal(size=(7, 7, 2)).astype(np.float32)
    turns = jnp.asarray([[[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    found = _seen_through(jnp.asarray(np.stack([picture, picture])), turns)
    np.testing.assert_allclose(found[0], np.rot90(picture, -1), atol=1e-6)
    np.testing.assert_allclose(found[1], picture, atol=1e-6)
    halved = _seen_through(jnp.asarray(picture[None]), jnp.asarray([[[2.0, 0.0], [0.0, 2.0]]]))[0]
    np.testing.assert_allclose(halved[2:5, 2:5], picture[1:6:2, 1:6:2], atol=1e-6)


@pytest.mark.parametrize("name", ["crop-flip", "scale-rotate", "brightness-saturation-contrast-cutout"])
def test_derivatives_reach_distilled_images_through_it(x64, name):
    """Linear in the pictures, all of them, so that one difference is the derivative."""
    rng = np.random.RandomState(1)
    pictures, direction = (jnp.asarray(rng.normal(size=(4, 8, 8, 3))) for _ in range(2))
    augment = make_augment(name, (8, 8, 3))
    assert augment is not None
    function = partial(augment, jax.random.key(2))
    _, pushed = jax.jvp(function, (pictures,), (direction,))
    np.testing.assert_allclose(pushed, function(pictures + direction) - function(pictures), atol=1e-12)
    weights = jnp.asarray(rng.normal(size=pushed.shape))
    _, pull = jax.vjp(function, pictures)
    np.testing.assert_allclose(jnp.vdot(pull(weights)[0], direction), jnp.vdot(weights, pushed), rtol=1e-10)
    assert jnp.linalg.norm(pushed) > 1


def test_none_is_none():
    """To the last bit what is drawn without a word of it."""
    assert make_augment("none", (4,)) is None
    pictures = np.random.RandomState(0).randint(0, 256, (20, 6, 6, 3), np.uint8)
    split = Split.on_device(pictures, np.arange(20, dtype=np.int32), Standardise.by([0.5], [0.2]))
    batches = [make_draw_batch(*args)(jax.random.key(0), split) for args in ((16, 20), (16, 20, None))]
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
    with pytest.raises(
        InputError, match="^--augment is 'turn': give none, or some of crop, flip, .* joined by -, as crop-flip$"
    ):
        make_augment("turn", (9, 9, 1))
