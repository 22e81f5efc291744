"""A user's own data: folders of pictures, arrays and sequences of pairs in Python, tables."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

import ddjax
from ddjax import InputError
from ddjax.data import load_dataset, make_dataset

COLOURS = {"cat": (200, 10, 10), "dog": (10, 200, 10), "eel": (10, 10, 200)}


def picture(name, number, size=(6, 5), mode="RGB"):
    """Of its class's colour, its number in one corner."""
    array = np.full((*size, 3), COLOURS[name], np.uint8)
    array[0, 0] = number
    return Image.fromarray(array).convert(mode)


def make_folder(root, parts=("train", "test"), counts=(4, 2), suffix=".png", mode="RGB"):
    for part, count in zip(parts, counts, strict=True):
        for name in COLOURS:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(name, number, mode=mode).save(folder / f"{number}{suffix}")
    return root


def one_line(excinfo):
    message = str(excinfo.value)
    assert "\n" not in message
    return message


def test_a_folder_of_two_parts(tmp_path):
    dataset = load_dataset(str(make_folder(tmp_path / "pets")))
    assert dataset.class_names == ("cat", "dog", "eel") and dataset.name == "pets"
    assert dataset.x_train.shape == (12, 6, 5, 3) and dataset.x_test.shape == (6, 6, 5, 3)
    np.testing.assert_array_equal(dataset.y_train, np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(dataset.y_test, np.repeat([0, 1, 2], 2))
    for k, name in enumerate(COLOURS):
        expected = [np.asarray(picture(name, number)) for number in range(4)]
        np.testing.assert_array_equal(dataset.x_train[dataset.y_train == k], expected)
    assert dataset.source.startswith(f"{(tmp_path / 'pets').resolve()}#")
    np.testing.assert_allclose(dataset.transform.mean, dataset.x_train.mean(axis=(0, 1, 2)) / 255, rtol=1e-6)


def test_a_folder_of_classes_is_split_the_same_way_every_time(tmp_path):
    root = make_folder(tmp_path / "pets", parts=(".",), counts=(10,))
    one, other = load_dataset(root), load_dataset(root)
    assert one.x_train.shape == (24, 6, 5, 3) and one.x_test.shape == (6, 6, 5, 3)
    np.testing.assert_array_equal(np.bincount(one.y_test), [2, 2, 2])
    np.testing.assert_array_equal(one.x_test, other.x_test)
    seen = {x.tobytes() for x in one.x_train} | {x.tobytes() for x in one.x_test}
    assert len(seen) == 30


def test_what_is_no_picture_is_left_out(tmp_path):
    root = make_folder(tmp_path / "pets")
    expected = load_dataset(root).source
    (root / "train" / "cat" / ".hidden.png").write_bytes(b"no picture")
    (root / "train" / "cat" / "notes.txt").write_text("no picture")
    (root / "train" / ".cache").mkdir()
    assert load_dataset(root).source == expected


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_pictures_have_one_channel(tmp_path, mode):
    root = make_folder(tmp_path / "pets", mode=mode)
    assert load_dataset(root).input_shape == (6, 5, 1)
    picture("cat", 9).save(root / "train" / "cat" / "9.png")
    assert load_dataset(root).input_shape == (6, 5, 3)  # one in colour makes all of them RGB


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "RGBA"), (".png", "P"), (".bmp", "RGB"), (".gif", "P")])
def test_formats_and_modes(tmp_path, suffix, mode):
    root = make_folder(tmp_path / "pets", suffix=suffix, mode=mode)
    dataset = load_dataset(root)
    assert dataset.input_shape == (6, 5, 3)
    for k, colour in enumerate(COLOURS.values()):
        found = dataset.x_train[dataset.y_train == k][:, 2:].astype(int)
        assert np.abs(found - colour).max() < 60  # palettes are coarse


