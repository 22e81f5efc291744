"""Safetensors files with a JSON story in their header: no pickle, and NumPy, PyTorch and JAX open them alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ddjax.errors import InputError
from ddjax.storage import schema
from ddjax.storage.files import write_whole

FORMAT_VERSION = 2
READABLE = (1, FORMAT_VERSION)
_DEEPEST = 30  # names within names of weights: Python walks through what is nested by recursion


def write(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes a file, whole or not at all; one that exists is replaced.

    Args:
      path: file to write.
      tensors: arrays, stored as float32.
      metadata: JSON-serialisable; becomes the one entry `ddjax` of the header, with `format_version`.
    """
    header = json.dumps({**metadata, "format_version": FORMAT_VERSION}, sort_keys=True)
    # The library lays a contiguous array out as it is in memory, so anything transposed must be copied first.
    contiguous = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    # Not save_file, which makes a file that only its owner may read, whatever the umask.
    write_whole(path, safetensors.numpy.save(contiguous, metadata={"ddjax": header}))


def read(path: Path, again: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the metadata of a file that `write` wrote, its `format_version` among them.

    Args:
      path: an existing file.
      again: how to come by an intact file, for the message.

    Raises:
      InputError: damaged or not safetensors, not ddjax's, or of a format that `READABLE` lacks.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get("ddjax")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:  # Attribute: a type NumPy does not know
        raise InputError(f"{path} is damaged or not a safetensors file ({error}): {again}") from error
    if header is None:
        raise InputError(f"{path} is a safetensors file that ddjax did not write: its header has no 'ddjax' entry")
    try:
        metadata = schema.parsed(header)
        version = metadata["format_version"]
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} has a damaged 'ddjax' header ({error}): {again}") from error
    if type(version) is not int or version not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise InputError(f"{path} has format version {version}, and this ddjax reads {readable}: update ddjax")
    return tensors, metadata


def named(prefix: str, params: Any) -> dict[str, Any]:
    """A nested dict of arrays as tensors called `prefix/name/...`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join([prefix, *(str(key.key) for key in keys)]): leaf for keys, leaf in leaves}


def nested(prefix: str, tensors: Mapping[str, np.ndarray], path: Path, again: str) -> dict[str, Any] | None:
    """The inverse of `named`; None where no tensor is called `prefix/...`.

    Raises:
      InputError: names contradict each other.
    """
    params: dict[str, Any] = {}
    try:
        for name, value in tensors.items():
            first, *keys = name.split("/", _DEEPEST)
            if first == prefix:
                node = params
                for key in keys[:-1]:
                    node = node.setdefault(key, {})
                node[keys[-1]] = value
    except (AttributeError, IndexError) as error:  # a tensor where a dict should be
        raise InputError(f"{path} has weights whose names contradict each other: {again}") from error
    return params or None
