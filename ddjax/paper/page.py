"""`results/BOOK.json` and RESULTS.md: the rows of others beside ours, built from files alone; nothing is typed by hand."""

import json
import statistics
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ddjax.paper.filing import (
    BASELINES,
    MEASURED,
    PROVENANCE,
    SUMMARY,
    command,
    departures,
    filed_recipe,
    in_turn,
    origins,
    since,
)
from ddjax.paper.rows import OVER_SEEDS
from ddjax.paper.runs import BASELINES as BASELINE_PARTS, PROTOCOL, RUNS
from ddjax.show import plots
from ddjax.show.card import card
from ddjax.storage.artifact import load_artifact
from ddjax.storage.files import read_json, write_whole

CARD = "README.md"
_TITLE, _QUICK_TITLE = "# Results\n", "# Results of the quick budget, all of them on scikit-learn's digits\n"
_HEAD = """Built by `ddjax reproduce paper` from the files under `results/`; nothing here is typed by hand.

In each cell: the figure of arXiv 1811.10959 (marked † where it was recalled rather than read there; – where it has none) →
**ours**, in percent of the whole test set, mean ± standard deviation over so many networks. The test set is read once, at the
end: iterates, learning rates, sets of images and neighbours are chosen on 1/12 of the training set, held out. Baselines take
the same number of gradient-descent steps on as many images; their rate is the best of a grid, refined
twice around its best point, and of the distilled data's own rates; k-means has five seeds.

Letters behind a figure say where its method departs from the paper's, and the table of runs by how much:

- `g`: surrogate gates in the second derivative;
- `r`: distilled images start from real ones instead of noise;
- `l`: labels are learned;
- `m`: the inner loop moves by momentum or Adam;
- `w`: a window of the inner loop is differentiated at each outer step, from a random start;
- `z`: pictures are whitened;
- `b`: distilled and real images both are augmented;
- `n`: the first outer steps take narrower networks;
- `p`: images move along principal components of the real ones, not value by value;
- `c`: the meta-gradient is clipped by its norm;
- `s`: the outer rate follows a cosine to zero, or stays, instead of being halved every tenth of the way;
- `a`: the average of the iterates is a candidate beside the iterate;
- `h`: the iterate is chosen on held-out data, not the last one taken.

‡ marks a baseline that was measured with an earlier grid, or for other distilled data: `ddjax reproduce paper` measures it
again.

USPS here is the 16x16 set (7291 / 2007), resized to MNIST's 20x20 in 28x28; the paper's is another version (28x28, 7438 and
1860).

What to know when comparing. The budget of a baseline is that of the distilled data, epochs included; real images go on gaining
from more epochs, which the paper's figures for them suggest were few too. Where rates learned for other images win the choice,
which is made on a few held-out networks, a baseline's spread is as wide as it is because they suit some networks badly.
Pools of trained networks are smaller than the paper's 2000 (each run says how many): what is distilled for them fits those it
saw better than others, which is why iterates are chosen on networks of the pool that the distillation never draws.
"""
_BEYOND = """# Beyond the paper

To the left of each arrow stands the best figure that others have published: for soft labels those of SLDD (arXiv 1910.02551),
of images per class those of methods that store images and no more. "By the protocol" is of fresh networks trained on the
distilled examples by shuffled minibatches with momentum, at a rate that held-out training images choose; the other figures are
of the steps and learning rates that were distilled with the images. Networks are not the same everywhere: ours is that of
Dataset Condensation, of 128, 128 and 128 channels with InstanceNorm; RCIG, the best on MNIST and Fashion-MNIST, has 128, 256
and 512 channels and no norm. With ours Dataset Condensation (arXiv 2006.05929) has 91.7 and 70.5 of one image per class, 97.4
and 82.3 of ten.
"""
_QUICK = """**Quick budget: every run here, whatever the tables call it, is a linear network on scikit-learn's digits, after two
outer steps.** It shows that all of it works; its figures say nothing of MNIST, USPS, CIFAR-10, VOC or CUB.
"""
_POOL_PARTS = (("train", "to distil with"), ("test", "held out"))


