"""`frames.npz`: what the first step's pictures looked like as a run went on, for an animation of it."""

import io
from pathlib import Path

import numpy as np

from ddjax.storage.archive import read_arrays
from ddjax.storage.files import write_whole

MOST = 60
_NONE = np.zeros(0, np.int64), np.zeros((0, 0, 1, 1, 1), np.uint8)


class Frames:
    """The frames of a run that goes on from `step`: later ones are dropped. Of very many every second is left out."""

    def __init__(self, path: Path, step: int):
        self._path = path
        steps, frames = read_frames(path)
        self._kept = [(int(s), frame) for s, frame in zip(steps, frames, strict=True) if s <= step]

    def append(self, step: int, pictures: np.ndarray) -> None:
        """Pictures uint8 [n, H, W, C] after so many outer steps, unless the last ones are nearer than any others."""
        alike = [(taken, frame) for taken, frame in self._kept if frame.shape == pictures.shape]
        kept = alike[::2] if len(alike) == MOST else alike
        if len(kept) > 1 and step - kept[-1][0] < kept[1][0] - kept[0][0]:
            return
        self._kept = [*kept, (step, pictures)]
        steps, frames = (np.array(part) for part in zip(*self._kept, strict=True))
        file = io.BytesIO()
        np.savez_compressed(file, steps=steps, frames=frames)
        write_whole(self._path, file.getvalue())


def read_frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Outer steps int [F], and pictures uint8 [F, n, H, W, C]; none where there is no file, or it is damaged."""
    held = read_arrays(path) or {}
    steps, frames = held.get("steps", _NONE[0]), held.get("frames", _NONE[1])
    good = (
        (steps.ndim, frames.ndim) == (1, 5)
        and len(steps) == len(frames)
        and frames.dtype == np.uint8
        and steps.dtype.kind in "iu"
        and frames.shape[-1] in (1, 3)
        and frames.size > 0
    )
    return (steps, frames) if good else _NONE
