"""Curves and pictures of a run for TensorBoard, by tensorboardX (the extra `tensorboard`)."""

from pathlib import Path
from typing import Any

import numpy as np

from ddjax.errors import InputError


class Board:
    """Writes every row of `metrics.jsonl`, under its own names, and the pictures beside it into a folder of events.

    A run that is resumed hides what was written of steps that it takes again.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard needs tensorboardX: pip install 'ddjax[tensorboard]', or leave it out"
            ) from None
        self._make, self._folder = SummaryWriter, folder
        self._writer: Any = None

    def __call__(self, row: dict[str, Any], pictures: np.ndarray | None) -> None:
        """A validation's row, and its pictures uint8 [n, H, W, C] or none."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=row["step"], flush_secs=5)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])
        if pictures is not None:
            self._writer.add_images("distilled", pictures, row["step"], dataformats="NHWC")

    def close(self) -> None:
        """Waits until all is written: tensorboardX writes in a thread of its own."""
        if self._writer is not None:
            self._writer.close()
