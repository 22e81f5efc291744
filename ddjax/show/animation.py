"""The distilled pictures as they came about, as an animated GIF."""

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageDraw

from ddjax.storage.frames import read_frames

_COLUMNS, _GAP, _SIDE, _LINE = 10, 2, 64, 14  # pictures in a row; pixels
_EACH, _LAST = 120, 2500  # milliseconds


def animate(frames: Path, path: Path | IO[bytes]) -> bool:
    """Draws `frames.npz` as a GIF, each frame with its outer step; whether there was more than one frame to draw."""
    steps, pictures = read_frames(frames)
    if len(steps) < 2 or not pictures.size:
        return False
    drawn = [_sheet(step, frame) for step, frame in zip(steps, pictures, strict=True)]
    durations = [_EACH] * (len(drawn) - 1) + [_LAST]
    drawn[0].save(path, format="GIF", save_all=True, append_images=drawn[1:], duration=durations, loop=0)
    return True


def _sheet(step: int, pictures: np.ndarray) -> Image.Image:
    """Pictures [n, H, W, C] in rows of ten, enlarged by a whole number, under the number of the outer step."""
    count, height, width, channels = pictures.shape
    times = max(1, _SIDE // max(height, width))
    rows, columns = -(-count // _COLUMNS), min(count, _COLUMNS)
    cell = (height * times + _GAP, width * times + _GAP)
    mode, white = ("L", 255) if channels == 1 else ("RGB", (255, 255, 255))
    sheet = Image.new(mode, (columns * cell[1], rows * cell[0] + _LINE), white)
    ImageDraw.Draw(sheet).text((2, 1), f"outer step {step}", fill=0 if channels == 1 else (0, 0, 0))
    for number, picture in enumerate(pictures):
        large = picture.repeat(times, axis=0).repeat(times, axis=1)
        row, column = divmod(number, columns)
        sheet.paste(
            Image.fromarray(large[..., 0] if channels == 1 else large), (column * cell[1], _LINE + row * cell[0])
        )
    return sheet
