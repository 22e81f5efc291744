"""Downloads the raw files of a named set and writes them as a tensorflow-datasets folder, without TensorFlow."""

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddjax.data.catalogue import CATALOGUE
from ddjax.errors import InputError

_PROBE_SECONDS = 15


def download_and_prepare(name: str, root: Path) -> Path:
    """Fetches and writes `<root>/<name>/<version>`; returns that folder. It appears whole or not at all.

    Raises:
      InputError: the files could not be fetched, are not what was published, or the folder cannot be written.
    """
    advice = (
        "check the network and the folder and try again, or prepare it on another machine, copy the folder and set "
        "TFDS_DATA_DIR to it"
    )
    unfinished = root / name / CATALOGUE[name].version
    if unfinished.exists():  # tensorflow-datasets would take it for prepared, whatever it holds
        raise InputError(f"{unfinished} exists but holds no dataset_info.json: delete it and try again")
    try:
        _probe(next(iter(CATALOGUE[name].files.values())).url)
        return _build(name, root)
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # requests, urllib3, tensorflow-datasets, gzip, tarfile and scipy each raise their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{name} could not be prepared in {root} ({reason}): {advice}") from error


def _probe(url: str) -> None:
    """Fails within seconds where there is no network: tensorflow-datasets itself retries for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()  # the host answers; whether it serves the file is for the download to find out


def _build(name: str, root: Path) -> Path:
    import tensorflow_datasets as tfds

    builder: Any = _builder_class(name)(data_dir=str(root))
    builder.download_and_prepare(
        file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


def _builder_class(name: str) -> Any:
    """A builder of the catalogue's set with the official name, version and features."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import utils
    from tensorflow_datasets.core.download import checksums

    entry, dataset_name = CATALOGUE[name], name
    published = {
        file.url: checksums.UrlInfo(utils.Size(file.size), file.sha256, file.url.rsplit("/", 1)[-1])
        for file in entry.files.values()
        if file.sha256 is not None
    }
    label = tfds.features.ClassLabel(names=entry.class_names, num_classes=None if entry.class_names else 10)

    class CatalogueBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # untyped base
        name = dataset_name
        VERSION = tfds.core.Version(entry.version)
        url_infos = published

        def _info(self) -> Any:
            ids = {"id": tfds.features.Text()} if entry.id_digits else {}
            features = {"image": tfds.features.Image(shape=entry.input_shape), "label": label} | ids
            return tfds.core.DatasetInfo(
                builder=self,
                description=entry.description,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=entry.homepage,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            paths = dl_manager.download({role: file.url for role, file in entry.files.items()})
            files = {role: Path(path) for role, path in paths.items()}
            try:
                contents = {split: entry.read_split(files, split) for split in ("train", "test")}
            except Exception:
                # A log-in page saved in place of the file, say. Kept, it would be taken for the download for ever.
                _discard(files)
                raise
            return {split: _examples(split, *examples, entry.id_digits) for split, examples in contents.items()}

        def _generate_examples(self) -> Any:
            raise NotImplementedError("the split generators hold the examples")

    return CatalogueBuilder


def _examples(split: str, images: Any, labels: Any, id_digits: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Examples under the official keys (their index, which decides the order on disk) and ids."""
    from PIL import Image

    if len(images) != len(labels):
        raise ValueError(f"{len(images)} {split} images but {len(labels)} labels")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        # Of arrays tensorflow-datasets makes a PNG with TensorFlow; of Pillow's images it does so with Pillow.
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        ids = {"id": f"{split}_{index:0{id_digits}d}"} if id_digits else {}
        yield index, {"image": picture, "label": int(label)} | ids


def _discard(files: Mapping[str, Path]) -> None:
    for path in files.values():
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".INFO").unlink(missing_ok=True)
