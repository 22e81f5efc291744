"""The distilled artefact: one safetensors file that NumPy, PyTorch and JAX open alike, with its story in the header.

Tensors: `images` float32 [S, M, ...] in normalised space, `labels` float32 [S, M, K] (probabilities), `learning_rates`
float32 [E, S], and `params/...` float32, the initial weights, where they are fixed (without them the images are useless).
Header: one entry `ddjax`, a JSON object.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ddjax.core.distilled import DistilledData
from ddjax.errors import InputError

FORMAT_VERSION = 1
FILE_NAME = "distilled.safetensors"


class Artifact(NamedTuple):
    """What a file holds.

    Attributes:
      distilled: NumPy arrays; `labels` are probabilities, `log_lrs` the logarithm of the stored learning rates.
      metadata: the header's JSON object.
      params: nested dict of float32 arrays, or None where initial weights are drawn afresh.
    """

    distilled: DistilledData
    metadata: dict[str, Any]
    params: dict[str, Any] | None


def save(path: str | os.PathLike, distilled: DistilledData, metadata: dict[str, Any], params: Any = None) -> None:
    """Writes an artefact, whole or not at all.

    Args:
      path: file to write; one that exists is replaced.
      distilled: data whose `labels` are probabilities.
      metadata: JSON-serialisable; `format_version` is added.
      params: initial weights, a nested dict of arrays, where they are fixed.
    """
    tensors = {
        "images": np.asarray(distilled.images, np.float32),
        "labels": np.asarray(distilled.labels, np.float32),
        "learning_rates": np.exp(np.asarray(distilled.log_lrs, np.float32)),
    }
    if params is not None:
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
            tensors["/".join(["params", *(str(key.key) for key in keys)])] = np.asarray(leaf, np.float32)
    header = json.dumps({"format_version": FORMAT_VERSION, **metadata}, sort_keys=True)
    path = Path(path)
    draft = path.with_name(path.name + ".tmp")
    # The library lays a contiguous array out as it is in memory, so anything transposed must be copied first.
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    # Not save_file, which makes a file that only its owner may read, whatever the umask.
    draft.write_bytes(safetensors.numpy.save(contiguous, metadata={"ddjax": header}))
    os.replace(draft, path)


def load(path: str | os.PathLike) -> Artifact:
    """Reads an artefact, from its file or from the folder of a run.

    Raises:
      InputError: no such file, damaged or not safetensors, not a ddjax artefact, of a newer format, or inconsistent.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise InputError(f"no artefact at {path}: give the folder of a finished run or a {FILE_NAME} file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get("ddjax")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:  # Attribute: a type NumPy does not know
        raise InputError(f"{path} is damaged or not a safetensors file ({error}): copy or distill it again") from error
    if header is None:
        raise InputError(f"{path} is a safetensors file that ddjax did not write: its header has no 'ddjax' entry")
    try:
        metadata = json.loads(header)
        version = metadata["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} has a damaged 'ddjax' header: copy or distill it again") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, and this ddjax reads {FORMAT_VERSION}: update ddjax")
    distilled = _distilled(path, tensors)
    try:
        return Artifact(distilled, metadata, _params(tensors))
    except (AttributeError, IndexError) as error:  # a tensor where a dict should be
        raise InputError(f"{path} has weights whose names contradict each other: copy or distill it again") from error


def _distilled(path: Path, tensors: dict[str, Any]) -> DistilledData:
    names = ("images", "labels", "learning_rates")
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"{path} lacks the tensors {', '.join(missing)}: copy or distill it again")
    images, labels, lrs = (tensors[name] for name in names)
    consistent = (
        images.ndim >= 3
        and labels.ndim == 3
        and lrs.ndim == 2
        and images.shape[:2] == labels.shape[:2]
        and lrs.shape[1] == images.shape[0]
        and all(tensors[name].size for name in names)
    )
    if not consistent:
        shapes = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names)
        raise InputError(f"{path} is inconsistent ({shapes}): expected [S, M, ...], [S, M, K] and [E, S]")
    usable = all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors.values())
    if not (usable and (lrs > 0).all()):
        raise InputError(f"{path} holds values that are not finite float32, or learning rates that are not above zero")
    return DistilledData(images, labels, np.log(lrs))


def _params(tensors: dict[str, np.ndarray]) -> dict[str, Any] | None:
    params: dict[str, Any] = {}
    for name, value in tensors.items():
        first, *path = name.split("/")
        if first == "params":
            node = params
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = value
    return params or None
