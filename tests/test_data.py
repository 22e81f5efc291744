"""ddjax.data: named sets through tiny real folders and a local web server, .npz files and their defects, splits, batches."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ddjax
from ddjax import data
from ddjax.cli.prepare import NAMES
from ddjax.data import download, prepared
from ddjax.data.catalogue import CATALOGUE, whole
from ddjax.data.catalogue.entry import RawFile
from ddjax.data.catalogue.whole import WholePictures
from ddjax.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")

ROOT = Path(__file__).parents[1]
PREPARED = os.environ.get("TFDS_DATA_DIR")  # which `own_folders` hides
COUNTS = {"train": 30, "test": 20}
WHOLE = {name: entry.stored for name, entry in CATALOGUE.items() if isinstance(entry.stored, WholePictures)}


def random_pictures(shape, count, seed=0):
    """All different, so that a picture identifies its example whatever the order."""
    pictures = np.random.RandomState(seed).randint(0, 256, (count, *shape), np.uint8)
    return pictures, np.arange(count) % 10


def write_prepared(root, name, *, version=None, seed=0):
    """A tiny real tensorflow-datasets folder; returns it with what was written."""
    import tensorflow_datasets as tfds
    from PIL import Image

    stored = WHOLE[name]
    folder = root / name / (version or CATALOGUE[name].version)
    folder.mkdir(parents=True)
    label = tfds.features.ClassLabel(names=stored.class_names, num_classes=None if stored.class_names else 10)
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=stored.input_shape), "label": label})
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version(folder.name), data_dir=str(folder), module_name="test"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=1000, file_format="array_record")
    written = {}
    writer.initialize_splits(list(COUNTS))
    for split, count in COUNTS.items():
        written[split] = images, labels = random_pictures(stored.input_shape, count, seed + len(split))
        pictures = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
        writer.add_examples({split: [{"image": p, "label": int(y)} for p, y in zip(pictures, labels, strict=True)]})
    writer.close_all()
    return folder, written


def assert_holds(dataset, written):
    np.testing.assert_array_equal(dataset.x_train, written["train"][0])
    np.testing.assert_array_equal(dataset.y_train, written["train"][1])
    np.testing.assert_array_equal(dataset.x_test, written["test"][0])
    np.testing.assert_array_equal(dataset.y_test, written["test"][1])


def one_line(excinfo):
    message = str(excinfo.value)
    assert "\n" not in message
    return message


# Reading prepared folders


@pytest.mark.parametrize("name", WHOLE)
def test_reads_a_prepared_folder(tmp_path, name):
    _, written = write_prepared(tmp_path / "elsewhere", name)
    dataset = data.load_dataset(name, data_dir=tmp_path / "elsewhere")
    assert_holds(dataset, written)
    entry, stored = CATALOGUE[name], WHOLE[name]
    assert dataset.x_train.dtype == np.uint8 and dataset.y_train.dtype == np.int32
    assert dataset.source == f"{name}:{entry.version}" and dataset.name == name
    assert dataset.class_names == (stored.class_names or tuple("0123456789"))
    assert dataset.input_shape == stored.input_shape
    assert dataset.num_classes == len(stored.class_names or range(10))
    if entry.transform is None:
        scaled = written["train"][0] / 255
        np.testing.assert_allclose(dataset.transform.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(dataset.transform.std, scaled.std(axis=(0, 1, 2)), rtol=1e-6)
    else:
        assert dataset.transform is entry.transform


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", (0.1307,), (0.3081,)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
        ("voc2007", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # of ImageNet
    ],
)
def test_constants_are_those_of_the_literature(name, mean, std):
    transform = CATALOGUE[name].transform
    np.testing.assert_array_equal(transform.mean, np.array(mean, np.float32))
    np.testing.assert_array_equal(transform.std, np.array(std, np.float32))


def test_reading_prints_nothing(tmp_path):
    """In a process of its own: tensorflow-datasets gives its advice about OpenCV once a process."""
    write_prepared(tmp_path / "tfds", "mnist")
    code = "from ddjax.data import load_dataset; print(len(load_dataset('mnist').x_train))"
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stdout, run.stderr) == (0, "30\n", "")


def test_reads_more_than_one_batch_of_records(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "_READ_BATCH", 7)
    _, written = write_prepared(tmp_path / "tfds", "usps")
    assert_holds(data.load_dataset("usps"), written)


def test_official_version_is_preferred_else_the_newest(tmp_path):
    root = tmp_path / "tfds"
    for seed, version in enumerate(["2.0.0", "10.0.0"]):
        write_prepared(root, "mnist", version=version, seed=seed)
    assert data.load_dataset("mnist").source == "mnist:10.0.0"
    write_prepared(root, "mnist", seed=5)
    assert data.load_dataset("mnist").source == "mnist:3.0.1"


def test_missing_set_names_folder_variable_and_command(tmp_path):
    interrupted = tmp_path / "tfds" / "mnist" / "incomplete.ABCDEF_3.0.1"
    interrupted.mkdir(parents=True)
    (interrupted / "dataset_info.json").write_text("{}")
    with pytest.raises(data.MissingDataError) as excinfo:
        data.load_dataset("mnist")
    assert isinstance(excinfo.value, InputError) and isinstance(excinfo.value, FileNotFoundError)
    message = one_line(excinfo)
    for part in (str(tmp_path / "tfds" / "mnist"), "TFDS_DATA_DIR", "`ddjax prepare mnist`"):
        assert part in message


def test_default_folder_is_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(data.MissingDataError, match=str(tmp_path / "home" / "tensorflow_datasets" / "mnist")):
        data.load_dataset("mnist")


def test_damaged_and_foreign_folders_are_one_line(tmp_path):
    folder, _ = write_prepared(tmp_path / "tfds", "mnist")
    info, records = folder / "dataset_info.json", next(folder.glob("*train.array_record*"))
    good = records.read_bytes()
    records.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="damaged.*ddjax prepare mnist"):
        data.load_dataset("mnist")
    records.write_bytes(good)
    original = info.read_text()
    info.write_text(original[:40])
    with pytest.raises(InputError, match="damaged") as excinfo:
        data.load_dataset("mnist")
    one_line(excinfo)
    info.write_text(original.replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match="tfrecord format, which needs TensorFlow"):
        data.load_dataset("mnist")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean cifar10") as excinfo:
        data.load_dataset("CIFAR-10")
    assert all(name in one_line(excinfo) for name in data.DATASETS)
    with pytest.raises(InputError, match="no data set named 'mnits': did you mean mnist"):
        data.prepare("mnits")


@pytest.mark.parametrize("name", [None, 3, b"mnist.npz", ["mnist"], {"mnist": 1}], ids=repr)
def test_what_is_neither_name_nor_path_is_one_line(name):
    for use in (data.load_dataset, data.prepare):
        with pytest.raises(InputError, match=f"not by a {type(name).__name__}: the names are digits, mnist") as excinfo:
            use(name)
        one_line(excinfo)


def test_a_data_set_in_memory_is_not_loaded_again():
    with pytest.raises(InputError, match="name or the path of an .npz file, not by a Dataset"):
        data.load_dataset(labelled([2, 2]))


def test_every_set_has_a_line_and_the_command_line_knows_it():
    assert list(data.DATASETS) == ["digits", *CATALOGUE]
    assert all(len(line) > 20 and "\n" not in line and line.endswith(".") for line in data.DATASETS.values())
    assert NAMES.split(", ") == list(CATALOGUE)


def test_importing_it_imports_no_reader_of_files():
    code = "import sys, ddjax.data; print({'PIL', 'scipy', 'sklearn', 'tensorflow_datasets'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout == "set()\n"


def test_digits_is_bundled_and_looks_like_mnist():
    dataset = data.load_dataset("digits")
    assert dataset.x_train.shape == (1397, 28, 28, 1) and dataset.x_test.shape == (400, 28, 28, 1)
    assert dataset.x_train.dtype == np.uint8 and dataset.x_train.max() == 255
    assert not dataset.x_train[:, :4].any() and not dataset.x_train[:, :, -4:].any()
    assert np.bincount(dataset.y_test).min() >= 38 and np.bincount(dataset.y_test).max() <= 41
    # Exact sums: the picture bits and the split are the same on every platform.
    assert (int(dataset.x_train.sum(dtype=np.int64)), int(dataset.x_test.sum(dtype=np.int64))) == (43605786, 12346128)
    assert "no preparation" in data.prepare("digits")


# The cache


def refuse_to_decode(*args):
    raise AssertionError("decoded although a cache was there")


def test_second_load_comes_from_the_cache(tmp_path, monkeypatch):
    folder, written = write_prepared(tmp_path / "tfds", "cifar10")
    first = data.load_dataset("cifar10")
    assert (folder / "ddjax_cache.npz").is_file() and not (tmp_path / "cache").exists()
    monkeypatch.setattr(prepared, "_read_records", refuse_to_decode)
    second = data.load_dataset("cifar10")
    assert_holds(second, written)
    assert second.class_names == first.class_names and second.source == first.source


def test_read_only_folder_is_cached_for_the_user(tmp_path, monkeypatch):
    folders = [write_prepared(tmp_path / where, "mnist", seed=seed) for seed, where in enumerate(("a", "b"))]
    for folder, _ in folders:
        folder.chmod(0o555)
    before = [sorted(os.listdir(folder)) for folder, _ in folders]
    for where in ("a", "b"):
        data.load_dataset("mnist", data_dir=tmp_path / where)
    assert [sorted(os.listdir(folder)) for folder, _ in folders] == before
    monkeypatch.setattr(prepared, "_read_records", refuse_to_decode)
    for where, (_, written) in zip(("a", "b"), folders, strict=True):
        assert_holds(data.load_dataset("mnist", data_dir=tmp_path / where), written)


def test_no_place_for_a_cache_is_no_obstacle(tmp_path, monkeypatch):
    folder, written = write_prepared(tmp_path / "tfds", "mnist")
    (folder / "ddjax_cache.npz").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_holds(data.load_dataset("mnist"), written)
    assert not list(folder.glob("*.tmp"))


def flip_a_bit(raw):
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda raw: raw[: len(raw) // 3], lambda raw: b"", lambda raw: b"\x93NUMPY" + raw[6:]]
)
def test_damaged_cache_is_rebuilt(tmp_path, damage):
    folder, written = write_prepared(tmp_path / "tfds", "mnist")
    data.load_dataset("mnist")
    cache = folder / "ddjax_cache.npz"
    good = cache.read_bytes()
    cache.write_bytes(damage(good))
    assert_holds(data.load_dataset("mnist"), written)
    assert cache.read_bytes() == good


def test_cache_of_other_data_is_rebuilt(tmp_path):
    folder, _ = write_prepared(tmp_path / "tfds", "mnist", seed=1)
    data.load_dataset("mnist")
    cache = (folder / "ddjax_cache.npz").read_bytes()
    other, written = write_prepared(tmp_path / "other", "mnist", seed=2)
    (other / "ddjax_cache.npz").write_bytes(cache)
    assert_holds(data.load_dataset("mnist", data_dir=tmp_path / "other"), written)


# Preparing, with the raw files in their official formats on a local web server


def idx(array):
    return gzip.compress(
        b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def raw_mnist(examples):
    return {
        f"{split}_{kind}": idx(array[..., 0] if kind == "images" else array.astype(np.uint8))
        for split, pair in examples.items()
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }


def cifar_records(images, *labels):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([np.stack(labels, axis=1).astype(np.uint8), planes], axis=1)


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, part in members.items():
            header = tarfile.TarInfo(name)
            header.size = part.nbytes
            archive.addfile(header, io.BytesIO(part.tobytes()))
    return {"archive": buffer.getvalue()}


def raw_cifar10(examples):
    train, test = cifar_records(*examples["train"]), cifar_records(*examples["test"])
    members = {f"data_batch_{i + 1}.bin": part for i, part in enumerate(np.array_split(train, 5))}
    return tar_of({f"cifar-10-batches-bin/{name}": part for name, part in (members | {"test_batch.bin": test}).items()})


def raw_cifar100(examples):
    """The superclass comes first: here the class doubled."""
    members = {split: cifar_records(images, 2 * labels, labels) for split, (images, labels) in examples.items()}
    return tar_of({f"cifar-100-binary/{split}.bin": part for split, part in members.items()})


def raw_svhn(examples):
    import scipy.io

    files = {}
    for split, (images, labels) in examples.items():
        buffer = io.BytesIO()
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        scipy.io.savemat(buffer, {"X": np.moveaxis(images, 0, -1), "y": y}, do_compression=True)
        files[split] = buffer.getvalue()
    return files


def raw_usps(examples):
    def line(image, label):
        return " ".join([f"{label:.4f}", *(f"{value / 127.5 - 1:.3f}" for value in image.reshape(-1))]) + " \n"

    return {split: gzip.compress("".join(map(line, *pair)).encode("ascii")) for split, pair in examples.items()}


RAW = {
    "mnist": raw_mnist,
    "fashion_mnist": raw_mnist,
    "cifar10": raw_cifar10,
    "cifar100": raw_cifar100,
    "svhn_cropped": raw_svhn,
    "usps": raw_usps,
}


def make_examples(name):
    return {split: random_pictures(WHOLE[name].input_shape, n, len(split)) for split, n in COUNTS.items()}


def by_picture(images, labels):
    return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("name", WHOLE)
def test_prepare_from_raw_files_and_read_back(tmp_path, publish, name):
    import tensorflow_datasets as tfds

    examples = make_examples(name)
    publish(name, RAW[name](examples))
    message = data.prepare(name)
    folder = tmp_path / "tfds" / name / CATALOGUE[name].version
    assert message == f"{name} {CATALOGUE[name].version} prepared in {folder}"
    dataset = data.load_dataset(name)
    assert by_picture(dataset.x_train, dataset.y_train) == by_picture(*examples["train"])
    assert by_picture(dataset.x_test, dataset.y_test) == by_picture(*examples["test"])
    assert dataset.class_names == (WHOLE[name].class_names or tuple("0123456789"))
    # The folder is what tensorflow-datasets' own readers expect, ids included.
    source: Any = tfds.data_source(name, split="test", data_dir=str(tmp_path / "tfds"), download=False)
    record = source[0]
    if WHOLE[name].id_digits:
        index = int(record["id"].decode().removeprefix("test_"))
        assert len(record["id"]) == len("test_") + WHOLE[name].id_digits
        np.testing.assert_array_equal(record["image"], examples["test"][0][index])
    for other in WHOLE[name].other_labels:
        assert record[other] == 2 * record["label"]


def test_second_prepare_does_nothing(tmp_path, monkeypatch):
    folder, _ = write_prepared(tmp_path / "tfds", "usps")
    monkeypatch.setattr(download, "_probe", lambda url: pytest.fail("went to the network"))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert data.prepare("usps") == f"usps 1.0.0 is already prepared in {folder}"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def assert_nothing_prepared(tmp_path, name):
    assert not list((tmp_path / "tfds").glob(f"{name}/*/dataset_info.json"))
    with pytest.raises(data.MissingDataError):
        data.load_dataset(name)


def test_no_network_fails_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        files = {"train": RawFile(f"http://127.0.0.1:{unused.getsockname()[1]}/zip")}
        monkeypatch.setitem(CATALOGUE, "usps", dataclasses.replace(CATALOGUE["usps"], files=files))
        with pytest.raises(InputError, match="could not be prepared .*check the network.*TFDS_DATA_DIR") as excinfo:
            data.prepare("usps")
    one_line(excinfo)
    assert_nothing_prepared(tmp_path, "usps")


def test_file_that_is_not_served_leaves_nothing(tmp_path, publish):
    files = raw_usps(make_examples("usps"))
    web = publish("usps", files)
    (web / "usps-test").unlink()
    with pytest.raises(InputError, match="404.*check the network") as excinfo:
        data.prepare("usps")
    one_line(excinfo)
    assert_nothing_prepared(tmp_path, "usps")


def test_wrong_checksum_is_refused(tmp_path, publish):
    publish("usps", raw_usps(make_examples("usps")), size=10, sha256="0" * 64)
    with pytest.raises(InputError, match="NonMatchingChecksumError") as excinfo:
        data.prepare("usps")
    one_line(excinfo)
    assert_nothing_prepared(tmp_path, "usps")


def test_damaged_download_is_refused_and_not_kept(tmp_path, publish):
    examples = make_examples("usps")
    files = raw_usps(examples)
    publish("usps", files | {"test": files["test"][:-40]})
    with pytest.raises(InputError, match="could not be prepared"):
        data.prepare("usps")
    assert_nothing_prepared(tmp_path, "usps")
    publish("usps", files)
    data.prepare("usps")
    assert (
        by_picture(data.load_dataset("usps").x_test, examples["test"][1]).keys() == by_picture(*examples["test"]).keys()
    )


def test_examples_that_were_not_published_are_refused(tmp_path, publish):
    """USPS, whose files have no checksums: any rows would do else."""
    assert set(CATALOGUE["usps"].digests) == {"train", "test"}
    examples = make_examples("usps")
    publish("usps", raw_usps(examples), digests=CATALOGUE["usps"].digests)
    with pytest.raises(InputError, match="the train examples are not those that were published") as excinfo:
        data.prepare("usps")
    one_line(excinfo)
    assert_nothing_prepared(tmp_path, "usps")
    published = {}
    for split, pair in examples.items():
        total = hashlib.sha256()
        for image, label in zip(*pair, strict=True):
            download.add_to_digest(total, {"image": image, "label": int(label)})
        published[split] = total.hexdigest()
    publish("usps", raw_usps(examples), digests=published)
    data.prepare("usps")


@pytest.mark.skipif(PREPARED is None, reason="there is no prepared USPS here")
def test_the_digest_of_usps_is_that_of_the_set():
    import tensorflow_datasets as tfds

    folder = prepared.find_prepared("usps", prepared.data_root(PREPARED))
    if folder is None:
        pytest.skip("there is no prepared USPS here")
    for split, digest in CATALOGUE["usps"].digests.items():
        source = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
        total = hashlib.sha256()
        for record in sorted(source.__getitems__(range(len(source))), key=lambda record: record["id"]):
            download.add_to_digest(total, record)
        assert total.hexdigest() == digest


def test_calls_at_once_wait_for_the_first(tmp_path, publish, monkeypatch, capfd):
    publish("usps", raw_usps(make_examples("usps")))
    builds, build = [], download._build

    def counted(name, root):
        builds.append(name)
        time.sleep(1)
        return build(name, root)

    monkeypatch.setattr(download, "_build", counted)
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(data.prepare, ["usps"] * 3))
    assert builds == ["usps"] and {line.split(" in ")[0] for line in said} == {"usps 1.0.0 prepared"}
    assert capfd.readouterr().out.count("waiting for ") in (1, 2)  # one may come late
    assert sorted(path.name for path in (tmp_path / "tfds").iterdir()) == ["downloads", "usps"]


def test_what_calls_that_were_killed_have_left_is_cleared(tmp_path, publish):
    publish("usps", raw_usps(make_examples("usps")))
    for place in ("usps/incomplete.AAAAAA_1.0.0", "mnist/incomplete.BBBBBB_3.0.1", "downloads/other.tmp.0"):
        (tmp_path / "tfds" / place).mkdir(parents=True)
    (tmp_path / "tfds/usps/incomplete.AAAAAA_1.0.0/half").write_bytes(b"half")
    from tensorflow_datasets.core.download import resource

    url = CATALOGUE["usps"].files["train"].url
    place = resource.get_dl_fname(url, hashlib.sha256(url.encode()).hexdigest())
    (tmp_path / "tfds/downloads" / f"{place}.tmp.0").mkdir()
    data.prepare("usps")
    left = {path.parent.name for path in (tmp_path / "tfds").rglob("*") if "incomplete." in path.name}
    assert left == {"mnist"}  # which another call may be at
    assert [path.name for path in (tmp_path / "tfds/downloads").glob("*.tmp.*")] == ["other.tmp.0"]


def test_folder_without_its_description_is_not_taken_for_prepared(tmp_path, publish):
    publish("usps", raw_usps(make_examples("usps")))
    (tmp_path / "tfds" / "usps" / "1.0.0").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no dataset_info.json: delete it"):
        data.prepare("usps")


# Own data in .npz files


def own_arrays(**changes):
    random = np.random.RandomState(0)
    arrays = {
        "x_train": random.randint(0, 256, (12, 6, 5, 3), np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": random.randint(0, 256, (6, 6, 5, 3), np.uint8),
        "y_test": np.arange(6) % 3,
    } | changes
    return {name: array for name, array in arrays.items() if array is not None}


def save_own(tmp_path, **changes):
    path = tmp_path / "own.npz"
    np.savez(path, **own_arrays(**changes))
    return path


def test_own_colour_pictures(tmp_path):
    path = save_own(tmp_path, y_train=own_arrays()["y_train"][:, None].astype(np.uint8))
    dataset, again = data.load_dataset(str(path)), data.load_dataset(path)
    arrays = own_arrays()
    assert_holds(dataset, {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in COUNTS})
    assert dataset.y_train.dtype == np.int32 and dataset.class_names == ("0", "1", "2") and dataset.name == "own"
    np.testing.assert_allclose(dataset.transform.mean, (arrays["x_train"] / 255).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.transform.std, (arrays["x_train"] / 255).std(axis=(0, 1, 2)), rtol=1e-6)
    assert dataset.source == again.source and dataset.source.startswith(f"{path.resolve()}#")
    changed = arrays["x_test"].copy()
    changed[0, 0, 0, 0] ^= 1
    assert data.load_dataset(save_own(tmp_path, x_test=changed)).source != dataset.source


def test_own_grey_pictures_get_a_channel_axis(tmp_path):
    arrays = own_arrays()
    path = save_own(tmp_path, x_train=arrays["x_train"][..., 0], x_test=arrays["x_test"][..., 0])
    dataset = data.load_dataset(path)
    np.testing.assert_array_equal(dataset.x_train, arrays["x_train"][..., :1])
    assert dataset.transform.mean.shape == (1,)


def test_own_floats_of_three_axes_are_sequences(tmp_path):
    """An array [N, L, D] of embeddings; a picture of one channel it would be as [N, L, D, 1]."""
    x = np.random.RandomState(0).normal(3, 2, (12, 7, 4))
    dataset = data.load_dataset(save_own(tmp_path, x_train=x, x_test=x[:6]))
    assert dataset.input_shape == (7, 4)
    np.testing.assert_array_equal(dataset.x_train, x.astype(np.float32))
    np.testing.assert_allclose(dataset.transform, [[x.mean()], [x.std()]], rtol=1e-6)
    np.testing.assert_allclose(dataset.transform(dataset.x_train), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)
    own = data.load_dataset(save_own(tmp_path, x_train=x, x_test=x[:6], mean=np.arange(4.0)))
    np.testing.assert_array_equal(own.transform.mean, np.arange(4, dtype=np.float32))
    path = save_own(tmp_path, x_train=x[..., None], x_test=x[:6, ..., None])
    assert data.load_dataset(path).input_shape == (7, 4, 1)
    with pytest.raises(InputError, match=r"sequences of shape \[7, 4\] cannot become pictures of 8x8x1"):
        data.load_dataset(save_own(tmp_path, x_train=x, x_test=x[:6]), pictures="8x8x1")
    with pytest.raises(
        InputError, match=r"uint8 \[12, 6, 5\] but x_test is float64 \[6, 6, 5\]: give both in one shape"
    ):
        data.load_dataset(save_own(tmp_path, x_train=X[..., 0], x_test=X[:6, ..., 0].astype(float)))


def test_own_vectors_names_and_statistics(tmp_path):
    x = np.random.RandomState(0).normal(3, 2, (12, 4))
    dataset = data.load_dataset(save_own(tmp_path, x_train=x, x_test=x[:6]))
    assert dataset.x_train.dtype == np.float32
    np.testing.assert_allclose(dataset.transform, [x.mean(axis=0), x.std(axis=0)], rtol=1e-6)
    names = np.array(["cat", "dog", "eel"])
    dataset = data.load_dataset(
        save_own(tmp_path, x_train=x, x_test=x[:6], class_names=names, mean=np.float64(3), std=np.full(4, 2.0))
    )
    assert dataset.class_names == ("cat", "dog", "eel")
    np.testing.assert_array_equal(dataset.transform.mean, np.full(4, 3, np.float32))
    np.testing.assert_array_equal(dataset.transform.std, np.array([2, 2, 2, 2], np.float32))


def test_constant_channel_does_not_divide_by_zero(tmp_path):
    for constant in (np.uint8(25), np.float32(0.1)):  # the mean of the first is inexact: its deviation is not quite 0
        x = own_arrays()["x_train"].astype(constant.dtype)
        x[..., 1] = constant
        dataset = data.load_dataset(save_own(tmp_path, x_train=x, x_test=x[:6]))
        assert dataset.transform.std[1] == 1
        normalised = dataset.transform(dataset.x_train)
        np.testing.assert_allclose(normalised[..., 1], 0, atol=1e-6)
        np.testing.assert_allclose(normalised[..., 0].std(), 1, rtol=1e-5)


def with_values(array, **values):
    array = array.copy()
    for index, value in values.items():
        array.reshape(-1)[int(index[1:])] = value
    return array


X, Y, XF = own_arrays()["x_train"], own_arrays()["y_train"], own_arrays()["x_train"].astype(np.float32)
DEFECTS = {
    "missing arrays": ({"x_test": None, "y_test": None}, r"x_test, y_test missing \(found x_train, y_train\)"),
    "train lengths": ({"y_train": Y[:-1]}, "x_train has 12 examples but y_train has 11"),
    "test lengths": ({"x_test": X[:5]}, "x_test has 5 examples but y_test has 6"),
    "shapes": ({"x_test": X[:6, :, :4]}, r"x_train is uint8 \[12, 6, 5, 3\] but x_test is uint8 \[6, 6, 4, 3\]"),
    "types differ": ({"x_test": XF[:6]}, "x_train is uint8 .* but x_test is float32"),
    "wrong type": ({"x_train": X.astype(np.int64)}, "x_train has type int64: give it as uint8"),
    "text": ({"x_test": np.full((6, 2), "a")}, "x_test has type <U1"),
    "object inputs": ({"x_train": np.array([X[0], None], object)}, "x_train is an object array.*numbers"),
    "object names": ({"class_names": np.array(["a", "b", None], object)}, "class_names is an object array.*strings"),
    "rank": ({"x_train": X[0, 0, 0]}, r"x_train has shape \[3\]"),
    "channels first": ({"x_train": np.zeros((12, 3, 8, 8), np.uint8)}, "x_train .* channels first: move"),
    "empty": ({"x_test": X[:0], "y_test": Y[:0]}, r"x_test is empty \(shape \[0, 6, 5, 3\]\)"),
    "empty labels": ({"y_test": Y[:0]}, "y_test is empty"),
    "nan": ({"x_train": with_values(XF, _91=np.nan, _95=np.inf)}, r"x_train has 2 values .* first at \[1, 0, 0, 1\]"),
    "overflow": ({"x_train": with_values(X.astype(float), _0=1e300)}, r"x_train has 1 value not finite in float32"),
    "float labels": ({"y_train": Y.astype(float)}, "y_train has type float64: give class numbers as integers"),
    "bool labels": ({"y_test": Y[:6] > 0}, "y_test has type bool"),
    "one-hot": ({"y_train": np.eye(3, dtype=int)[Y]}, r"y_train has shape \[12, 3\]: take argmax"),
    "negative": ({"y_train": with_values(Y, _4=-1)}, "y_train has the label -1 at 4, which is negative"),
    "huge": ({"y_train": with_values(Y, _4=2**40)}, "y_train has the label 1099511627776 at 4, which is too large"),
    "gap": ({"y_train": with_values(Y, _5=10**9)}, "y_train has no example of class 3"),
    "one class": ({"y_train": Y * 0, "y_test": Y[:6] * 0}, "y_train has 1 class: give at least two"),
    "test label": ({"y_test": with_values(Y[:6], _3=7)}, "y_test has the label 7 at 3, but there are 3 classes"),
    "few names": ({"class_names": np.array(["a", "b"])}, "y_train has the label 2 at 2, but there are 2 classes"),
    "many names": ({"class_names": np.array(list("abcd"))}, "y_train has no example of class 3"),
    "names type": ({"class_names": np.arange(3)}, "class_names is int64"),
    "mean shape": ({"mean": np.zeros(2)}, "mean is float64 .*give 1 or 3 floats"),
    "mean value": ({"mean": np.float32(np.nan)}, "mean has values that are not finite"),
    "zero std": ({"std": np.array([1.0, 0, 1])}, "std has the value 0.0: give positive"),
}


@pytest.mark.parametrize("changes, message", DEFECTS.values(), ids=DEFECTS.keys())
def test_defects_of_own_data_are_one_line(tmp_path, changes, message):
    path = save_own(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as excinfo:
        data.load_dataset(path)
    assert one_line(excinfo).startswith(f"{path}: ")


def test_files_that_are_no_archives(tmp_path):
    path = tmp_path / "own.npz"
    with pytest.raises(data.MissingDataError, match="no such file"):
        data.load_dataset(path)
    good = save_own(tmp_path).read_bytes()
    at = good.index(b"x_test.npy") + 200
    hostile = good.replace(b"(6, 6, 5, 3)", b"(6, 6, 5, 9)", 1)
    for content, message in [
        (b"", "not an .npz file"),
        (b"some text", "not an .npz file"),
        (good[: len(good) // 2], "not an .npz file"),
        (good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :], "x_test is damaged"),
        (hostile, "x_test is damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as excinfo:
            data.load_dataset(path)
        assert one_line(excinfo).startswith(f"{path}: ")
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(InputError, match="single array"):
        data.load_dataset(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="not an .npz file"):
        data.load_dataset(path)


def test_flipped_bits_are_refused_or_harmless(tmp_path):
    path = save_own(tmp_path)
    good, source = path.read_bytes(), data.load_dataset(path).source
    refused = 0
    for at in range(0, len(good), 41):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        try:
            assert data.load_dataset(path).source == source  # in a time stamp, say
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 40


# Splits and batches

MEAN, STD = np.array([0.1, 0.2, 0.3], np.float32), np.array([0.5, 0.6, 0.7], np.float32)


def labelled(class_sizes, test=4):
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(len(class_sizes)), class_sizes)).astype(np.int32)
    x = np.arange(len(labels), dtype=np.float32)[:, None]  # an example's value is its index
    names = tuple(f"class{i}" for i in range(len(class_sizes)))
    return data.Dataset("toy", x, labels, x[:test] + 1000, labels[:test], data.Standardise.by([0], [1]), names, "toy")


def test_hold_out_is_stratified_disjoint_and_complete():
    dataset = labelled([240, 120, 60, 3, 2])
    train, valid, test = data.hold_out(dataset, 1 / 12, seed=3)
    assert np.bincount(valid.labels).tolist() == [20, 10, 5, 1, 1]
    indices = [np.asarray(part.inputs[:, 0], int) for part in (train, valid)]
    assert sorted([*indices[0], *indices[1]]) == list(range(425))
    for part, index in zip((train, valid), indices, strict=True):
        np.testing.assert_array_equal(part.labels, dataset.y_train[index])
    np.testing.assert_array_equal(test.inputs, dataset.x_test)
    np.testing.assert_array_equal(test.labels, dataset.y_test)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((train, valid, test)))
    assert train.labels.dtype == jnp.int32


def test_hold_out_depends_on_the_seed_alone():
    parts = [np.asarray(data.hold_out(labelled([50, 50]), 0.2, seed)[1].inputs[:, 0]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert len(parts[0]) == 20 and set(parts[0]) != set(parts[2])
    assert parts[0].astype(int).tolist() == HELD_OUT  # the same on every platform


HELD_OUT = [3, 6, 13, 15, 22, 25, 27, 30, 41, 50, 51, 57, 58, 60, 62, 66, 70, 81, 84, 89]


def test_hold_out_takes_the_exact_number():
    for sizes, expected in (([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 5000), ([7, 7, 7], 2)):
        _, valid, _ = data.hold_out(labelled(sizes))
        assert len(valid.labels) == max(expected, len(sizes))


def test_hold_out_refuses_what_it_cannot_split():
    with pytest.raises(InputError, match="toy: class 'class1' has 1 training example, .*at least 2"):
        data.hold_out(labelled([5, 1]))
    for fraction in (0, 1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            data.hold_out(labelled([5, 5]), fraction)


def numbered(count, dtype=np.uint8):
    """Pictures whose label is their number."""
    inputs = np.random.RandomState(0).randint(0, 256, (count, 4, 4, 3)).astype(dtype)
    return data.Split.on_device(inputs, np.arange(count, dtype=np.int32), data.Standardise(MEAN, STD))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_drawn_batch_is_gathered_transformed_and_one_hot(dtype):
    split = numbered(50, dtype)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        inputs, targets = jax.jit(data.make_draw_batch(400, 50))(jax.random.key(0), split)
        other = data.make_draw_batch(400, 50)(jax.random.key(1), split)[1]
    assert inputs.dtype == targets.dtype == jnp.float32 and inputs.shape == (400, 4, 4, 3)
    drawn = np.asarray(targets).argmax(axis=1)
    np.testing.assert_array_equal(targets, np.eye(50)[drawn])
    np.testing.assert_array_equal(drawn, jax.random.randint(jax.random.key(0), (400,), 0, 50))
    scale = 255 if dtype == np.uint8 else 1
    expected = (np.asarray(split.inputs)[drawn].astype(np.float64) / scale - MEAN) / STD
    np.testing.assert_allclose(inputs, expected, rtol=1e-5, atol=1e-5)
    assert set(drawn.tolist()) == set(range(50))  # the first and the last example included
    assert not np.array_equal(targets, other)


def test_augmentation_changes_what_was_drawn_by_a_key_of_its_own():
    split, key = numbered(50), jax.random.key(0)
    keys = []

    def noisy(key, inputs):
        keys.append(key)
        return inputs + jax.random.normal(key, inputs.shape)

    inputs, targets = data.make_draw_batch(64, 50, noisy)(key, split)
    (own,) = keys
    clean = split.transform(split.inputs[np.asarray(targets).argmax(axis=1)])
    np.testing.assert_allclose(inputs - jax.random.normal(own, inputs.shape), clean, atol=1e-5)
    for index_key in (key, own):  # with which of the keys the examples are drawn shows in their numbers
        numbers = jax.random.randint(index_key, (64,), 0, 50)
        assert not np.array_equal(numbers, np.asarray(targets).argmax(axis=1))
    again, same = data.make_draw_batch(64, 50, noisy)(key, split)
    np.testing.assert_array_equal(inputs, again)
    np.testing.assert_array_equal(targets, same)


def test_the_documented_outer_loop_learns():
    """Built by the very calls that docs/running.md gives; "Underneath are pure functions", it says, "to be jitted by you"."""
    page = " ".join((ROOT / "docs" / "running.md").read_text().split())
    make = re.search(r"`(make_distiller\(problem, optimizer, make_draw_batch\(.*?\).*?\))`", page)
    held_out = re.search(r"`train, valid, test = (hold_out\(.*?\)\))`", page)
    assert make and held_out
    model, key = ddjax.build_model("linear", (28, 28, 1), 10), jax.random.key(0)
    names = {
        **{name: getattr(ddjax, name) for name in ("make_distiller", "make_draw_batch", "hold_out", "load_dataset")},
        "problem": ddjax.make_problem(model, "gd", False, ddjax.fixed_init(model.init(key))),
        **{"optimizer": optax.adam(0.1), "batch_size": 64, "num_classes": 10, "name": "digits"},
    }
    train, _, _ = eval(held_out[1], names)
    distiller = eval(make[1], names)
    sizes = {"steps": 1, "epochs": 1, "per_class": 1, "learning_rate": 0.01}
    state = distiller.init(ddjax.init_distilled(key, input_shape=(28, 28, 1), num_classes=10, **sizes))
    step, losses = jax.jit(distiller.step), []
    for _ in range(30):
        state, info = step(key, state, train)
        losses.append(float(info.loss))
    assert int(state.step) == 30 and np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_standardise_is_this_arithmetic_bit_for_bit():
    """In NumPy exactly; in JAX, where a compiler may contract, to a rounding."""
    transform = data.Standardise(MEAN, STD)
    pixels = np.random.RandomState(0).randint(0, 256, (5, 4, 4, 3), np.uint8)
    for inputs, scaled in ((pixels, pixels.astype(np.float32) / np.float32(255)), (pixels / 7, np.float32(pixels / 7))):
        expected = (scaled - MEAN) / STD
        found = transform(inputs)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        on_device = jax.jit(lambda transform, inputs: transform(inputs))(transform, jnp.asarray(inputs))
        assert isinstance(on_device, jax.Array) and on_device.dtype == jnp.float32
        np.testing.assert_allclose(on_device, expected, rtol=1e-6, atol=1e-6)


def test_inverse_of_standardise_gives_pixels_from_0_to_1():
    transform = data.Standardise(MEAN, STD)
    pixels = np.random.RandomState(0).randint(0, 256, (5, 4, 4, 3), np.uint8)
    on_host = transform.inverse(transform(pixels))
    assert isinstance(on_host, np.ndarray)
    np.testing.assert_allclose(on_host, pixels / 255, atol=1e-6)
    on_device = transform.inverse(jnp.asarray(transform(pixels)))
    assert isinstance(on_device, jax.Array)
    np.testing.assert_allclose(on_device, pixels / 255, atol=1e-6)


def test_a_transform_outlives_json_bit_for_bit():
    transform = data.Standardise(MEAN, STD)
    saved = json.loads(json.dumps(transform.to_json()))
    assert saved == {
        "kind": "standardise",
        "mean": [pytest.approx(m) for m in MEAN],
        "std": [pytest.approx(s) for s in STD],
    }
    again = data.transform_from_json(saved)
    for before, after in zip(transform, again, strict=True):
        assert after.dtype == np.float32
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "no transform of kind None: the kinds are standardise"),
        ({"mean": [0.0], "std": [1.0]}, "no transform of kind None"),
        ({"kind": ["standardise"]}, "no transform of kind \\['standardise'\\]"),
        ({"kind": "pca", "matrix": []}, "no transform of kind 'pca'"),
        ({"kind": "standardise", "mean": [0.0]}, "damaged .*'std'"),
        ({"kind": "standardise", "mean": [0.0], "std": [1.0], "shift": 0}, "damaged .*'shift'"),
        ({"kind": "standardise", "mean": [0.0, 1.0], "std": [1.0]}, "damaged .*equally many"),
        ({"kind": "standardise", "mean": 0.0, "std": 1.0}, "damaged .*equally many"),
        ({"kind": "standardise", "mean": [0.0], "std": [0.0]}, "damaged .*std above zero"),
        ({"kind": "standardise", "mean": [float("nan")], "std": [1.0]}, "damaged .*finite"),
        ({"kind": "standardise", "mean": ["one"], "std": [1.0]}, "damaged .*'one'"),
        ({"kind": "standardise", "mean": [[0.0], [0.0, 1.0]], "std": [1.0]}, "damaged"),
    ],
)
def test_what_is_no_transform_is_one_line(saved, message):
    with pytest.raises(InputError, match=message) as excinfo:
        data.transform_from_json(saved)
    one_line(excinfo)


# The real sets, where they are prepared

REAL_DIR = os.environ.get("TFDS_DATA_DIR", "")
REAL = {  # shapes, the sums of all pixels, and the examples a class in train and test together
    "mnist": (
        *((60000, 28, 28, 1), (10000, 28, 28, 1), 1567298545, 264923200),
        [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958],
    ),
    "cifar10": ((50000, 32, 32, 3), (10000, 32, 32, 3), 18540682003, 3733375634, [6000] * 10),
    "usps": (
        *((7291, 16, 16, 1), (2007, 16, 16, 1), 120833581, 34981426),
        [1553, 1269, 929, 824, 852, 716, 834, 792, 708, 821],
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets(name):
    if not REAL_DIR or prepared.find_prepared(name, prepared.data_root(REAL_DIR)) is None:
        pytest.skip(f"{name} is not prepared: set TFDS_DATA_DIR to a folder where `ddjax prepare {name}` was run")
    dataset = data.load_dataset(name, data_dir=REAL_DIR)
    found = (
        *(dataset.x_train.shape, dataset.x_test.shape),
        *(int(dataset.x_train.sum(dtype=np.int64)), int(dataset.x_test.sum(dtype=np.int64))),
        np.bincount(np.concatenate([dataset.y_train, dataset.y_test])).tolist(),
    )
    assert found == REAL[name]
    total, squares = 0.0, 0.0
    for part in np.array_split(dataset.x_train, 20):
        total += part.sum(axis=(0, 1, 2), dtype=np.float64) / 255
        squares += np.square(part, dtype=np.float64).sum(axis=(0, 1, 2)) / 255**2
    mean, square = (value / dataset.x_train[..., 0].size for value in (total, squares))
    np.testing.assert_allclose(dataset.transform.mean, mean, rtol=0, atol=1e-3)
    np.testing.assert_allclose(dataset.transform.std, np.sqrt(square - mean**2), rtol=0, atol=1e-3)
