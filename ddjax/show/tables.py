"""Tables for people."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ddjax.experiment.folder import Found
    from ddjax.experiment.forecast import Forecast


def summary_table(summary: dict[str, Any]) -> str:
    """The table at the end of a run: what the distilled data do, and what else the same steps could have done.

    Its title says whose test examples they are, and by which recipe where that goes by another name: "shapes, recipe digits".
    """
    distilled, images, steps = summary["distilled"], summary["images"], _count(summary["inner_steps"], "step")
    nets = _count(distilled["num_nets"], "network")
    rows = [
        ("before training", _percent(distilled["accuracy_before_mean"]), ""),
        (
            f"{images} distilled images, {steps}",
            _percent(distilled["accuracy_mean"], distilled["accuracy_std"], distilled["num_nets"]),
            nets,
        ),
    ]
    if poisoning := summary.get("poisoning"):
        rows = _poisoning_rows(poisoning)
    if "random_real" in summary:
        real, full = summary["random_real"], summary["all_data"]
        figure = _percent(real["accuracy_mean"], real["accuracy_std"], real["num_nets"])
        rows += [
            (f"{images} random real images, {steps}", figure, f"{_count(real['num_nets'], 'set')}, {real['chosen']}"),
            (
                f"all {summary['num_train']} training images",
                _percent(full["accuracy_mean"], full["accuracy_std"], full["num_nets"]),
                full["chosen"],
            ),
        ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    name, data = summary["name"], summary["data"]
    recipe = "" if name in (data, "custom") else f", recipe {name}"
    title = f"{data}{recipe}: accuracy on the {summary['num_test']} test examples, %"
    lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join([title, *lines])


def _poisoning_rows(poisoning: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Before and after the poison: the whole test set by its true and its modified labels, and the attacked class."""
    rows, count = [], poisoning["num_nets"]
    attack = f"{poisoning['from']}s taken for {poisoning['to']}s"
    for name, what in (("overall", "true labels"), ("modified", "modified labels"), ("attacked", attack)):
        for point in ("before", "after"):
            figures = poisoning[point]
            figure = _percent(figures[f"{name}_mean"], figures[f"{name}_std"], count)
            rows.append((f"{what}, {point}", figure, _count(count, "network")))
    return rows


def forecast_lines(told: "Forecast") -> str:
    """What a run will take, a line each."""
    copies = "1 copy" if told.copies == 1 else f"{told.copies} copies"
    whole = _time(told.outer_steps * told.seconds)
    each = f"{_si(told.operations)}FLOP, about {_time(told.seconds)}"
    rows = [
        ("distilled", f"{_count(told.images, 'image')} in {_count(told.inner_steps, 'inner step')}"),
        ("weights", f"{told.weights:,} in one network; its unroll keeps {copies} of them"),
        ("an outer step", f"{_count(told.num_nets, 'network')}, {each} on {_count(told.devices, 'device')}"),
        ("memory", f"about {_si(told.memory)}B{' a device' if told.devices > 1 else ''}"),
        ("in all", f"{told.outer_steps} outer steps, about {whole}; validations and tests come on top"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {what}" for name, what in rows)


def _si(number: float) -> str:
    """Three digits and a prefix: 1.23 G."""
    power = min(4, max(0, int(np.log10(max(number, 1)) // 3)))
    return f"{number / 1000**power:.3g} {['', 'k', 'M', 'G', 'T'][power]}"


def _time(seconds: float) -> str:
    for unit, length in (("hours", 3600.0), ("minutes", 60.0), ("s", 1.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def seeds_line(accuracies: Mapping[int, float]) -> str:
    """Test accuracies in percent by seed, and their mean and sample deviation."""
    figures = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies.values())
    mean, spread = statistics.mean(accuracies.values()), statistics.stdev(accuracies.values())
    return f"seeds {', '.join(map(str, accuracies))}: {figures}; {mean:.2f} ± {spread:.2f} %"


def pool_lines(metadata: dict[str, Any], path: str) -> str:
    """What a pool of networks holds, and how well they do."""
    accuracy, held_out = np.array(metadata["accuracy"]), metadata["test_nets"]
    lines = [f"{path}: networks trained on {metadata['data']}, accuracy on its test examples, %"]
    for name, part in (("to distil with", accuracy[held_out:]), ("held out", accuracy[:held_out])):
        lines.append(f"  {len(part):>5} {name:<14}  {_percent(part.mean(), part.std(), len(part))}")
    return "\n".join(lines)


def evaluation_lines(evaluation: Any, num_test: int) -> str:
    """One line a point of the inner loop: steps taken, accuracy, loss."""
    lines = [f"{_count(len(evaluation.accuracy), 'network')}, {num_test} test examples"]
    for step, accuracy, loss in evaluation.points():
        figure = _percent(accuracy.mean(), accuracy.std(), len(accuracy))
        of = "" if len(accuracy) == len(evaluation.accuracy) else f", of {_count(len(accuracy), 'network')}"
        lines.append(f"  after {_count(step, 'step'):>9}: {figure} %, loss {loss.mean():.4f}{of}")
    return "\n".join(lines)


def protocol_lines(scores: Mapping[str, Any]) -> str:
    """One line a network: test accuracy over how many, and the rate they were trained at."""
    rows = [
        (name, _percent(s.accuracy.mean(), s.accuracy.std(), len(s.accuracy)), s.chosen) for name, s in scores.items()
    ]
    wide = max(len(name) for name, _, _ in rows)
    count = _count(len(next(iter(scores.values())).accuracy), "fresh network")
    return "\n".join(
        [f"{count} each, by minibatches", *(f"  {name:<{wide}}  {figure} %, {rate}" for name, figure, rate in rows)]
    )


def runs_table(runs: Sequence["Found"], root: Path) -> str:
    """One line a run: where, what, how far, and its accuracies in percent; below them why any cannot be read."""
    if not runs:
        return f"no runs in {root}"
    lines: list[tuple[str, ...]] = [("run", "recipe", "data", "network", "outer steps", "time", "held out", "test")]
    for run in runs:
        where = str(run.folder.relative_to(root))
        if run.config is None:
            lines.append((where, "?", "", "", "cannot be read", "", "", ""))
            continue
        recipe = run.config.recipe
        steps = f"{run.step} of {recipe.outer.outer_steps}"
        seconds = f"{run.seconds:.0f} s" if run.seconds < 600 else f"{run.seconds / 60:.0f} min"
        scores = ("" if score is None else f"{score:.2f}" for score in (run.valid, run.test))
        lines.append((where, run.config.name, recipe.data.data, run.config.model, steps, seconds, *scores))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = ["  ".join(f"{part:<{width}}" for part, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, *(run.why for run in runs if run.config is None)])


def _percent(mean: float, std: float = 0.0, count: int = 1) -> str:
    return f"{mean:.2f} ± {std:.2f}" if count > 1 else f"{mean:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
