"""The distilled artefact: one safetensors file that NumPy, PyTorch and JAX open alike, with its story in the header.

Tensors: `images` float32 [S, M, ...] in normalised space, `labels` float32 [S, M, K] (probabilities), `learning_rates`
float32 [E, S], and `params/...` float32, the initial weights, where they are fixed (without them the images are useless).
Header: one entry `ddjax`, a JSON object; `save_artifact` says what it must have to be of further use.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.errors import InputError
from ddjax.recipes import Recipe
from ddjax.storage import schema, tensorfile
from ddjax.storage.files import is_file

FILE_NAME = "distilled.safetensors"

# What a header must have to be used; see `save_artifact`.
EVALUATE_NEEDS = ("recipe", "transform", "model")
PLOT_NEEDS = ("recipe", "transform", "class_names")

_AGAIN = "copy or distill it again"
# What there is of a header is of these kinds.
_HEADER = {
    **dict.fromkeys(("name", "data", "data_source"), schema.TEXT),
    "data_digest": schema.or_none(schema.TEXT),
    **dict.fromkeys(("recipe", "transform", "model", "versions"), schema.OBJECT),
    "model/name": schema.TEXT,
    "model/input_shape": schema.SHAPE,
    "model/num_classes": schema.COUNT,
    **dict.fromkeys(("class_names", "feature_names"), schema.TEXTS),
    "pool": schema.or_none(schema.OBJECT),
    **dict.fromkeys(("pool/data_source", "pool/digest"), schema.or_none(schema.TEXT)),
    **dict.fromkeys(("outer_steps", "best_step"), schema.COUNT),
    "valid_accuracy": schema.FIGURE,
    "accuracy": schema.OBJECT,
    **{f"accuracy/{name}": kind for name, kind in (schema.SCORES | schema.BEFORE).items()},
}
_NEEDS = {"model/input_shape", "model/num_classes", *(name for name in _HEADER if name.startswith("accuracy/"))}


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

    def require(self, names: Iterable[str], path: str | os.PathLike[str] = "the artefact") -> None:
        """Sees to it that a header can be used: before anything of it is.

        Args:
          names: entries that it must have; see `save_artifact`.
          path: what messages call the artefact.

        Raises:
          InputError: one is missing, is not of its kind or in its range, or is not of the sizes of the tensors.
        """
        missing = [name for name in names if name not in self.metadata]
        if missing:
            raise InputError(
                f"{path}: the 'ddjax' header lacks {', '.join(missing)}: save it with that (see ddjax.save_artifact), or "
                "distill it again"
            )
        try:
            schema.check(self.metadata, _HEADER, _NEEDS)
            self._require_sizes()
            if "recipe" in names:
                Recipe.from_json(self.metadata["recipe"]).validate()
        except ValueError as error:
            raise InputError(f"{path}: the 'ddjax' header misstates something ({error}): {_AGAIN}") from error

    def _require_sizes(self) -> None:
        shape, classes = list(self.distilled.images.shape[2:]), self.distilled.labels.shape[-1]
        model = self.metadata.get("model", {"input_shape": shape, "num_classes": classes})
        if (model["input_shape"], model["num_classes"]) != (shape, classes):
            raise ValueError(
                f"images {shape} of {classes} classes, but its model reads {model['input_shape']} of {model['num_classes']}"
            )
        for name, size in (("class_names", classes), ("feature_names", shape[0])):
            if name in self.metadata and len(self.metadata[name]) != size:
                raise ValueError(f"{name!r} has {len(self.metadata[name])} entries, but there are {size}")


def save_artifact(
    path: str | os.PathLike[str], distilled: DistilledData, metadata: Mapping[str, Any], params: Any = None
) -> None:
    """Writes an artefact, whole or not at all.

    Args:
      path: file to write; one that exists is replaced.
      distilled: data whose `labels` are probabilities.
      metadata: JSON-serialisable, and it may be empty. To evaluate the file takes `recipe` (`Recipe.to_json()`, which tells the
        data set among other things), `transform` (`Transform.to_json()`, what is done to inputs before the network reads
        them) and `model` ({"input_shape": [...], "num_classes": K}); to plot it `recipe`, `transform` and `class_names`, K
        strings.
      params: initial weights, a nested dict of arrays, where they are fixed.

    Raises:
      InputError: values are not finite in float32, or learning rates not above zero: nothing would read such a file.
      StorageError: the file cannot be written.
    """
    tensors = {
        "images": np.asarray(distilled.images, np.float32),
        "labels": np.asarray(distilled.labels, np.float32),
        "learning_rates": np.exp(np.asarray(distilled.log_lrs, np.float32)),
    }
    if params is not None:
        tensors |= tensorfile.named("params", params)
    tensors = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    _require_usable(Path(path), tensors)
    tensorfile.write(Path(path), tensors, metadata)


def artifact_file(path: str | os.PathLike[str]) -> Path:
    """The artefact's file, where `path` is that file or the folder of a run.

    Raises:
      InputError: there is none.
    """
    path = Path(path)
    if not is_file(path):
        path = path / FILE_NAME if os.path.isdir(path) else path
    if not is_file(path):
        raise InputError(f"no artefact at {path}: give the folder of a finished run or a {FILE_NAME} file")
    return path


def load_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Reads an artefact, from its file or from the folder of a run; one of format version 1 as if it were of this one.

    Raises:
      InputError: no such file, damaged or not safetensors, not a ddjax artefact, of a newer format or inconsistent.
    """
    path = artifact_file(path)
    tensors, metadata = tensorfile.read(path, _AGAIN)
    if metadata["format_version"] == 1:
        metadata = _from_version_1(path, metadata)
    return Artifact(_distilled(path, tensors), metadata, tensorfile.nested("params", tensors, path, _AGAIN))


def _from_version_1(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Settings in one flat object, with "" for None; mean and std by themselves, and no other transform; of the pool its source
    alone."""
    found = dict(metadata)
    try:
        if "recipe" in found:
            found["recipe"] = Recipe.from_json(found["recipe"]).to_json()
        if "mean" in found:
            found["transform"] = {"kind": "standardise", "mean": found.pop("mean"), "std": found.pop("std")}
    except (InputError, TypeError, KeyError) as error:
        raise InputError(f"{path} has a damaged 'ddjax' header ({error}): {_AGAIN}") from error
    if isinstance(found.get("pool"), str):
        found["pool"] = {"data_source": found["pool"]}
    return found


def _distilled(path: Path, tensors: dict[str, Any]) -> DistilledData:
    names = ("images", "labels", "learning_rates")
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"{path} lacks the tensors {', '.join(missing)}: {_AGAIN}")
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
    _require_usable(path, tensors)
    return DistilledData(images, labels, np.log(lrs))


def _require_usable(path: Path, tensors: dict[str, Any]) -> None:
    usable = all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors.values())
    if not (usable and (tensors["learning_rates"] > 0).all()):
        raise InputError(f"{path} holds values that are not finite float32, or learning rates that are not above zero")
