"""Pictures of a run: beside the distilled images (see `images`) the curve of the outer loop, learning rates, classes, rows."""

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from ddjax.recipes import Recipe
from ddjax.show.animation import animate
from ddjax.show.images import DPI, as_text, plot_images as plot_images
from ddjax.storage.artifact import PLOT_NEEDS, Artifact

_MANY, _MANY_EPOCHS = 60, 10  # learning rates that have room beside each other, and names of epochs


def plot_curve(metrics: list[dict[str, Any]], path: Path | IO[bytes]) -> None:
    """Outer loss, and accuracy on held-out training data, against outer steps."""
    steps = [row["step"] for row in metrics]
    fig = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = fig.subplots(1, 2)
    left.plot(steps, [row["loss"] for row in metrics], label="training batches")
    left.plot(steps, [row["valid_loss"] for row in metrics], label="held-out")
    left.set(xlabel="outer step", ylabel="loss at the end of the inner loop", yscale="log")
    low, high = left.get_ylim()
    if high < 10 * low:  # within a decade a logarithmic axis has hardly a label, and they are powers of ten
        left.set_yscale("linear")
    for key, label in (
        ("valid_accuracy", "iterate"),
        ("valid_accuracy_average", "average of iterates"),
        ("best_valid_accuracy", "best so far"),
    ):
        right.plot(steps, [100 * row.get(key, math.nan) for row in metrics], label=label)
    right.set(xlabel="outer step", ylabel="held-out accuracy, %")
    for axis in (left, right):
        _finish(axis)
    fig.savefig(path, dpi=DPI)


def _finish(axis: Axes) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def plot_learning_rates(artifact: Artifact, path: Path | IO[bytes]) -> None:
    """The learned learning rate of each inner step, epoch after epoch, in one line where an epoch is one step; of very many
    epochs or steps as a map of both."""
    lrs = np.exp(artifact.distilled.log_lrs)
    epochs, steps = lrs.shape
    if min(epochs, steps) > 1 and (lrs.size > _MANY or epochs > _MANY_EPOCHS):
        return _plot_rates_as_map(lrs, path)
    fig = Figure(figsize=(min(max(4, 0.15 * lrs.size + 2), 12), 3.2), layout="constrained")
    axis = fig.subplots()
    lines = lrs if steps > 1 or epochs == 1 else lrs.T
    for number, (at, line) in enumerate(zip(np.split(np.arange(1, lrs.size + 1), len(lines)), lines, strict=True), 1):
        axis.plot(at, line, "o-", label=f"epoch {number}" if len(lines) == epochs else "one step an epoch")
    axis.axhline(
        Recipe.from_json(artifact.metadata["recipe"]).inner.inner_lr,
        color="gray",
        linewidth=0.8,
        linestyle="--",
        label="initial value",
    )
    axis.set(xlabel="inner step", ylabel="learning rate", yscale="log")
    axis.set_xlim(0.5, lrs.size + 0.5)  # a lone step would otherwise get an axis of fractions
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(axis)
    fig.savefig(path, dpi=DPI)


def _plot_rates_as_map(lrs: np.ndarray, path: Path | IO[bytes]) -> None:
    fig = Figure(figsize=(9, min(2 + 0.25 * len(lrs), 9)), layout="constrained")
    axis = fig.subplots()
    epochs, steps = lrs.shape
    extent = (0.5, steps + 0.5, epochs + 0.5, 0.5)
    shown = axis.imshow(lrs, norm="log", aspect="auto", interpolation="nearest", cmap="viridis", extent=extent)
    axis.set(xlabel="step", ylabel="epoch")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    fig.colorbar(shown, label="learning rate")
    fig.savefig(path, dpi=DPI)


def plot_run(artifact: Artifact, metrics: list[dict[str, Any]], folder: Path, frames: Path | None = None) -> list[Path]:
    """Draws every picture there is something for into `folder` and returns their paths; `frames` is a run's `frames.npz`."""
    artifact.require(PLOT_NEEDS)
    paths = [folder / "images.png", folder / "learning_rates.png"]
    plot_images(artifact, paths[0])
    plot_learning_rates(artifact, paths[1])
    if metrics:
        paths.append(folder / "curve.png")
        plot_curve(metrics, paths[-1])
    if frames is not None and animate(frames, folder / "training.gif"):
        paths.append(folder / "training.gif")
    return paths


def plot_confusion(confusions: np.ndarray, names: list[str], path: Path | IO[bytes]) -> None:
    """Which class is taken for which, before training and after it, in percent of each class.

    confusions: int [nets, points, K, K], of which the first point is before training, the last after it.
    """
    shares = 100 * confusions / np.maximum(confusions.sum(axis=-1, keepdims=True), 1)
    names = as_text(names)
    size = min(max(2.2, 0.32 * len(names)), 9)
    fig = Figure(figsize=(2 * size + 1.4, size + 1), layout="constrained")
    axes = fig.subplots(1, 2)
    for axis, what, share in zip(axes, ("before", "after"), shares[:, [0, -1]].mean(axis=0), strict=True):
        shown = axis.imshow(share, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
        if len(names) <= 20:
            axis.set_xticks(range(len(names)), names, fontsize=7, rotation=60, ha="right")
            axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set(title=f"{what} training", xlabel="taken for", ylabel="class")
    fig.colorbar(shown, ax=axes, label="% of the class")
    fig.savefig(path, dpi=DPI)


def plot_poisoning(poisoning: dict[str, Any], path: Path | IO[bytes]) -> None:
    """What `poisoning_summary` says, as bars before and after, with deviations over networks."""
    attack = f"{poisoning['from']} taken for {poisoning['to']}"
    bars = {"overall": "true labels", "modified": "modified labels", "attacked": attack}
    fig = Figure(figsize=(6, 2.8), layout="constrained")
    axis = fig.subplots()
    for i, when in enumerate(("before", "after")):
        means, deviations = ([poisoning[when][f"{name}_{kind}"] for name in bars] for kind in ("mean", "std"))
        axis.bar(np.arange(len(bars)) + 0.4 * i - 0.2, means, 0.38, yerr=deviations, capsize=3, label=when)
    axis.set_xticks(range(len(bars)), list(bars.values()))
    axis.set(ylabel="% of the test examples", ylim=(0, 122), yticks=range(0, 101, 20))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)
    fig.savefig(path, dpi=DPI)


def plot_ablation(points: list[dict[str, Any]], path: Path | IO[bytes]) -> None:
    """Accuracy against what `row` counts ("S = 5"), one line a column, with the deviation over networks.

    points: rows of `paper.json` that are measured.
    """
    fig = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = fig.subplots()
    for column in dict.fromkeys(point["column"] for point in points):
        own = [point for point in points if point["column"] == column]
        x = [int(point["row"].split(" = ")[1]) for point in own]
        y, spread = ([point[key] for point in own] for key in ("ours_mean", "ours_std"))
        axis.errorbar(x, y, yerr=spread if any(spread) else None, fmt="o-", capsize=3, label=column)
    table = points[0]["table"].removeprefix("Figure: ")
    axis.set(xlabel=table, ylabel="test accuracy, %", xscale="log")
    axis.set_xticks(sorted({int(point["row"].split(" = ")[1]) for point in points}))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    _finish(axis)
    fig.savefig(path, dpi=DPI)
