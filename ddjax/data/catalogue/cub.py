"""Caltech-UCSD Birds 200 (2011): photographs of 200 species, each cropped by the box of its bird."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ddjax.data.catalogue.crops import Crops, Object
from ddjax.data.catalogue.entry import Entry, Key, RawFile, Record
from ddjax.data.transforms import Standardise


def _features() -> dict[str, Any]:
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=200),
        "label_name": tfds.features.Text(),
        "bbox": tfds.features.BBoxFeature(),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
    }


def _members(path: Path, suffix: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of the files that end so, in the order of the archive: it is compressed as one stream."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(suffix) else None
            if file is not None:
                yield PurePosixPath(member.name), file.read()


def _records(files: Mapping[str, Path], split: str) -> Iterator[tuple[Key, Record]]:
    import tensorflow_datasets as tfds
    from PIL import Image

    # Tables of lines "number value ...", the number being that of a picture.
    tables = {path.name: content.decode().splitlines() for path, content in _members(files["archive"], ".txt")}
    names, parts, boxes = (
        dict(line.split(maxsplit=1) for line in tables[name] if line.strip())
        for name in ("images.txt", "train_test_split.txt", "bounding_boxes.txt")
    )
    wanted = {name.strip(): boxes[i] for i, name in names.items() if (parts[i].strip() == "1") == (split == "train")}
    masks = {path.stem: content for path, content in _members(files["segmentations"], ".png")}
    for path, content in _members(files["archive"], ".jpg"):
        box = wanted.get("/".join(path.parts[-2:]))
        if box is None:
            continue
        number, _, name = path.parent.name.partition(".")  # as 001.Black_footed_Albatross
        left, top, across, down = map(float, box.split())
        with Image.open(io.BytesIO(masks[path.stem])) as file:
            mask = file.convert("L")
        yield (
            str(path),
            {
                "image": content,
                "image/filename": str(path),
                "label": int(number) - 1,
                "label_name": name.lower(),
                "bbox": tfds.features.BBox(
                    ymin=min(top / mask.height, 1.0),
                    xmin=min(left / mask.width, 1.0),
                    ymax=min((top + down) / mask.height, 1.0),
                    xmax=min((left + across) / mask.width, 1.0),
                ),
                "segmentation_mask": mask,
            },
        )


def _objects(record: Record) -> list[Object]:
    return [Object(record["bbox"], int(record["label"]), record["label_name"].decode())]


CUB200 = Entry(
    folder="caltech_birds2011",
    version="0.2.0",
    description="Caltech-UCSD Birds 200 (2011): 11788 photographs of 200 species, with boxes and masks.",
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    terms="for non-commercial research and education; the photographs are their photographers'",
    files={
        "archive": RawFile(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            1150585339,
            "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        ),
        "segmentations": RawFile(
            "https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz?download=1",
            39272883,
            "dc77f6cffea0cbe2e41d4201115c8f29a6320ecb04fffd2444f51b8066e4b84f",
        ),
    },
    stored=Crops(_features, _records, _objects),
    # Of the whole photographs.
    transform=Standardise.by(mean=(0.4785, 0.4993, 0.4022), std=(0.2321, 0.2277, 0.2665)),
    crop=(224, 224),
)
