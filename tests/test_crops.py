"""Objects in larger pictures: tiny PASCAL VOC and CUB archives through `prepare`, and official folders, as crops."""

import io
import tarfile
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data import assert_nothing_prepared

from ddjax import data
from ddjax.data import prepared
from ddjax.data.catalogue import CATALOGUE, crops
from ddjax.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SIZE = "16x12x3"


def jpeg(image):
    """The file, and what is seen in it: JPEG loses something."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return buffer.getvalue(), Image.open(buffer).convert("RGB")


def picture(seed, width=40, height=30, mode="RGB"):
    """Smooth, so that JPEG keeps most of it, and different everywhere."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (3, 4, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def cut(image, left, top, right, bottom):
    return np.asarray(image.crop((left, top, right, bottom)).resize((12, 16), Image.Resampling.BILINEAR))


def tar(files, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def voc_object(name, box, difficult=0):
    xmin, ymin, xmax, ymax = box
    bounds = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>"
        f"<bndbox>{bounds}</bndbox><part><name>head</name><bndbox>{bounds}</bndbox></part></object>"
    )


def raw_voc():
    """The archives by role, and (picture, class) of every object by our split: two objects a picture, one difficult."""
    archives: dict[str, dict[str, bytes]] = {"trainval": {}, "test": {}}
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    expected: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
    for i in range(24):
        split = "test" if i >= 20 else "val" if i % 3 == 0 else "train"
        name = f"{i:06d}"
        content, seen = jpeg(picture(i))
        boxes = [(4, 3, 30, 25), (10 + i % 5, 1, 40, 30)]
        labels = [i % 20, (i + 7) % 20]
        objects = [voc_object(VOC_CLASSES[k], box, d) for d, (k, box) in enumerate(zip(labels, boxes, strict=True))]
        xml = f"<annotation><size><width>40</width><height>30</height></size>{''.join(objects)}</annotation>"
        files = archives["test" if split == "test" else "trainval"]
        files[f"VOCdevkit/VOC2007/Annotations/{name}.xml"] = xml.encode()
        files[f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg"] = content
        lists[split].append(name)
        ours = "test" if split == "test" else "train"
        expected[ours] += [(cut(seen, *box).tobytes(), k) for box, k in zip(boxes, labels, strict=True)]
    for split, names in lists.items():
        listing = f"VOCdevkit/VOC2007/ImageSets/Main/{split}.txt"
        archives["test" if split == "test" else "trainval"][listing] = "\n".join([*names, ""]).encode()
    return {role: tar(files, "w") for role, files in archives.items()}, expected


def raw_cub(species=5):
    """As `raw_voc`, for birds: two pictures a species, one of them to train on; every fifth is grey."""
    files, masks, expected = {}, {}, {"train": [], "test": []}
    tables: dict[str, list[str]] = {
        "images": [],
        "train_test_split": [],
        "bounding_boxes": [],
        "image_class_labels": [],
    }
    for i in range(2 * species):
        k, test = divmod(i, 2)
        name = f"{k + 1:03d}.Red_Bird_{k}/Red_Bird_{k}_{i:04d}_{100 + i}"
        content, seen = jpeg(picture(i, mode="L" if i % 5 == 0 else "RGB"))
        left, top, across, down = 3.0 + i % 4, 5.0, 30.0, 25.0 + (i == 3)  # one box reaches past the edge
        tables["images"].append(f"{i + 1} {name}.jpg")
        tables["train_test_split"].append(f"{i + 1} {1 - test}")
        tables["bounding_boxes"].append(f"{i + 1} {left} {top} {across} {down}")
        tables["image_class_labels"].append(f"{i + 1} {k + 1}")
        files[f"CUB_200_2011/images/{name}.jpg"] = content
        mask = io.BytesIO()
        Image.new("L", (40, 30), 10 * i).save(mask, format="PNG")
        masks[f"segmentations/{name}.png"] = mask.getvalue()
        box = (int(left), int(top), int(left + across), min(int(top + down), 30))
        expected["test" if test else "train"].append((cut(seen, *box).tobytes(), k))
    files |= {f"CUB_200_2011/{table}.txt": "\n".join([*lines, ""]).encode() for table, lines in tables.items()}
    return {"archive": tar(files, "w:gz"), "segmentations": tar(masks, "w:gz")}, expected


RAW = {"voc2007": raw_voc, "cub200": raw_cub}
FOLDERS = {"voc2007": "voc/2007/5.0.0", "cub200": "caltech_birds2011/0.2.0"}
NAMES = {"voc2007": VOC_CLASSES, "cub200": tuple(f"red_bird_{k}" for k in range(5))}


def assert_holds_crops(dataset, expected):
    for split, x, y in (("train", dataset.x_train, dataset.y_train), ("test", dataset.x_test, dataset.y_test)):
        assert x.shape == (len(expected[split]), 16, 12, 3) and x.dtype == np.uint8 and y.dtype == np.int32
        found = [(crop.tobytes(), int(label)) for crop, label in zip(x, y, strict=True)]
        assert sorted(found) == sorted(expected[split])


@pytest.mark.parametrize("name", RAW)
def test_prepare_from_raw_files_and_read_back_as_crops(tmp_path, publish, name, monkeypatch):
    monkeypatch.setattr(crops, "_READ_BATCH", 3)
    files, expected = RAW[name]()
    publish(name, files)
    folder = tmp_path / "tfds" / FOLDERS[name]
    assert data.prepare(name) == f"{name} {folder.name} prepared in {folder}"
    dataset = data.load_dataset(name, pictures=SIZE)
    assert_holds_crops(dataset, expected)
    assert dataset.class_names == NAMES[name] and dataset.source == f"{name}:{folder.name}@{SIZE}"
    np.testing.assert_array_equal(dataset.transform.mean, CATALOGUE[name].transform.mean)
    assert data.prepare(name) == f"{name} {folder.name} is already prepared in {folder}"


def official_builder(name, root):
    from tensorflow_datasets.image_classification.caltech_birds import CaltechBirds2011
    from tensorflow_datasets.object_detection.voc import Voc

    return Voc(config="2007", data_dir=root) if name == "voc2007" else CaltechBirds2011(data_dir=root)


@pytest.mark.parametrize("name", RAW)
def test_names_versions_features_and_files_are_the_official_ones(tmp_path, name):
    from tensorflow_datasets.core.download import checksums

    builder: Any = official_builder(name, tmp_path)
    assert str(builder.data_dir) == str(tmp_path / FOLDERS[name])
    own = CATALOGUE[name].stored.features()
    assert repr(type(builder.info.features)(own)) == repr(builder.info.features)
    for feature in own:
        if feature in ("labels", "objects"):
            theirs = builder.info.features[feature].feature
            mine = own[feature].feature
            label, own_label = (theirs["label"], mine["label"]) if feature == "objects" else (theirs, mine)
            assert label.names == own_label.names
            if feature == "objects":
                assert theirs["pose"].names == mine["pose"].names
    published: dict[str, checksums.UrlInfo] = builder.url_infos
    for file in CATALOGUE[name].files.values():
        assert (published[file.url].size, published[file.url].checksum) == (file.size, file.sha256)


@pytest.mark.parametrize("name", RAW)
def test_a_folder_with_the_official_description_is_read(tmp_path, name):
    """What the official builder would write: its own description, and records that only lie in another order."""
    import tensorflow_datasets as tfds

    files, expected = RAW[name]()
    for role, content in files.items():
        (tmp_path / role).write_bytes(content)
    paths = {role: tmp_path / role for role in files}
    folder = tmp_path / "tfds" / FOLDERS[name]
    folder.mkdir(parents=True)
    official: Any = official_builder(name, tmp_path / "elsewhere")
    module = type(official).__module__
    config = {"config_name": "2007"} if name == "voc2007" else {}
    identity = tfds.core.DatasetIdentity(
        name=official.name, version=official.version, data_dir=str(folder), module_name=module, **config
    )
    info = tfds.core.DatasetInfo(builder=identity, features=official.info.features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=1000, file_format="array_record")
    stored = CATALOGUE[name].stored
    writer.initialize_splits(list(stored.splits))
    for split in stored.splits:
        writer.add_examples({split: [record for _, record in stored.records(paths, split)]})
    writer.close_all()
    assert_holds_crops(data.load_dataset(name, pictures=SIZE), expected)


def test_masks_of_birds_are_kept(tmp_path, publish):
    import tensorflow_datasets as tfds

    publish("cub200", raw_cub()[0])
    data.prepare("cub200")
    source: Any = tfds.data_source("caltech_birds2011", split="train", data_dir=str(tmp_path / "tfds"), download=False)
    for record in source:
        i = int(record["image/filename"].decode().split("_")[-2])
        np.testing.assert_array_equal(record["segmentation_mask"], np.full((30, 40, 1), 10 * i, np.uint8))


def prepare_voc(publish):
    files, expected = raw_voc()
    publish("voc2007", files)
    data.prepare("voc2007")
    return expected


def test_size_is_224_unless_said_and_each_size_has_its_cache(tmp_path, publish, monkeypatch):
    expected = prepare_voc(publish)
    whole = data.load_dataset("voc2007")
    assert whole.input_shape == (224, 224, 3) and whole.source == "voc2007:5.0.0@224x224x3"
    small = data.load_dataset("voc2007", pictures=SIZE)
    caches = sorted(path.name for path in (tmp_path / "tfds" / FOLDERS["voc2007"]).glob("ddjax_cache*"))
    assert caches == ["ddjax_cache@16x12x3.npz", "ddjax_cache@224x224x3.npz"]
    monkeypatch.setattr(prepared, "_read_records", lambda *args: pytest.fail("decoded although a cache was there"))
    np.testing.assert_array_equal(data.load_dataset("voc2007").x_test, whole.x_test)
    again = data.load_dataset("voc2007", pictures=SIZE)
    assert_holds_crops(again, expected)
    assert again.class_names == small.class_names and again.source == small.source
    grey = data.load_dataset("voc2007", pictures="16x12x1")
    assert grey.input_shape == (16, 12, 1) and grey.source == "voc2007:5.0.0@16x12x3@16x12x1"


def test_a_cache_of_another_size_is_not_taken_for_this_one(tmp_path, publish):
    expected = prepare_voc(publish)
    data.load_dataset("voc2007", pictures="8x8x3")
    folder = tmp_path / "tfds" / FOLDERS["voc2007"]
    (folder / "ddjax_cache@8x8x3.npz").rename(folder / f"ddjax_cache@{SIZE}.npz")
    assert_holds_crops(data.load_dataset("voc2007", pictures=SIZE), expected)


def test_boxes_are_whole_pixels_and_never_empty():
    for box, pixels in (
        ((0.1, 0.2, 0.5, 0.6), (8, 3, 24, 15)),
        ((0, 0, 1, 1), (0, 0, 40, 30)),
        ((0.5, 0.5, 0.5, 0.5), (20, 15, 21, 16)),
        ((1, 1, 1, 1), (39, 29, 40, 30)),
    ):
        assert crops._pixels(np.array(box, np.float32), (40, 30)) == pixels


def test_missing_and_incomplete_sets_are_one_line(tmp_path, publish):
    with pytest.raises(data.MissingDataError, match="`ddjax prepare voc2007`") as excinfo:
        data.load_dataset("voc2007")
    assert str(tmp_path / "tfds" / "voc" / "2007") in str(excinfo.value)
    files, _ = raw_voc()
    publish("voc2007", files | {"test": files["test"][: len(files["test"]) // 2]})
    with pytest.raises(InputError, match="voc2007 could not be prepared") as excinfo:
        data.prepare("voc2007")
    assert "\n" not in str(excinfo.value)
    assert_nothing_prepared(tmp_path, "voc2007")


def test_a_class_without_training_examples_is_refused(publish):
    files, _ = raw_cub()
    publish("cub200", {**files, "archive": without_species_two(files["archive"])})
    data.prepare("cub200")
    with pytest.raises(InputError, match="damaged .*no training example of class 1"):
        data.load_dataset("cub200", pictures=SIZE)


def without_species_two(archive):
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            file = opened.extractfile(member)
            if "/002." not in member.name and file is not None:
                files[member.name] = file.read()
    return tar(files, "w:gz")