def _per_class(summary: dict[str, Any]) -> list[str]:
    """A poisoned run's accuracy for the true labels, class by class."""
    if "poisoning" not in summary:
        return []
    poisoning = summary["poisoning"]
    classes = range(len(poisoning["before"]["per_class"]))
    body = ([when, *(_figure(poisoning[when]["per_class"][k]) for k in classes)] for when in ("before", "after"))
    return [*_table(("accuracy % of class", *map(str, classes)), body), ""]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def write_results(root: Path, rows: list[dict[str, Any]], *, quick: bool = False) -> None:
    """Writes `results/BOOK.json` of each book, the ablation figures and RESULTS.md into `root`; `quick` says that they are of
    no use but to show that everything works."""
    folder = root / "results"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [_QUICK_TITLE, _QUICK, _HEAD] if quick else [_TITLE, _HEAD]
    for book, of_book in groupby(rows, itemgetter("book")):
        members = list(of_book)
        write_whole(folder / f"{book}.json", json.dumps(members, indent=1, ensure_ascii=False) + "\n")
        lines += [*([_BEYOND] if book == "benchmark" else []), *_tables(members), *_ablations(folder, members)]
    lines += ["# Behind the figures", "", *_open(rows), *_runs(root)]
    for name in RUNS:
        lines += _section(root, name, [row for row in rows if row["run"] == name])
        _write_card(root / "results" / name, RUNS[name].recipe)
    write_whole(root / "RESULTS.md", "\n".join(lines))


