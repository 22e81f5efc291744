"""A user's own pictures in a folder, one folder a class."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.arrays import checked_dataset, fail, split_off
from ddjax.data.dataset import Dataset
from ddjax.data.mapped import filled
from ddjax.data.pictures import Shape, converted
from ddjax.errors import InputError


def load_folder(path: Path, shape: Shape | None = None) -> Dataset:
    """Reads a data set from a folder of pictures.

    `path/train/CLASS/*` and `path/test/CLASS/*` are the two parts; without them every folder in `path` is a class, and a fifth
    of each, the same in every run, is the test part. Classes are in the order of their names. Files and folders whose names
    begin with a dot are left out, and so are files with an ending that Pillow does not know. Pictures are turned as their
    camera says, grey if every one of them is, else RGB (transparency is dropped), uint8.

    Args:
      path: the folder.
      shape: (height, width, channels) to bring all pictures to; None: they have one size already.

    Raises:
      InputError: no such folder, no classes or only one, a class without pictures or missing in one part, a picture that
        cannot be read, or pictures of several sizes and no shape.
    """
    where = str(path)
    parts = [part for part in ("train", "test") if (path / part).is_dir()]
    if len(parts) == 1:
        fail(where, f"there is {parts[0]}/ alone", "give train/ and test/, or folders of classes, which are split")
    found = {part: _classes(path / part) for part in parts} or {"": _classes(path)}
    names = sorted(set().union(*found.values()))
    if len(names) < 2:
        what = f"the only class is {names[0]!r}" if names else "there are no folders of pictures in it"
        fail(where, what, "give one folder of pictures a class")
    for part, classes in found.items():
        if missing := [name for name in names if not classes.get(name)]:
            place = f" in {part}/" if part else ""
            fail(where, f"class {missing[0]!r} has no pictures{place}", "add some, or take the folder away")
    files = {part: [file for name in names for file in classes[name]] for part, classes in found.items()}
    labels = {part: np.repeat(np.arange(len(names)), [len(c[name]) for name in names]) for part, c in found.items()}
    mode = _mode(where, [file for part in files.values() for file in part], shape)
    arrays: dict[str, np.ndarray] = {"class_names": np.array(names)}
    for part in files:
        arrays[f"x_{part}"] = _read(where, files[part], mode, shape)
        arrays[f"y_{part}"] = labels[part]
    if not parts:
        arrays |= split_off(where, arrays.pop("x_"), arrays.pop("y_"))
    return checked_dataset(arrays, name=path.resolve().name, where=where, source=str(path.resolve()))


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class."""
    from PIL import Image

    known = Image.registered_extensions()

    def pictures(within: Path) -> list[Path]:
        files = (file for file in within.rglob("*") if file.suffix.lower() in known and file.is_file())
        return sorted(file for file in files if not _hidden(file.relative_to(within)))

    return {child.name: pictures(child) for child in _visible(folder.iterdir()) if child.is_dir()}


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _visible(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if not path.name.startswith("."))


def _mode(where: str, files: list[Path], shape: Shape | None) -> str:
    """Pillow's mode for all of them, from their headers alone; fails where they are of several sizes and no shape is given."""
    if shape is not None:
        return "L" if shape[2] == 1 else "RGB"
    first: tuple[Path, tuple[int, int]] | None = None
    grey = True
    for file in files:
        with _opened(where, file) as picture:
            grey &= picture.mode in ("1", "L", "I", "I;16", "F")
            size = picture.size[::-1] if picture.getexif().get(_TURN, 1) >= 5 else picture.size
        first = first or (file, size)
        if size != first[1]:
            sizes = " and ".join(f"{f.relative_to(where)} has {h}x{w}" for f, (w, h) in (first, (file, size)))
            fail(where, f"{sizes} pixels", "give the shape to bring them to, such as --pictures 32x32x3")
    return "L" if grey else "RGB"


_TURN = 0x0112  # EXIF's tag of how a camera was held; from 5 on sides change places


@contextmanager
def _opened(where: str, file: Path) -> Iterator[Any]:
    """Pillow's image of a file; what goes wrong while it is read is told in one line."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            yield picture
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        fail(where, f"{file.relative_to(where)} cannot be read ({error})", "repair or remove it")


def _read(where: str, files: list[Path], mode: str, shape: Shape | None) -> np.ndarray:
    """[N, H, W, C] uint8."""
    from PIL import ImageOps

    def pictures() -> Iterator[np.ndarray]:
        for file in files:
            with _opened(where, file) as picture:
                array = np.asarray(ImageOps.exif_transpose(picture).convert(mode))
            array = array[..., None] if array.ndim == 2 else array
            yield array if shape is None else converted(array, shape)

    return filled(len(files), pictures())
