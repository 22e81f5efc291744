"""Downloads the raw files of a named set and writes them as a tensorflow-datasets folder, without TensorFlow."""

import glob
import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ddjax.data.catalogue import CATALOGUE
from ddjax.data.catalogue.entry import Entry, Key, Record
from ddjax.data.prepared import find_prepared
from ddjax.errors import InputError
from ddjax.storage import lock

_PROBE_SECONDS = 15


def download_and_prepare(name: str, root: Path) -> Path:
    """Fetches and writes `<root>/<folder>/<version>`; returns that folder. It appears whole or not at all. Of several calls at
    once the others wait for the first.

    Raises:
      InputError: the files could not be fetched, are not what was published, or the folder cannot be written.
    """
    advice = (
        "check the network and the folder and try again, or prepare it on another machine, copy the folder and set "
        "TFDS_DATA_DIR to it"
    )
    folder = root / CATALOGUE[name].folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with lock.held(root, f".{name}.lock", wait=True):
            if (finished := find_prepared(name, root)) is not None:  # by whoever held it before
                return finished
            unfinished = folder / CATALOGUE[name].version
            if unfinished.exists():  # tensorflow-datasets would take it for prepared, whatever it holds
                raise InputError(f"{unfinished} exists but holds no dataset_info.json: delete it and try again")
            _clear(name, folder, root / "downloads")
            _probe(next(iter(CATALOGUE[name].files.values())).url)
            return _build(name, root)
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # requests, urllib3, tensorflow-datasets, gzip, tarfile and scipy each raise their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{name} could not be prepared in {root} ({reason}): {advice}") from error


def _clear(name: str, folder: Path, downloads: Path) -> None:
    """Takes away what calls that were killed have left, of which none is under way: drafts of the folder, and of its files."""
    from tensorflow_datasets.core.download import resource

    drafts = list(folder.glob("incomplete.*"))
    for file in CATALOGUE[name].files.values():
        place = resource.get_dl_fname(file.url, hashlib.sha256(file.url.encode()).hexdigest())
        drafts += downloads.glob(f"{glob.escape(place)}.tmp.*")
    for draft in drafts:
        shutil.rmtree(draft, ignore_errors=True)


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

    entry = CATALOGUE[name]
    dataset_name, _, config = entry.folder.partition("/")
    published = {
        file.url: checksums.UrlInfo(utils.Size(file.size), file.sha256, Path(urlsplit(file.url).path).name)
        for file in entry.files.values()
        if file.sha256 is not None
    }

    class CatalogueBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc, unused-ignore]
        name = dataset_name
        VERSION = tfds.core.Version(entry.version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
        url_infos = published

        def _info(self) -> Any:
            features = entry.stored.features()
            return tfds.core.DatasetInfo(
                builder=self,
                description=entry.description,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label") if "label" in features else None,
                homepage=entry.homepage,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            paths = dl_manager.download({role: file.url for role, file in entry.files.items()})
            files = {role: Path(path) for role, path in paths.items()}
            return {split: _records(entry, files, split) for split in entry.stored.splits}

        def _generate_examples(self) -> Any:
            raise NotImplementedError("the split generators hold the examples")

    return CatalogueBuilder


def _records(entry: Entry, files: Mapping[str, Path], split: str) -> Iterator[tuple[Key, Record]]:
    total = hashlib.sha256()
    try:
        for key, record in entry.stored.records(files, split):
            if split in entry.digests:
                add_to_digest(total, record)
            yield key, record
        if total.hexdigest() != entry.digests.get(split, total.hexdigest()):
            raise ValueError(f"the {split} examples are not those that were published")
    except Exception:
        # A log-in page saved in place of the file, say. Kept, it would be taken for the download for ever.
        _discard(files)
        raise


def add_to_digest(total: Any, record: Record) -> None:
    """A picture's bytes and its class."""
    total.update(np.asarray(record["image"]).tobytes() + f"{record['label']};".encode())


def _discard(files: Mapping[str, Path]) -> None:
    for path in files.values():
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".INFO").unlink(missing_ok=True)
