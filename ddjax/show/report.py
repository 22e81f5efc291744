"""A run as one page of HTML that needs nothing beside it, and a gallery of many."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.recipes import Recipe
from ddjax.show import markup, plots
from ddjax.show.animation import animate
from ddjax.storage.artifact import PLOT_NEEDS, Artifact

_LONG = 1000  # characters
_USE = """import json
from safetensors import safe_open
from safetensors.numpy import load_file  # or safetensors.torch

tensors = load_file("distilled.safetensors")
images, labels, learning_rates = (tensors[name] for name in ("images", "labels", "learning_rates"))
# {images}, {labels}, {rates}
with safe_open("distilled.safetensors", framework="numpy") as file:
    story = json.loads(file.metadata()["ddjax"])  # story["transform"] is what real data go through

for e in range({epochs}):
    for s in range({steps}):  # {optimiser}
        weights -= learning_rates[e, s] * gradient(cross_entropy(network(weights, images[s]), labels[s]))"""


@dataclass(frozen=True)
class Told:
    """What a page tells of one run.

    Attributes:
      artifact: what was distilled; where: the path that the page names it by.
      summary: its `summary.json`; metrics: its rows; origins: where it was made, see `provenance.origin`: empty where there
        is only the artefact.
      frames: path of `frames.npz`, of which an animation is made; None, or a path where there is none, makes none.
      confusions: int [nets, points, K, K] on test data, see `evaluation.scoring.confusion`; None where it was not measured.
    """

    artifact: Artifact
    where: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[dict[str, Any]] = ()
    origins: Sequence[dict[str, Any]] = ()
    confusions: np.ndarray | None = None
    frames: Path | None = None


def page(told: Told) -> str:
    """The whole page.

    Raises:
      InputError: the artefact's header lacks what pictures need.
    """
    told.artifact.require(PLOT_NEEDS)
    parts = [_head(told), _pictures(told), _classes(told), _course(told), _use(told), _settings(told), _origins(told)]
    return markup.document(_name(told), "\n".join(filter(None, parts)))


def gallery(runs: Sequence[tuple[Told, str]], title: str) -> str:
    """A table of runs, each with the link to its own page; the pictures are in it."""
    rows = []
    for told, link in runs:
        told.artifact.require(PLOT_NEEDS)
        what, figures = _what(told.artifact), dict(_figures(told))
        name = f'<a href="{markup.text(link)}">{markup.text(_name(told))}</a>'
        cells = (
            f"{name}<br>{markup.text(what)}",
            *(markup.text(figures.get(key, "")) for key in ("before", "distilled")),
        )
        image = markup.picture(partial(plots.plot_images, told.artifact), f"images of {_name(told)}")
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in (*cells, image)) + "</tr>")
    head = "<tr><th>run</th><th>before, %</th><th>distilled, %</th><th></th></tr>"
    return markup.document(title, f'<h1>{markup.text(title)}</h1><table class="runs">{head}{"".join(rows)}</table>')


def _name(told: Told) -> str:
    return str(told.artifact.metadata.get("name") or Path(told.where).name)


def _what(artifact: Artifact) -> str:
    images, lrs = artifact.distilled.images, artifact.distilled.log_lrs
    steps, count = images.shape[:2]
    data, network = artifact.metadata.get("data", "?"), artifact.metadata.get("model", {}).get("name", "?")
    taken = f"{_count(len(lrs), 'epoch')} of {_count(steps, 'step')} on {_count(count, 'example')} each"
    return f"{_count(steps * count, 'distilled example')} of {data} for {network}: {taken}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _spread(figures: Mapping[str, Any], name: str = "accuracy") -> str:
    several = figures.get("num_nets", 1) > 1
    return f"{figures[f'{name}_mean']:.2f}" + (f" ± {figures[f'{name}_std']:.2f}" if several else "")


def _figures(told: Told) -> list[tuple[str, str]]:
    scores = told.artifact.metadata.get("accuracy") or {}
    found = []
    if scores:
        found = [("before", _spread(scores, "accuracy_before")), ("distilled", _spread(scores))]
    for key, what in (("random_real", "random real"), ("all_data", "all the data")):
        if key in told.summary:
            found.append((what, _spread(told.summary[key])))
    return found


def _head(told: Told) -> str:
    cards = "".join(
        f"<div{' class=main' if what == 'distilled' else ''}><b>{markup.text(figure)}</b>{markup.text(what)}</div>"
        for what, figure in _figures(told)
    )
    count = f"{told.summary['num_test']} test examples" if told.summary else "the test examples"
    labels = " by the poison's labels" if Recipe.from_json(told.artifact.metadata["recipe"]).data.poison else ""
    tested = f"Accuracy on {count}{labels}, %:"
    figures = f'<p>{tested}</p><div class="figures">{cards}</div>' if cards else ""
    return f"<h1>{markup.text(_name(told))}</h1><p>{markup.text(_what(told.artifact))}</p>{figures}"


def _pictures(told: Told) -> str:
    images = markup.picture(partial(plots.plot_images, told.artifact), "the distilled examples")
    log_lrs = told.artifact.distilled.log_lrs
    if log_lrs.size == 1:
        return f"<h2>Distilled examples</h2>{images}<p>Learning rate of the one step: {np.exp(log_lrs).item():.4g}.</p>"
    rates = markup.picture(partial(plots.plot_learning_rates, told.artifact), "the learned learning rates")
    return f"<h2>Distilled examples</h2>{images}<h2>Learning rates</h2>{rates}"


def _classes(told: Told) -> str:
    """Accuracy class by class before and after, and which class is taken for which; what a poison does."""
    poisoned, parts = told.summary.get("poisoning"), []
    if poisoned:
        picture = markup.picture(partial(plots.plot_poisoning, poisoned), "what the poison does")
        parts.append(f"<h2>Poisoning</h2>{picture}")
    if told.confusions is not None:
        names, counts = told.artifact.metadata["class_names"], told.confusions
        shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
        mean = 100 * shares[:, [0, -1]].mean(axis=0)
        rows = [
            (name, int(counts[0, 0, k].sum()), *(f"{point[k, k]:.1f}" for point in mean))
            for k, name in enumerate(names)
        ]
        table = markup.table(rows, ("class", "test examples", "before, %", "after, %"), numbers=3)
        heat = markup.picture(partial(plots.plot_confusion, counts, names), "which class is taken for which")
        parts.append(f"<h2>Classes</h2>{heat}{table}")
    return "".join(parts)


def _course(told: Told) -> str:
    if not told.metrics:
        return ""
    curve = markup.picture(partial(plots.plot_curve, list(told.metrics)), "the outer loop")
    if told.frames is not None:
        curve += markup.picture(partial(animate, told.frames), "the distilled examples as they came about")
    summary, last = told.summary, told.metrics[-1]
    took = f"{last['step']} outer steps in {last['seconds']:.0f} s"
    best = f"; step {summary['best_step']} did best on held-out data and was kept" if summary else ""
    return f"<h2>The outer loop</h2><p>{markup.text(took + best)}.</p>{curve}"


def _use(told: Told) -> str:
    images, labels, log_lrs = told.artifact.distilled
    inner = Recipe.from_json(told.artifact.metadata["recipe"]).inner
    code = _USE.format(
        images=list(images.shape),
        labels=list(labels.shape),
        rates=list(log_lrs.shape),
        epochs=log_lrs.shape[0],
        steps=log_lrs.shape[1],
        optimiser="plain gradient descent" if inner.direction == "gd" else f"by {inner.direction}",
    )
    fixed = told.artifact.params is not None
    fresh = (
        "that was trained before (pool)"
        if told.artifact.metadata.get("pool")
        else "with fresh weights (recipe, network)"
    )
    start = "from the weights in the file, and from no others" if fixed else f"as one of those {fresh}"
    command = f"ddjax train {told.where}"
    how = f"A network starts {start}, and takes the steps in this order. <code>{markup.text(command)}</code> does it."
    return f"<h2>How to use it</h2><p>{how}</p><pre>{markup.text(code)}</pre>"


def _settings(told: Told) -> str:
    recipe = told.artifact.metadata["recipe"]
    nested = {part: values if isinstance(values, dict) else {part: values} for part, values in recipe.items()}
    rows = [(n, v, part) for part, values in nested.items() for n, v in values.items() if v is not None]
    header = json.dumps(_shortened(told.artifact.metadata), indent=1, ensure_ascii=False)
    whole = f"<details><summary>The whole header</summary><pre>{markup.text(header)}</pre></details>"
    return f"<h2>Settings</h2>{markup.table(rows, ('setting', 'value', 'part'))}{whole}"


def _shortened(value: Any) -> Any:
    """The same, with what would fill pages, as matrices do, cut off."""
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    long = isinstance(value, str) and len(value) > _LONG
    return f"{value[:40]}... ({len(value)} characters)" if long else value


def _origins(told: Told) -> str:
    if not told.origins:
        return ""
    tables = [
        markup.table([(name, _in_words(value)) for name, value in origin.items()], ("made with", ""))
        for origin in told.origins
    ]
    return f"<h2>Where it comes from</h2>{''.join(tables)}"


def _in_words(value: Any) -> str:
    return ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
