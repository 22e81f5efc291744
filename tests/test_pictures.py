"""ddjax.data.pictures: sizes and channels against Pillow's own, statistics, names, and sets that come to share a shape."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from test_data import random_pictures, write_prepared

from ddjax import data
from ddjax.data.catalogue import CATALOGUE
from ddjax.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")


def pictures_set(shape, dtype=np.uint8):
    x = random_pictures(shape, 9)[0].astype(dtype)
    channels = shape[-1]
    transform = data.Standardise.by(np.linspace(0.2, 0.4, channels), np.linspace(0.5, 0.7, channels))
    y = np.arange(9, dtype=np.int32) % 3
    return data.Dataset("own", x[:6], y[:6], x[6:], y[6:], transform, ("a", "b", "c"), "here#1")


@pytest.mark.parametrize(
    ("text", "shape"), [("28x28x1", (28, 28, 1)), ("32x16x3", (32, 16, 3)), ("224x9999x3", (224, 9999, 3))]
)
def test_shapes_are_height_width_channels(text, shape):
    assert data.parse_shape(text) == shape


@pytest.mark.parametrize(
    "text",
    [
        "",
        "28",
        "28x28",
        "28x28x2",
        "28x28x4",
        "0x28x1",
        "28x-1x1",
        "28X28X1",
        "28x28x1\n",
        "28x28x1x1",
        "10000x2x1",
        "²x2x1",
        (28, 28, 1),
    ],
)
def test_other_text_is_no_shape(text):
    with pytest.raises(InputError, match="such as 28x28x1 or 32x32x3") as excinfo:
        data.parse_shape(text)
    assert repr(text) in str(excinfo.value) and "\n" not in str(excinfo.value)


@pytest.mark.parametrize("size", [(14, 9), (40, 33), (28, 20)], ids=["smaller", "larger", "same"])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (3, 3), (1, 1)], ids="{0[0]}to{0[1]}".format)
def test_conversion_is_pillows_own(size, channels):
    dataset = pictures_set((28, 20, channels[0]))
    shape = (*size, channels[1])
    converted = data.as_pictures(dataset, shape)
    if shape == dataset.input_shape:
        assert converted is dataset
        return
    assert converted.input_shape == shape and converted.source == f"here#1@{size[0]}x{size[1]}x{channels[1]}"
    for old, new in ((dataset.x_train, converted.x_train), (dataset.x_test, converted.x_test)):
        assert new.dtype == np.uint8 and len(new) == len(old)
        for before, after in zip(old, new, strict=True):
            whole = Image.fromarray(before if channels[0] == 3 else before[..., 0])
            whole = whole.convert("L") if channels[1] == 1 else whole
            whole = whole.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            whole = whole.convert("RGB") if channels[1] == 3 else whole
            np.testing.assert_array_equal(after, np.asarray(whole).reshape(shape))
    np.testing.assert_array_equal(converted.y_train, dataset.y_train)
    assert (converted.name, converted.class_names) == (dataset.name, dataset.class_names)


def test_smaller_pictures_are_averages():
    """One black and one white column make grey, where a filter without antialiasing could take either."""
    dataset = pictures_set((8, 8, 1))
    dataset.x_train[:] = np.array([0, 255], np.uint8)[np.arange(8) % 2][None, None, :, None]
    assert np.abs(data.as_pictures(dataset, (2, 2, 1)).x_train.astype(int) - 127.5).max() < 10


def test_float_pictures_stay_floats():
    dataset = pictures_set((12, 10, 3), np.float32)
    smaller, grey = data.as_pictures(dataset, (6, 5, 3)), data.as_pictures(dataset, (12, 10, 1))
    assert smaller.x_train.dtype == grey.x_test.dtype == np.float32
    # Half the size: the triangle filter of width 2 weighs four neighbours 1, 3, 3, 1.
    inner = dataset.x_train[0, 1:5, :, 2] * np.array([1, 3, 3, 1], np.float32)[:, None] / 8
    expected = inner.sum(axis=0)[1:5] @ np.array([1, 3, 3, 1]) / 8
    np.testing.assert_allclose(smaller.x_train[0, 1, 1, 2], expected, rtol=1e-5)
    np.testing.assert_allclose(grey.x_test[..., 0], dataset.x_test @ np.array([0.299, 0.587, 0.114]), rtol=1e-5)


def test_constants_are_kept_where_they_hold_and_computed_elsewhere():
    grey, colour = pictures_set((8, 8, 1)), pictures_set((8, 8, 3))
    repeated = data.as_pictures(grey, (8, 8, 3))
    for channel in np.moveaxis(repeated.transform(repeated.x_train), -1, 0):
        np.testing.assert_array_equal(channel, grey.transform(grey.x_train)[..., 0])
    for converted in (
        data.as_pictures(grey, (6, 6, 3)),
        data.as_pictures(grey, (6, 8, 1)),
        data.as_pictures(colour, (8, 8, 1)),
        data.as_pictures(colour, (6, 6, 3)),
    ):
        scaled = converted.x_train / 255
        np.testing.assert_allclose(converted.transform.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(converted.transform.std, scaled.std(axis=(0, 1, 2)), rtol=1e-6)


def test_statistics_of_many_pictures_are_those_of_all_their_parts():
    x = np.random.RandomState(0).randint(0, 200, (2**24 // 400 + 7, 20, 20, 1), np.uint8)
    x[-1] = 255
    mean, std = data.Standardise.fitted_to(x)
    assert x.size > 2**24
    np.testing.assert_allclose([mean[0], std[0]], [x.mean() / 255, x.std() / 255], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((64,), "vectors"),
        ((8, 8), "sequences"),
        ((8, 8, 2), "examples"),
        ((8, 8, 4), "examples"),
        ((8, 8, 3, 1), "examples"),
    ],
)
def test_what_is_no_picture_is_refused(shape, what):
    with pytest.raises(InputError, match=f"own: {what} of shape .* cannot become pictures of 6x6x1") as excinfo:
        data.as_pictures(pictures_set(shape), (6, 6, 1))
    assert "\n" not in str(excinfo.value)


def test_svhn_and_mnist_come_to_share_a_shape(tmp_path):
    """As for the adaptation from house numbers to handwritten digits."""
    _, svhn = write_prepared(tmp_path / "tfds", "svhn_cropped")
    _, mnist = write_prepared(tmp_path / "tfds", "mnist")
    source, target = (data.load_dataset(name, pictures="32x32x3") for name in ("svhn_cropped", "mnist"))
    assert source.input_shape == target.input_shape == (32, 32, 3)
    np.testing.assert_array_equal(source.x_train, svhn["train"][0])
    assert (source.source, target.source) == ("svhn_cropped:3.1.0", "mnist:3.0.1@32x32x3")
    assert np.ptp(target.x_train, axis=-1).max() == 0  # grey
    for before, after in zip(mnist["train"][0], target.x_train, strict=True):
        enlarged = Image.fromarray(before[..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(after[..., 0], enlarged)
    np.testing.assert_array_equal(target.y_test, mnist["test"][1])


def test_own_files_are_converted_and_wrong_shapes_refused_before_reading(tmp_path):
    x, y = random_pictures((6, 5, 3), 6)[0], np.arange(6) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    dataset = data.load_dataset(tmp_path / "own.npz", pictures="12x10x1")
    assert dataset.x_train.shape == (6, 12, 10, 1) and dataset.source.endswith("@12x10x1")
    with pytest.raises(InputError, match="'12x10' is no shape"):
        data.load_dataset(tmp_path / "absent.npz", pictures="12x10")


def test_a_set_without_a_border_gets_one_and_its_pictures_what_is_inside():
    """USPS fills its 16x16 pictures; brought to 28x28 it keeps to the 20x20 in the middle, as MNIST does."""
    plain = pictures_set((16, 16, 1))
    bordered = data.as_pictures(dataclasses.replace(plain, border=4 / 28), (28, 28, 1))
    for new, old in ((bordered.x_train, plain.x_train), (bordered.x_test, plain.x_test)):
        inside = [np.asarray(Image.fromarray(x[..., 0]).resize((20, 20), Image.Resampling.BILINEAR)) for x in old]
        np.testing.assert_array_equal(new[:, 4:24, 4:24, 0], inside)
        outside = new.astype(int).sum() - new[:, 4:24, 4:24].astype(int).sum()
        assert outside == 0
    inside = np.pad(np.ones((20, 20)), 4).astype(bool)
    scaled = bordered.x_train[:, :, :, 0] / 255
    np.testing.assert_allclose(bordered.transform.mean, 400 / 784 * scaled[:, inside].mean(), rtol=1e-6)
    np.testing.assert_allclose(bordered.transform.std, scaled.std(), rtol=1e-6)
    assert bordered.border == 0
    assert bordered.source == "here#1@28x28x1, 20x20 of it filled"


def test_usps_alone_is_known_to_lack_a_border():
    assert {name: entry.border for name, entry in CATALOGUE.items() if entry.border} == {"usps": 4 / 28}