def test_pictures_of_several_sizes_become_one_as_they_are_read(tmp_path):
    root = make_folder(tmp_path / "pets")
    picture("eel", 0, size=(12, 10)).save(root / "test" / "eel" / "large.png")
    with pytest.raises(
        InputError, match=r"has 6x5 and test/eel/large.png has 12x10 pixels: give the shape.*--pictures 32x32x3"
    ):
        load_dataset(root)
    dataset = load_dataset(root, pictures="3x5x1")
    assert dataset.input_shape == (3, 5, 1) and len(dataset.x_test) == 7
    expected = np.asarray(picture("dog", 1).convert("L").resize((5, 3), Image.Resampling.BILINEAR))[..., None]
    found = dataset.x_train[dataset.y_train == 1][1]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    root = make_folder(tmp_path / "pets", suffix=".png")
    upright = np.asarray(picture("cat", 99))
    turned = Image.fromarray(np.rot90(upright))  # tag 6: to be turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(root / "train" / "cat" / "turned.png", exif=exif)
    dataset = load_dataset(root)
    assert any(np.array_equal(x, upright) for x in dataset.x_train)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: None, r"there are no folders of pictures in it: give one folder of pictures a class"),
        (
            lambda root: make_folder(root, parts=("train",), counts=(2,)),
            r"there is train/ alone: give train/ and test/",
        ),
        (
            lambda root: (make_folder(root) / "train" / "ant").mkdir(),
            r"class 'ant' has no pictures in train/: add some",
        ),
        (
            lambda root: [f.unlink() for f in (make_folder(root) / "test" / "dog").iterdir()],
            r"class 'dog' has no pictures in test/",
        ),
        (
            lambda root: (make_folder(root) / "train" / "cat" / "1.png").write_bytes(b"GIF89a what"),
            r"train/cat/1.png cannot be read .*: repair or remove it",
        ),
        (
            lambda root: cut(make_folder(root) / "test" / "eel" / "0.png"),
            r"test/eel/0.png cannot be read .*: repair or remove it",
        ),
        (lambda root: make_folder(root, parts=(".",), counts=(1,)), r"class 0 has a single example: give at least two"),
    ],
    ids=["empty", "train alone", "no pictures", "missing in one part", "no picture", "cut off", "single examples"],
)
def test_wrong_folders_are_one_line(tmp_path, spoil, message):
    root = tmp_path / "pets"
    root.mkdir()
    spoil(root)
    with pytest.raises(InputError, match=message) as excinfo:
        load_dataset(root)
    assert one_line(excinfo).startswith(str(root))


def cut(path):
    noisy = np.random.RandomState(0).randint(0, 255, (40, 40, 3)).astype(np.uint8)
    for other in path.parents[2].rglob("*.png"):
        Image.fromarray(noisy).save(other)
    path.write_bytes(path.read_bytes()[:2000])


# Arrays and pairs

X = np.random.RandomState(0).randint(0, 256, (20, 6, 5, 3)).astype(np.uint8)
Y = np.arange(20) % 2


def test_arrays_in_python():
    dataset = make_dataset((X, Y), (X[:4], Y[:4]), class_names=("no", "yes"), name="mine")
    assert (dataset.name, dataset.class_names, dataset.input_shape) == ("mine", ("no", "yes"), (6, 5, 3))
    np.testing.assert_array_equal(dataset.x_train, X)
    np.testing.assert_array_equal(dataset.y_test, Y[:4])
    split = make_dataset((X, Y))
    assert len(split.x_train) == 16 and np.bincount(split.y_test).tolist() == [2, 2]


def test_pairs_are_what_arrays_are():
    arrays = make_dataset((X, Y), (X[:4], Y[:4]))
    pairs = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
    images = [(Image.fromarray(x), np.int64(y)) for x, y in zip(X, Y, strict=True)]
    for train in (pairs, images):
        dataset = make_dataset(train, train[:4])
        assert dataset.source == arrays.source
        np.testing.assert_array_equal(dataset.x_train, X)


def test_tensors_of_pytorch_have_their_channels_moved_last(monkeypatch):
    """Of a stand-in for its tensors: an array of a class that lives in a module called torch."""

    class Tensor(np.ndarray):
        pass

    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    Tensor.__module__ = "torch"
    floats = (X / 255).astype(np.float32)

    class Data:
        def __len__(self):
            return len(X)

        def __getitem__(self, i):
            return np.moveaxis(floats[i], -1, 0).view(Tensor), int(Y[i])

    np.testing.assert_array_equal(make_dataset(Data(), Data()).x_train, floats)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (3, r"own: train is a int: give \(inputs, labels\) or a sequence of \(example, label\) pairs"),
        ([], r"own: train is empty"),
        ([X[0], X[1]], r"own: train\[0\] is no pair"),
        (
            [(X[0], 0), (X[0, :3], 1)],
            r"train\[0\] is uint8 \[6, 5, 3\] but train\[1\] is uint8 \[3, 5, 3\]: give all one",
        ),
        ([(X[0], np.array([0, 1]))], r"the labels of train are arrays: give one integer an example"),
        ((X, Y - 1), r"own: y_train has the label -1 at 0, which is negative"),
        ((X, Y + 1), r"own: y_train has no example of class 0"),
        ((X.transpose(0, 3, 1, 2), Y), r"x_train has shape \[16, 3, 6, 5\], channels first: move the channels last"),
    ],
)
def test_wrong_examples_are_one_line(train, message):
    with pytest.raises(InputError, match=message) as excinfo:
        make_dataset(train)
    one_line(excinfo)


# Sets that tensorflow-datasets has and the catalogue has not


def write_records(root, name, features, splits):
    """A tiny real folder of tensorflow-datasets: `splits` has the records of each."""
    import tensorflow_datasets as tfds

    folder = root / name / "1.2.3"
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.2.3"), data_dir=str(folder), module_name="test"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=1000, file_format="array_record")
    writer.initialize_splits(list(splits))
    for split, records in splits.items():
        writer.add_examples({split: records})
    writer.close_all()


