"""Arrays that are too large for the memory: mapped from where they lie in an .npz file, or into one that nobody else sees."""

import math
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data import memory

_HEADERS: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PIECE = 2**24  # bytes


def array_of(path: Path, archive: Any, name: str) -> Any:
    """One array of an archive that `np.load` opened from `path`.

    Read into memory where it takes no more than `memory.share` of it; else, where it is stored as it is, uncompressed and in
    C order as `np.savez` has it, memory-mapped once its checksum was found right.

    Raises:
      KeyError: there is none; and whatever NumPy raises on damaged ones.
    """
    members = {member.filename: member for member in archive.zip.infolist()}
    member = members.get(f"{name}.npy")
    if member is None or member.compress_type != zipfile.ZIP_STORED or memory.fits_host(member.file_size):
        return archive[name]
    with archive.zip.open(member) as content:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(content)](content)
        header = content.tell()
        while content.read(_PIECE):  # to the end, where the checksum is compared
            pass
    if fortran or dtype.hasobject or not shape:
        return archive[name]
    with path.open("rb") as file:  # what stands before a member has a length of its own in the file
        file.seek(member.header_offset)
        before = file.read(30)
    start = (
        member.header_offset + 30 + int.from_bytes(before[26:28], "little") + int.from_bytes(before[28:30], "little")
    )
    return np.memmap(path, dtype, "r", start + header, shape)


def filled(count: int, arrays: Iterable[np.ndarray]) -> np.ndarray:
    """So many arrays of one shape and type, one after the other, as one [count, ...].

    In memory where that takes no more than `memory.share` of it; else in a temporary file, in $TMPDIR, that is gone when the
    process is.
    """
    each = iter(arrays)
    first = next(each)
    shape = (count, *first.shape)
    if memory.fits_host(math.prod(shape) * first.itemsize):
        result: np.ndarray = np.empty(shape, first.dtype)
    else:
        with tempfile.TemporaryFile(prefix="ddjax.") as file:
            result = np.memmap(file, first.dtype, "w+", shape=shape)
    result[0] = first
    for i, array in zip(range(1, count), each, strict=True):
        result[i] = array
    return result
