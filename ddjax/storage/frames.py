"""`frames.npz`: what the first step's pictures looked like as a run went on, for an animation of it."""

import io
import zipfile
from pathlib import Path

import numpy as np

from ddjax.storage.files import write_whole

MOST = 60


class Frames:
    """The frames of a run that goes on from `step`: later ones are dropped. Of very many every second is left out."""

    def __init__(self, path: Path, step: int):
        self._path = path
        steps, frames = read_frames(path)
        self._kept = [(int(s), frame) for s, frame in zip(steps, frames, strict=True) if s <= step]

    def append(self, step: int, pictures: np.ndarray) -> None:
        """Pictures uint8 [n, H, W, C] after so many outer steps, unless the last ones are nearer than any others."""
        kept = self._kept[::2] if len(self._kept) == MOST else self._kept
        if len(kept) > 1 and step - kept[-1][0] < kept[1][0] - kept[0][0]:
            return
        self._kept = [*kept, (step, pictures)]
        steps, frames = (np.array(part) for part in zip(*self._kept, strict=True))
        file = io.BytesIO()
        np.savez_compressed(file, steps=steps, frames=frames)
        write_whole(self._path, file.getvalue())


def read_frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Outer steps int [F], and pictures uint8 [F, n, H, W, C]; none where there is no file, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as held:
            steps, frames = held["steps"], held["frames"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        steps, frames = np.zeros(0, np.int64), np.zeros((0, 0, 1, 1, 1), np.uint8)
    good = steps.ndim == 1 and frames.ndim == 5 and frames.dtype == np.uint8 and len(steps) == len(frames)
    return (steps, frames) if good else (np.zeros(0, np.int64), np.zeros((0, 0, 1, 1, 1), np.uint8))
