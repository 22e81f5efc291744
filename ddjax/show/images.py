"""The distilled examples as one figure: pictures, rows of a table, sequences or curves, with their classes and learning rates.

Figures are made without pyplot, which keeps a process-wide state, a backend among it, that is the user's own.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddjax.data import transform_for
from ddjax.storage.artifact import Artifact

DPI = 120
_MOST, _MOST_STEPS = 200, 20  # examples and steps in one figure
_TABLE = 64  # columns that still have room for their values


def plot_images(artifact: Artifact, path: Path | IO[bytes]) -> None:
    """One row a step, one column an example, with its class; learning rates of the step's epochs at the left.

    Examples of a table of up to 64 columns are its rows instead: values in the table's own units, coloured as the network
    reads them.

    A step of more than 20 examples takes several rows of ten. Of very many steps 20 are drawn, and of their examples so many
    that they are 200 in all, both evenly spaced. Pictures are shown as they were before the transform. Distilled pixels leave
    the range of real ones, so each step is scaled to its own 1st to 99th percentile. What is no picture is drawn as the network
    reads it, on one scale a step: a sequence [L, D] as a map, from left to right; anything else as a curve over its values, and
    zero.
    """
    images, labels, log_lrs = artifact.distilled
    if images.ndim == 3 and images.shape[-1] <= _TABLE:
        return _plot_table(artifact, path)
    names = as_text(artifact.metadata["class_names"])
    transform = transform_for(artifact.metadata["transform"], images.shape[2:])
    drawn_steps, drawn = _some(*images.shape[:2])
    steps, count = len(drawn_steps), len(drawn)
    columns = count if count <= 20 else 10
    lines = -(-count // columns)  # rows that one step takes
    pictures = images.ndim == 5 and images.shape[-1] in (1, 3)
    width, height = (1.0, 1.28) if pictures else (1.5, 1.1)
    fig = Figure(figsize=(columns * width + 1.3, steps * lines * height + 0.3), layout="constrained")
    axes = fig.subplots(steps * lines, columns, squeeze=False)
    for row, step in enumerate(drawn_steps):
        some = np.asarray(images[step])[drawn]
        shown = transform.inverse(some) if pictures else some
        low, high = np.percentile(shown, (1, 99) if pictures else (0, 100))
        places = axes[row * lines : (row + 1) * lines].ravel()
        for axis in places[count:]:
            axis.set_axis_off()
        for axis, example, label in zip(places, np.asarray(shown), np.asarray(labels[step])[drawn], strict=False):
            _draw(axis, example, low, max(high, low + 1e-12), pictures)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(_label(label, names), fontsize=8, pad=2)
        lrs = _rates(log_lrs[:, step])
        part = f"\n{count} of {images.shape[1]}" if count < images.shape[1] else ""
        places[0].set_ylabel(f"step {step + 1}{part}\nlr {lrs}", fontsize=7, rotation=0, ha="right", va="center")
    fig.savefig(path, dpi=DPI)


def _some(steps: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The steps, and the examples of each, that are drawn: what a figure takes grows with the square of their number."""
    drawn_steps = _evenly(steps, _MOST_STEPS)
    return drawn_steps, _evenly(count, max(1, _MOST // len(drawn_steps)))


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _plot_table(artifact: Artifact, path: Path | IO[bytes]) -> None:
    images, labels, log_lrs = artifact.distilled
    steps, count, columns = images.shape
    drawn_steps, drawn = _some(steps, count)
    steps, count, images, labels = (
        len(drawn_steps),
        len(drawn),
        images[drawn_steps][:, drawn],
        labels[drawn_steps][:, drawn],
    )
    log_lrs = log_lrs[:, drawn_steps]
    rows = np.asarray(images).reshape(-1, columns)
    values = np.asarray(transform_for(artifact.metadata["transform"], images.shape[2:]).inverse(rows))
    names = as_text(artifact.metadata.get("feature_names") or map(str, range(columns)))
    class_names = as_text(artifact.metadata["class_names"])
    fig = Figure(figsize=(0.62 * columns + 3.2, 0.26 * len(rows) + 1.8), layout="constrained")
    axis = fig.subplots()
    bound = max(float(np.abs(rows).max()), 1e-12)
    shown = axis.imshow(rows, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        dark = abs(rows[row, column]) > 0.6 * bound
        axis.text(column, row, _short(value), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    classes = [_label(label, class_names, ", ") for label in np.asarray(labels).reshape(len(rows), -1)]
    rates = [_rates(log_lrs[:, step]) for step in range(steps)]
    beside = [
        f"step {drawn_steps[i // count] + 1}, lr {rates[i // count]}: " if i % count == 0 else ""
        for i in range(len(rows))
    ]
    axis.set_yticks(range(len(rows)), [a + b for a, b in zip(beside, classes, strict=True)], fontsize=7)
    axis.set_xticks(range(columns), names, fontsize=7, rotation=40, ha="right")
    fig.colorbar(shown).set_label("as the network reads it", fontsize=7)
    fig.savefig(path, dpi=DPI)


def as_text(names: Iterable[str]) -> list[str]:
    """Names as they are written: matplotlib would set what stands between two $ as mathematics."""
    plain = ("".join(c if c.isprintable() else "?" for c in str(name)) for name in names)
    return [name.replace("$", r"\$")[:40] for name in plain]


def _rates(log_lrs_E: Any) -> str:
    lrs = np.exp(np.asarray(log_lrs_E))
    return ", ".join(f"{lr:.3g}" for lr in lrs) if len(lrs) <= 6 else f"{lrs.min():.3g} to {lrs.max():.3g}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _draw(axis: Axes, example: np.ndarray, low: float, high: float, picture: bool) -> None:
    """One example, on a scale from low to high that its step shares."""
    if picture:
        shown = np.clip((example - low) / (high - low), 0, 1)
        axis.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
    elif example.ndim == 2:
        axis.imshow(example.T, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    else:
        axis.plot(example.ravel(), marker="." if example.size <= 64 else "", linewidth=0.8)
        axis.axhline(0, color="gray", linewidth=0.5)
        axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def _label(probabilities: np.ndarray, names: list[str], between: str = "\n") -> str:
    """The class of an example; with its share where that is not all, and the second where it has a tenth."""
    first, second = map(int, np.argsort(-probabilities, kind="stable")[:2])
    if probabilities[first] > 0.995:
        return names[first]
    shown = [k for k in (first, second) if k == first or probabilities[k] >= 0.1]
    return between.join(f"{names[k]} {probabilities[k]:.0%}" for k in shown)
