"""The experiments of Dataset Distillation (arXiv 1811.10959): every row of its tables, and the runs that fill them.

A run is a recipe with changes; a row is one figure of the paper and where in which run ours is found. Figures marked † were
recalled rather than read in the paper. Nothing here imports jax.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddjax.recipes import Recipe, get_recipe

BASELINES = (
    "random real",
    "optimised real",
    "k-means",
    "class average",
    "K-NN on random real",
    "K-NN on k-means",
    "full data",
)


@dataclass(frozen=True)
class Run:
    """One distillation, and the baselines measured beside it.

    Attributes:
      recipe: name of the recipe; changes: fields that differ from it.
      baselines: which of `BASELINES` are measured with its budget.
      accelerator: whether it is left out on a CPU unless asked for by name, since it would take more than a day there.
      cost: about what it takes, in words, of a run that is not measured yet.
      paper_examples: real examples that the authors' outer loop saw (epochs x training examples); 0 where it is not known.
    """

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    accelerator: bool = False
    cost: str = ""
    paper_examples: int = 0

    @property
    def settings(self) -> Recipe:
        return get_recipe(self.recipe).replace(**self.changes)


@dataclass(frozen=True)
class Row:
    """One figure of the paper.

    Attributes:
      table, row, column: where it stands.
      paper: the paper's figure as text; empty where it has none.
      run: name in `RUNS`.
      part: what of that run it is held against: "distilled", "before", a name of `BASELINES`, or "poisoning: WHAT, WHEN".
    """

    table: str
    row: str
    column: str
    paper: str
    run: str
    part: str


OVER_SEEDS = "Several seeds"
_FEW = ("random real", "optimised real", "full data")
_MNIST, _CIFAR, _USPS = 400 * 60_000, 400 * 50_000, 400 * 7_438
STEPS, EPOCHS = (1, 2, 5, 10, 20), (1, 2, 3, 5)

RUNS: dict[str, Run] = {
    "digits": Run("digits"),
    "digits-exact": Run("digits", {"gate_width": 0.0}),
    "mnist-fixed-1step": Run("mnist-fixed-1step", paper_examples=_MNIST),
    "mnist-fixed-1step-exact": Run("mnist-fixed-1step", {"gate_width": 0.0}, paper_examples=_MNIST),
    "mnist-fixed": Run("mnist-fixed", baselines=BASELINES, paper_examples=_MNIST),
    "mnist-random": Run("mnist-random", baselines=BASELINES, paper_examples=_MNIST),
    "mnist-random-10x10": Run("mnist-random", {"epochs": 10}, cost="1 hour", paper_examples=_MNIST),
    "cifar10-fixed": Run("cifar10-fixed", baselines=BASELINES, cost="3 hours", paper_examples=_CIFAR),
    "cifar10-random": Run("cifar10-random", baselines=BASELINES, cost="4 hours", paper_examples=_CIFAR),
    "mnist-usps-fixed": Run("mnist-usps-fixed", paper_examples=_USPS),
    "mnist-usps-random": Run("mnist-usps-random", baselines=BASELINES, paper_examples=_USPS),
    "usps-mnist-fixed": Run("usps-mnist-fixed", paper_examples=_MNIST),
    "usps-mnist-random": Run("usps-mnist-random", baselines=BASELINES, paper_examples=_MNIST),
    "svhn-mnist-fixed": Run("svhn-mnist-fixed", cost="1 hour, and 1.5 GB to download", paper_examples=_MNIST),
    "svhn-mnist-random": Run(
        "svhn-mnist-random", baselines=BASELINES, cost="1 hour, and the same download", paper_examples=_MNIST
    ),
    "digits-mnist-random": Run("digits-mnist-random"),
    "mnist-digits-random": Run("mnist-digits-random"),
    "voc2007": Run("voc2007", baselines=_FEW, accelerator=True, cost="1 day, and 2.9 GB to download"),
    "cub200": Run("cub200", baselines=_FEW, accelerator=True, cost="3 days, and 1.1 GB to download"),
    "mnist-poison": Run("mnist-poison", paper_examples=_MNIST),
    "cifar10-poison": Run(
        "cifar10-poison", cost="26 hours, nearly all of them for 120 networks to start from", paper_examples=_CIFAR
    ),
}
# The two ablation figures: one outer budget for all points of a line.
_ABLATION: dict[str, dict[str, Any]] = {
    "mnist-fixed": {"outer_steps": 1000},
    "mnist-random": {"outer_steps": 400, "num_nets": 4, "valid_nets": 16, "test_nets": 50},
}
for _base, _budget in _ABLATION.items():
    for _steps, _epochs in sorted({*((s, 3) for s in STEPS), *((10, e) for e in EPOCHS)}):
        _changes = {"steps": _steps, "epochs": _epochs, **_budget}
        RUNS[f"{_base}-s{_steps}-e{_epochs}"] = Run(_base, _changes)

# One seed is luck: the rows that are looked at first, each from several.
HEADLINES = {
    "MNIST fixed, 10 images, one step": ("mnist-fixed-1step", "93.8"),
    "MNIST fixed": ("mnist-fixed", "96.6†"),
    "CIFAR-10 fixed": ("cifar10-fixed", "54.0"),
    "digits fixed, 10 images, one step": ("digits", ""),
}
SEEDS = (1, 2)  # besides 0, which is every recipe's own
_SEED_COST = {"cifar10-fixed": "100 minutes", "mnist-fixed": "10 minutes"}
for _base, _ in HEADLINES.values():
    for _seed in SEEDS:
        RUNS[f"{_base}-seed{_seed}"] = Run(
            _base, {"seed": _seed}, cost=_SEED_COST.get(_base, "5 minutes"), paper_examples=RUNS[_base].paper_examples
        )


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


def _over_seeds() -> list[Row]:
    return [
        Row(OVER_SEEDS, f"seed {seed}", column, paper, f"{base}-seed{seed}" if seed else base, "distilled")
        for column, (base, paper) in HEADLINES.items()
        for seed in (0, *SEEDS)
    ]


def _beyond() -> list[Row]:
    column = "digits fixed, 10 images, one step"
    return [
        Row("Not in the paper", "distilled", column, "", "digits", "distilled"),
        Row("Not in the paper", "distilled, exact gates", column, "", "digits-exact", "distilled"),
    ]


ROWS: tuple[Row, ...] = (*_table_1(), *_table_2(), *_table_3(), *_poisoning(), *_figures(), *_over_seeds(), *_beyond())