def _tables(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for table, group in groupby(rows, itemgetter("table")):
        members = list(group)
        mean = _mean_over(members) if table.startswith(OVER_SEEDS) else []
        lines += [f"## {table}", "", *_matrix(members), *mean, ""]
    return lines


def _ablations(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name, table in (("steps", "Figure: GD steps (3 epochs)"), ("epochs", "Figure: epochs (10 steps)")):
        points = [row for row in rows if row["table"] == table and row["ours_mean"] is not None]
        if points:
            plots.plot_ablation(points, folder / f"{name}.png")
            lines += [f"![accuracy by {name}](results/{name}.png)", ""]
    return lines


def _table(head: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def _matrix(rows: list[dict[str, Any]]) -> list[str]:
    columns, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("column", "row"))
    cells = {(row["row"], row["column"]): _cell(row) for row in rows}
    body = ([name, *(cells.get((name, column), "") for column in columns)] for name in names)
    return _table(["accuracy %", *columns], body)


def _mean_over(rows: list[dict[str, Any]]) -> list[str]:
    """One more row of a matrix: the mean of each column's figures and their standard deviation, with how many they are."""
    cells = []
    for column in dict.fromkeys(row["column"] for row in rows):
        found = [row["ours_mean"] for row in rows if row["column"] == column and row["ours_mean"] is not None]
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        cells.append(f"**{statistics.mean(found):.1f}{spread}** of {len(found)}" if found else "")
    return [f"| mean ± std over seeds | {' | '.join(cells)} |"]


def _cell(row: dict[str, Any]) -> str:
    ours = "not measured"
    if row["ours_mean"] is not None:
        many = row["networks"] > 1
        ours = f"**{row['ours_mean']:.1f}" + (f" ± {row['ours_std']:.1f}** ({row['networks']})" if many else "**")
        ours += " ‡" if row["status"] != MEASURED else ""
        ours += f" `{row['departs']}`" if row["departs"] else ""
    return f"{row['paper'] or '–'} → {ours}"


def _open(rows: list[dict[str, Any]]) -> list[str]:
    """The rows without a figure: why, about how long two cores of a CPU would take, and the command that would fill them."""
    missing = {row["run"]: row for row in rows if row["ours_mean"] is None}
    if not missing:
        return []
    begun = {row["run"] for row in rows if row["ours_mean"] is not None}
    why = {name: f"{row['part']}: " * (name in begun) + row["status"] for name, row in missing.items()}
    body = ([f"`{n}`", why[n], RUNS[n].cost, f"`{row['command']}`"] for n, row in missing.items())
    return ["## Not measured", "", *_table(("run", "why", "two CPU cores take about", "command"), body), ""]


def _runs(root: Path) -> list[str]:
    body = []
    for name, run in RUNS.items():
        folder = root / "results" / name
        recipe, made = filed_recipe(folder), origins(folder)
        if recipe:
            seen = recipe.outer.outer_steps * recipe.outer.batch_size
            share = f"{seen / run.paper_examples:.3f}" if run.paper_examples else ""
            where = in_turn(made, "machine"), f"`{in_turn(made, 'commit')}`"
            departs = ", ".join(departures(recipe).values())
            body.append([f"[{name}](#{name})", departs, f"{seen:,}", share, _seconds(folder), *where])
    head = ("run", "departs from the paper by", "real examples seen", "of the authors' budget", "distilling")
    return ["## Runs", "", *_table((*head, "machine", "commit"), body), ""]


def _seconds(folder: Path) -> str:
    return f"{read_json(folder / PROVENANCE)['seconds_distilling']:.0f} s"


def _section(root: Path, name: str, rows: list[dict[str, Any]]) -> list[str]:
    folder = root / "results" / name
    recipe, made = filed_recipe(folder), origins(folder)
    if recipe is None:
        return []
    summary = read_json(folder / SUMMARY)
    points = ", ".join(f"{value:.2f} after {step}" for step, value in summary["accuracy_by_step"].items())
    pool = "".join(
        f" Networks {what}: {part['num_nets']}, {part['accuracy_mean']:.2f} ± {part['accuracy_std']:.2f} on their own test set."
        for part, what in ((summary.get("pool", {}).get(name), what) for name, what in _POOL_PARTS)
        if part
    )
    training = (load_artifact(folder).metadata.get("pool") or {}).get("training")
    pool += (
        " Each trained for {steps} steps of {batch_size}, at peak rate {lr:g}.".format(**training) if training else ""
    )
    return [
        f"### {name}",
        "",
        f"`{command(recipe, RUNS[name].recipe)}` at {_places(made)}; {_seconds(folder)}.",
        "",
        f"Test accuracy by inner steps taken: {points}. Held-out accuracy of the chosen iterate (outer step "
        f"{summary['best_step']}): {summary['valid_accuracy']:.2f}.{pool}",
        "",
        *_per_class(summary),
        *_baselines(read_json(folder / BASELINES), rows),
        *(f"![{name}: {picture}](results/{name}/{picture}.png)\n" for picture in ("images", "learning_rates", "curve")),
    ]


def _write_card(folder: Path, base: str) -> None:
    recipe = filed_recipe(folder)
    if recipe is not None:
        commit = in_turn(origins(folder), "commit")
        held = load_artifact(folder)
        write_whole(folder / CARD, card(folder.name, held, read_json(folder / SUMMARY), command(recipe, base), commit))


def _places(made: list[dict[str, Any]]) -> str:
    """Where a run was made, in turn; and for how many outer steps, if not always as many: its rates were on another cosine."""
    lengths = [place.get("outer_steps") for place in made]
    told = [f", for {length} outer steps" * (len({*lengths}) > 1) for length in lengths]
    return "; then at ".join(_place(place) + length for place, length in zip(made, told, strict=True))


def _place(made: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    place = f"commit `{made['commit'] or 'unknown'}`; {made['machine']}; Python {made['python']}, {versions}"
    return place + since(made["versions"])


def _baselines(held: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Where each baseline of a run was measured, and with what choice; what makes it another now stands in its status."""
    body = []
    for row in rows:
        if row["part"] in (*BASELINE_PARTS, PROTOCOL) and row["ours_mean"] is not None:
            baseline = held[row["part"]]
            status = row["status"] + since(baseline.get("versions", {}))
            seconds, commit = f"{row['seconds']:.0f} s", f"`{row['commit'] or 'unknown'}`"
            body.append([row["part"], baseline["chosen"], status, seconds, row["machine"], commit])
    return [*_table(("baseline", "chosen", "status", "seconds", "machine", "commit"), body), ""] if body else []
