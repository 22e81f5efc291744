"""What of this machine a saved artefact may have opened or run: its header is a stranger's word, unless it was made here."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from ddjax.data import DATASETS, Dataset
from ddjax.data.prepared import data_root, find_prepared
from ddjax.errors import InputError
from ddjax.experiment.folder import Config
from ddjax.recipes import Recipe
from ddjax.storage import provenance
from ddjax.storage.files import is_file


def allowed(
    path: str | os.PathLike[str],
    recipe: Recipe,
    metadata: dict[str, Any],
    *,
    data: str | None,
    model: Any,
    data_dir: str | None,
    needs_start: bool,
) -> Recipe:
    """The recipe of an artefact with what is given in place of what it names, and files where they may be.

    A data set may be named; a file or folder of data, and a Python file with a network, only by the person, or by a run that
    lies in the folder where it was made. A pool of networks is known by its digest.

    Args:
      path: of the artefact; metadata: its header.
      data, model: what the person gives; None: nothing.
      data_dir: folder of prepared data sets.
      needs_start: whether weights to start from will be read from a pool or checkpoint.

    Raises:
      InputError: the header names a file that it has no business with.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    made_here = _made_here(folder, recipe)
    named = recipe.data.data
    if data is None and not (made_here or _is_name(named, data_dir)):
        raise InputError(f"{path} was distilled from a file or folder, {named!r}: say where that is with --data")
    if model is None and ".py:" in recipe.network.model and not made_here:
        raise InputError(
            f"{path} names a network in a Python file, {recipe.network.model!r}, which would be run: if you trust it, give it "
            "with --model"
        )
    if needs_start and recipe.network.checkpoint and not made_here:
        raise InputError(f"{path} holds no weights, and names a file of them: copy or distill it again")
    recipe = recipe.replace(data=data or named)
    digest = (metadata.get("pool") or {}).get("digest")
    if not (needs_start and recipe.network.pool) or (
        made_here and digest is None
    ):  # of before pools were known by digests
        return recipe
    return recipe.replace(pool=str(_pool(path, folder, recipe.network.pool, digest)))


def digest_of_data(dataset: Dataset) -> str:
    """The digest of all examples of a data set and their classes."""
    return provenance.digest((dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test))


def require_same_data(path: str | os.PathLike[str], metadata: dict[str, Any], digest: str, data: str | None) -> None:
    """Raises InputError where a data set is not what an artefact was distilled from, unless the person gave it."""
    told = metadata.get("data_digest")
    if data is None and told is not None and told != digest:
        raise InputError(
            f"{path} was distilled from other data of this name (digest {told} there, {digest} here): to use these all the "
            "same, give them with --data"
        )


def _made_here(folder: Path, recipe: Recipe) -> bool:
    try:
        begun = Config.read(folder).recipe
    except InputError:
        return False
    same = dataclasses.replace(begun, outer=recipe.outer, report=recipe.report)  # which a run may be prolonged in
    return same == recipe


def _is_name(name: str, data_dir: str | None) -> bool:
    if name in DATASETS:
        return True
    return re.fullmatch(r"\w{1,100}", name) is not None and find_prepared(name, data_root(data_dir)) is not None


def _pool(path: str | os.PathLike[str], folder: Path, pool: str, digest: str | None) -> Path:
    """Where the pool of this digest lies: where the header says, or beside the artefact."""
    places = [Path(pool), folder / Path(pool).name]
    for place in places:
        if is_file(place) and provenance.digest_of_file(place) == digest:
            return place
    where = " and ".join(str(place) for place in dict.fromkeys(places))
    raise InputError(
        f"{path} starts from a pool of networks with digest {digest}, which is not in {where}: put it there"
    )
