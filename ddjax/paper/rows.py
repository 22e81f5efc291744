"""The rows of the tables of Dataset Distillation (arXiv 1811.10959), and of today's benchmark.

A row is one figure of the paper, or the best published one, and where in which run ours is found. Figures marked † were
recalled rather than read. Nothing here imports jax.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ddjax.paper.runs import BASELINES, EPOCHS, HEADLINES, IPC, PROTOCOL, SEEDS, SETS, SOFT, SOFT_RANDOM, STEPS

Book = Literal["paper", "benchmark"]

OVER_SEEDS = "Several seeds"


@dataclass(frozen=True)
class Row:
    """One figure of the paper, or of others.

    Attributes:
      table, row, column: where it stands.
      paper: the paper's figure as text, in a row of the benchmark the best published one; empty where there is none.
      run: name in `RUNS`.
      part: what of that run it is held against: "distilled", "before", a name of `BASELINES`, `PROTOCOL`, or "poisoning: WHAT,
        WHEN".
      book: whose figure it is.
    """

    table: str
    row: str
    column: str
    paper: str
    run: str
    part: str
    book: Book = "paper"


def _table_1() -> list[Row]:
    columns = {
        "MNIST fixed": ("mnist-fixed", "96.6†", ("", "", "", "", "", "", "about 99")),
        "MNIST random": (
            "mnist-random",
            "79.5 ± 8.1",
            ("68.6 ± 9.8†", "73.0 ± 7.6†", "76.4 ± 9.5†", "77.1 ± 2.7†", "71.5 ± 2.1†", "92.2 ± 0.1†", "about 99"),
        ),
        "CIFAR-10 fixed": ("cifar10-fixed", "54.0", ("", "", "", "", "", "", "about 80")),
        "CIFAR-10 random": (
            "cifar10-random",
            "36.8 ± 1.2",
            ("21.3 ± 1.5†", "23.4 ± 1.3†", "22.5 ± 3.1†", "22.3 ± 0.7†", "18.8 ± 1.3†", "29.4 ± 0.3†", "about 80"),
        ),
    }
    one_step = "MNIST fixed, 10 images, one step"
    rows = [
        Row("Table 1", "before training", one_step, "12.9", "mnist-fixed-1step", "before"),
        Row("Table 1", "distilled", one_step, "93.8", "mnist-fixed-1step", "distilled"),
        Row("Table 1", "distilled, exact gates", one_step, "93.8", "mnist-fixed-1step-exact", "distilled"),
    ]
    ten = Row("Table 1", "distilled, 10 epochs", "MNIST random", "", "mnist-random-10x10", "distilled")
    for column, (run, distilled, others) in columns.items():
        rows.append(Row("Table 1", "distilled", column, distilled, run, "distilled"))
        rows += [Row("Table 1", part, column, paper, run, part) for part, paper in zip(BASELINES, others, strict=True)]
    return [*rows, ten]


_PARTS_2 = {"no adaptation": "before", **{part: part for part in BASELINES}}
_COLUMNS_2 = {
    "MNIST → USPS": {
        "run": "mnist-usps",
        "fixed": "97.9†",
        "random": "95.4 ± 1.8†",
        "no adaptation": "90.4 ± 3.0†",
        "random real": "94.9 ± 0.8†",
        "optimised real": "95.2 ± 0.7†",
        "k-means": "92.2 ± 1.6†",
        "full data": "97.3 ± 0.3†",
    },
    "USPS → MNIST": {
        "run": "usps-mnist",
        "fixed": "93.2†",
        "random": "92.7 ± 1.4",
        "no adaptation": "67.5 ± 3.9",
        "random real": "87.1 ± 2.9†",
        "optimised real": "87.6 ± 2.1†",
        "k-means": "85.6 ± 3.1†",
        "full data": "98.6 ± 0.5†",
    },
    "SVHN → MNIST": {
        "run": "svhn-mnist",
        "fixed": "96.3†",
        "random": "85.2 ± 4.7",
        "no adaptation": "51.6 ± 2.8",
        "random real": "84.6 ± 2.1†",
        "optimised real": "85.2 ± 1.2†",
        "k-means": "85.8 ± 1.2†",
        "full data": "98.6 ± 0.5†",
    },
}


def _table_2() -> list[Row]:
    table, random = "Table 2", "distilled, random pretrained"
    rows = []
    for column, paper in _COLUMNS_2.items():
        fixed_run, random_run = (f"{paper['run']}-{init}" for init in ("fixed", "random"))
        rows.append(Row(table, "distilled, fixed pretrained", column, paper["fixed"], fixed_run, "distilled"))
        rows.append(Row(table, random, column, paper["random"], random_run, "distilled"))
        rows += [Row(table, name, column, paper.get(name, ""), random_run, part) for name, part in _PARTS_2.items()]
    for column, run in (("digits → MNIST", "digits-mnist-random"), ("MNIST → digits", "mnist-digits-random")):
        rows.append(Row(table, random, column, "", run, "distilled"))
        rows.append(Row(table, "no adaptation", column, "", run, "before"))
    return rows


def _table_3() -> list[Row]:
    columns = {
        "PASCAL VOC 2007": ("voc2007", "70.75†", "19.41†", "23.82†", "75.57†"),
        "CUB-200": ("cub200", "38.76†", "7.11†", "7.23†", "41.21†"),
    }
    parts = ("distilled", "random real", "optimised real", "full data")
    return [
        Row("Table 3", part, column, paper, run, part)
        for column, (run, *papers) in columns.items()
        for part, paper in zip(parts, papers, strict=True)
    ]


def _poisoning() -> list[Row]:
    columns = {
        "MNIST 0 → 1": ("mnist-poison", {"overall, before": "98.6 ± 0.5", "attacked, after": "71.4 ± 29.6"}),
        "CIFAR-10 plane → car": ("cifar10-poison", {"overall, before": "78.2 ± 1.1", "attacked, after": "45.9 ± 18.1"}),
    }
    names = {"overall": "true labels", "modified": "modified labels", "attacked": "attacked class taken for its target"}
    return [
        Row("Poisoning", f"{name}, {when}", column, paper.get(f"{what}, {when}", ""), run, f"poisoning: {what}, {when}")
        for column, (run, paper) in columns.items()
        for what, name in names.items()
        for when in ("before", "after")
    ]


def _figures() -> list[Row]:
    bases = {"MNIST fixed": "mnist-fixed", "MNIST random": "mnist-random"}
    by_steps = [
        Row("Figure: GD steps (3 epochs)", f"S = {s}", column, "", f"{base}-s{s}-e3", "distilled")
        for column, base in bases.items()
        for s in STEPS
    ]
    by_epochs = [
        Row("Figure: epochs (10 steps)", f"E = {e}", column, "", f"{base}-s10-e{e}", "distilled")
        for column, base in bases.items()
        for e in EPOCHS
    ]
    return by_steps + by_epochs


def _over_seeds(table: str, columns: Mapping[str, tuple[str, str]], book: Book = "paper") -> list[Row]:
    return [
        Row(table, f"seed {seed}", column, paper, f"{base}-seed{seed}" if seed else base, "distilled", book)
        for column, (base, paper) in columns.items()
        for seed in (0, *SEEDS)
    ]


def _beyond() -> list[Row]:
    column = "digits fixed, 10 images, one step"
    return [
        Row("Not in the paper", "distilled", column, "", "digits", "distilled"),
        Row("Not in the paper", "distilled, exact gates", column, "", "digits-exact", "distilled"),
    ]


# Accuracies of 1, 10 and 50 images per class, of methods that store images and no more: RCIG (arXiv 2302.06755) on the first
# two, AT-BPTT on CIFAR-10, and on CIFAR-100 RCIG for one image and AT-BPTT for more.
_PUBLISHED = {
    "MNIST": ("94.7", "98.9", "99.2†"),
    "Fashion-MNIST": ("79.8", "88.5", "90.2†"),
    "SVHN": ("", "", ""),
    "CIFAR-10": ("54.4", "72.4", "78.7"),
    "CIFAR-100": ("39.3", "49.0", "55.9"),
}


def _benchmark() -> list[Row]:
    table, soft = "Images per class, ConvNet of width 128", "Soft labels"
    rows = [Row(soft, "distilled", "MNIST random", "82.75 ± 2.75†", SOFT_RANDOM, "distilled", "benchmark")]
    rows += _over_seeds(f"{OVER_SEEDS}, soft labels", SOFT, "benchmark")
    for (column, papers), data in zip(_PUBLISHED.items(), SETS, strict=True):
        for ipc, paper in zip(IPC, papers, strict=True):
            for part, name in (("distilled", f"{ipc}"), (PROTOCOL, f"{ipc}, by the protocol")):
                run = f"{data.replace('_', '-')}-ipc{ipc}"
                rows.append(Row(table, name, column, paper, run, part, "benchmark"))
    return rows


ROWS: tuple[Row, ...] = (
    *(
        *_table_1(),
        *_table_2(),
        *_table_3(),
        *_poisoning(),
        *_figures(),
        *_over_seeds(OVER_SEEDS, HEADLINES),
        *_beyond(),
    ),
    *_benchmark(),
)
