"""A distilled set in the formats of others: pictures, NumPy, PyTorch, tensorflow-datasets."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data import transform_for
from ddjax.data.records import write_records
from ddjax.errors import InputError
from ddjax.storage.artifact import PLOT_NEEDS, Artifact
from ddjax.storage.tensorfile import named


def export(artifact: Artifact, out: Path, to: str) -> Path:
    """Writes a distilled set in another format, whole or not at all, and returns where it is.

    Args:
      artifact: see `load_artifact`.
      out: file or folder to write, which must not exist.
      to: one of `FORMATS`:
        npz: `images` [S, M, ...] float32 as the network reads them, `pixels` the same before the transform, `labels` [S, M, K]
          probabilities, `learning_rates` [E, S], `class_names`, `header` (JSON), and `params/...` where weights are fixed.
        png: a folder of pictures, `step01-02-CLASS.png` the second of the first step; before the transform, cut off at black
          and white and rounded to bytes, so that they are for looking at and not for training.
        torch: a file for `torch.load` with the arrays of npz as tensors, pictures channels first; needs PyTorch.
        tfds: a folder of tensorflow-datasets with one record an example, in the order of training: `input`, `label` (its
          probabilities), `step` and `learning_rates` (of that step, one an epoch).

    Raises:
      InputError: `out` exists or cannot be written, the format is unknown, or the set cannot be had in it.
    """
    artifact.require(PLOT_NEEDS)
    if to not in FORMATS:
        raise InputError(f"there is no format {to!r}: choose among {', '.join(FORMATS)}")
    if out.exists():
        raise InputError(f"{out} exists: give another --out, or remove it")
    try:
        with _draft(out) as draft:
            FORMATS[to](artifact, draft)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}): give another --out") from error
    return out


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A place beside `out` that becomes it when all is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder / out.name
        os.replace(folder / out.name, out)
    finally:
        shutil.rmtree(folder)


def _arrays(artifact: Artifact) -> dict[str, np.ndarray]:
    images, labels, log_lrs = (np.asarray(leaf, np.float32) for leaf in artifact.distilled)
    transform = transform_for(artifact.metadata["transform"], images.shape[2:])
    pixels = np.stack([transform.inverse(step) for step in images])
    weights = {} if artifact.params is None else named("params", artifact.params)
    rates = np.exp(log_lrs)
    return {"images": images, "pixels": pixels, "labels": labels, "learning_rates": rates, **weights}


def _npz(artifact: Artifact, out: Path) -> None:
    names, header = np.array(artifact.metadata["class_names"]), np.array(json.dumps(artifact.metadata))
    with out.open("wb") as file:
        np.savez(file, allow_pickle=False, class_names=names, header=header, **_arrays(artifact))


def _png(artifact: Artifact, out: Path) -> None:
    from PIL import Image

    arrays = _arrays(artifact)
    pixels = arrays["pixels"]
    if pixels.ndim != 5 or pixels.shape[-1] not in (1, 3):
        shape = list(pixels.shape[2:])
        raise InputError(f"examples of shape {shape} are no pictures: export them to npz, torch or tfds instead")
    out.mkdir()
    names = artifact.metadata["class_names"]
    for step, (examples, labels) in enumerate(zip(pixels, arrays["labels"], strict=True), start=1):
        for number, (example, label) in enumerate(zip(examples, labels, strict=True), start=1):
            array = np.rint(255 * np.clip(example, 0, 1)).astype(np.uint8)
            name = "".join(c if c.isalnum() else "_" for c in names[int(np.argmax(label))])
            picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
            picture.save(out / f"step{step:02}-{number:02}-{name[:80]}.png")


def _torch(artifact: Artifact, out: Path) -> None:
    try:
        import torch
    except ImportError:
        raise InputError("the format torch needs PyTorch: pip install torch, or choose npz") from None
    arrays = _arrays(artifact)
    for name in ("images", "pixels"):
        if arrays[name].ndim == 5:
            arrays[name] = np.moveaxis(arrays[name], -1, 2)
    tensors: dict[str, Any] = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    torch.save({**tensors, "class_names": list(artifact.metadata["class_names"])}, out)


def _tfds(artifact: Artifact, out: Path) -> None:
    arrays = _arrays(artifact)
    steps, count = arrays["images"].shape[:2]
    step = np.repeat(np.arange(steps), count)
    records = {
        "input": arrays["images"].reshape(steps * count, *arrays["images"].shape[2:]),
        "label": arrays["labels"].reshape(steps * count, -1),
        "learning_rates": arrays["learning_rates"].T[step],
        "step": step,
    }
    write_records(out, records, name="distilled", description=json.dumps(artifact.metadata))


FORMATS: dict[str, Callable[[Artifact, Path], None]] = {"npz": _npz, "png": _png, "torch": _torch, "tfds": _tfds}