def picture_records(count, size=(6, 5)):
    return [{"image": picture(name, i, size), "label": k} for i in range(count) for k, name in enumerate(COLOURS)]


def test_any_prepared_set_of_pictures(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=[*COLOURS]),
    }
    write_records(tmp_path, "pets", features, {"train": picture_records(4), "validation": picture_records(2)})
    dataset = load_dataset("pets", data_dir=tmp_path)
    assert dataset.class_names == ("cat", "dog", "eel") and dataset.source == "pets:1.2.3"
    np.testing.assert_array_equal(dataset.y_train, [0, 1, 2] * 4)
    np.testing.assert_array_equal(dataset.x_test[1], np.asarray(picture("dog", 0)))
    assert load_dataset("pets", data_dir=tmp_path, pictures="3x5x1").input_shape == (3, 5, 1)

    mixed = [*picture_records(4), *picture_records(1, (8, 5))]
    write_records(tmp_path, "mixed", features, {"train": mixed})
    with pytest.raises(InputError, match=r"pictures of 6x5x3 and of 8x5x3: give --pictures, such as 32x32x3"):
        load_dataset("mixed", data_dir=tmp_path)
    resized = load_dataset("mixed", data_dir=tmp_path, pictures="6x5x3")
    assert len(resized.x_train) == 12 and len(resized.x_test) == 3  # a fifth of what has no test part


def test_any_prepared_set_of_vectors(tmp_path):
    import tensorflow_datasets as tfds

    vectors = np.random.RandomState(0).normal(size=(20, 4)).astype(np.float32)
    features = {
        "features": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "id": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    records = [{"features": v, "id": str(i), "label": i % 2} for i, v in enumerate(vectors)]
    write_records(tmp_path, "table", features, {"train": records[:14], "test": records[14:]})
    dataset = load_dataset("table", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.x_train, vectors[:14])
    np.testing.assert_array_equal(dataset.y_test, np.arange(14, 20) % 2)
    assert dataset.transform.mean.shape == (4,)


def test_a_prepared_set_of_several_classes_a_record_is_one_line(tmp_path):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(num_classes=2)
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "coarse": label, "fine": label}
    records = [{"image": picture("cat", i), "coarse": i % 2, "fine": 0} for i in range(4)]
    write_records(tmp_path, "two", features, {"train": records})
    with pytest.raises(InputError, match="its records have .*, of which 2 are a class: one is needed") as excinfo:
        load_dataset("two", data_dir=tmp_path)
    assert "ddjax prepare" not in one_line(excinfo)  # which knows no such set


# Tables


def test_each_column_of_a_table_is_standardised_by_itself():
    table = np.random.RandomState(0).normal(size=(40, 3)) * [1, 1000, 1e-3] + [0, 5000, 1]
    dataset = make_dataset((table, np.arange(40) % 2))
    read = dataset.transform(dataset.x_train)
    np.testing.assert_allclose(read.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(read.std(axis=0), 1, rtol=1e-3)
    flat = make_dataset((X.reshape(20, -1), Y))  # pictures laid flat have one mean
    assert flat.transform.mean.shape == (1,)


def test_columns_have_names(tmp_path):
    table = np.random.RandomState(0).normal(size=(40, 3))
    names = ("length", "width", "weight")
    assert make_dataset((table, np.arange(40) % 2), feature_names=names).feature_names == names

    class Frame(np.ndarray):
        columns = names

    assert make_dataset((table.view(Frame), np.arange(40) % 2)).feature_names == names
    arrays = {"x_train": table, "y_train": np.arange(40) % 2, "x_test": table[:4], "y_test": np.arange(4) % 2}
    np.savez(tmp_path / "table.npz", feature_names=np.array(names), **arrays)
    assert load_dataset(tmp_path / "table.npz").feature_names == names
    with pytest.raises(InputError, match=r"feature_names is <U6 \[2\]: give 3 strings"):
        make_dataset((table, np.arange(40) % 2), feature_names=names[:2])
    with pytest.raises(InputError, match=r"feature_names is .*: leave it out: only vectors have it"):
        make_dataset((X, Y), feature_names=names[:2])


@pytest.mark.parametrize(("name", "bar"), [("wine", 90), ("breast_cancer", 90)])
def test_a_table_is_distilled(name, bar):
    """One example a class and one step, as good as most of the data."""
    import sklearn.datasets

    table = getattr(sklearn.datasets, f"load_{name}")()
    dataset = make_dataset((table.data, table.target), class_names=[str(n) for n in table.target_names], name=name)
    recipe = ddjax.get_recipe("digits").replace(model="mlp", outer_steps=200, eval_every=50, batch_size=64)
    done = ddjax.distill(recipe, dataset=dataset, progress=False)
    assert done.summary.distilled["accuracy_mean"] >= bar
    assert done.summary.all_data["accuracy_mean"] >= bar
