"""The command line: words on a terminal, no logic of its own."""

import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ddjax.data import DATASETS, prepare
from ddjax.errors import InputError
from ddjax.experiment import distill as distilling
from ddjax.experiment import replay
from ddjax.paper import reproduce
from ddjax.recipes import RECIPES, Recipe, get_recipe
from ddjax.show import plots
from ddjax.show import tables as report
from ddjax.storage import artifact
from ddjax.training import devices, pretrain
from ddjax.training.loop import InterruptedRunError, NonFiniteError, read_metrics
from ddjax.training.pretrain import Training

USAGE = """usage: ddjax COMMAND ...

Dataset distillation in JAX: a data set becomes a handful of synthetic examples plus learning rates.

  ddjax recipes              the named experiments, and what each reaches
  ddjax distill RECIPE       distil; `ddjax distill digits` needs nothing downloaded
  ddjax pretrain RECIPE      train the networks that a recipe with a pool starts from
  ddjax evaluate PATH        train networks on a distilled artefact and test them
  ddjax plot PATH            draw the pictures of a run, or of an artefact alone
  ddjax prepare NAME...      download and prepare data sets
  ddjax reproduce paper      fill the paper's tables: every run, baseline and figure

`ddjax COMMAND --help` says more. PATH is the folder of a run or a distilled.safetensors file."""


@dataclasses.dataclass(frozen=True)
class DistillArgs:
    """Distil a data set as a recipe says; every field of the recipe can be changed."""

    recipe: tyro.conf.OmitArgPrefixes[Recipe]
    out: Path | None = None
    """Folder of the run; by default runs/RECIPE. It must be new, unless --resume continues what it holds."""
    resume: bool = False
    """Continue an interrupted run: give the same command again with this flag."""
    data_dir: str | None = None
    """Folder of prepared data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class PretrainArgs:
    """Train the networks that a recipe starts from, on its source data, and save them in one file."""

    num_nets: int = 100
    """Networks to distil with."""
    test_nets: int = 20
    """Networks held out for tests."""
    steps: int = Training().steps
    """Steps of Adam for each network, its rate decayed to zero."""
    batch_size: int = Training().batch_size
    """Real examples in each step."""
    lr: float = Training().lr
    """Peak rate of Adam."""
    seed: int = 0
    """Seed of the networks' weights and batches."""
    source: str | None = None
    """Data set to train on, if not the recipe's source."""
    pool: Path | None = None
    """File to write, if not the recipe's pool."""
    resume: bool = False
    """Go on with an unfinished pool, or enlarge a finished one."""
    data_dir: str | None = None
    """Folder of prepared data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class EvaluateArgs:
    """Train fresh networks on a distilled artefact, and score them on the whole test set of its data."""

    path: tyro.conf.Positional[Path]
    """Folder of a run, or a distilled.safetensors file."""
    num_nets: int | None = None
    """Networks to draw where initial weights are random; by default as many as the recipe's report."""
    json: bool = False
    """Print one JSON object, accuracies in percent, instead of a table."""
    data: str | None = None
    """Data set to test on, if not the artefact's own (for an .npz file that moved, say)."""
    data_dir: str | None = None
    """Folder of prepared data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class PlotArgs:
    """Draw the distilled images, the learned learning rates and, for a run, the curve of the outer loop."""

    path: tyro.conf.Positional[Path]
    """Folder of a run, or a distilled.safetensors file."""
    out: Path | None = None
    """Folder for the pictures; by default where the artefact lies."""


@dataclasses.dataclass(frozen=True)
class PrepareArgs:
    """Download data sets and prepare them, without TensorFlow, where tensorflow-datasets looks for them."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME...")]
    """Any of: mnist, fashion_mnist, cifar10, svhn_cropped, usps. (digits needs no preparation.)"""
    data_dir: str | None = None
    """Where to put them; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class ReproduceArgs:
    """Run every experiment of the paper that is missing, resume what is half done, and rebuild RESULTS.md beside the paper."""

    only: tuple[str, ...] = ()
    """Runs to make, of those in RESULTS.md; all if none is named, but those for an accelerator where there is none."""
    budget: Literal["full", "quick"] = "full"
    """full, or quick: all of it on scikit-learn's digits with a small network in a few steps, to see that it works."""
    out: Path | None = None
    """Folder for pools, runs and results; by default the current one, and `quick` for the quick budget."""
    data_dir: str | None = None
    """Folder of prepared data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


def main(argv: list[str] | None = None) -> None:
    """The command `ddjax`. Exit status: 0 done, 1 the run failed, 2 bad input, 128 + signal when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if argv else 2)
    try:
        if argv[0] not in _COMMANDS:
            raise InputError(f"unknown command {argv[0]!r}: choose one of {', '.join(_COMMANDS)}")
        _COMMANDS[argv[0]](argv[1:])
    except InputError as error:
        _leave(2, str(error))
    except NonFiniteError as error:
        _leave(1, str(error))
    except InterruptedRunError as error:
        _leave(128 + error.signum, f"{error}, saved: give the same command with --resume to continue")
    except KeyboardInterrupt:
        _leave(130, "interrupted: a run goes on when the same command is given with --resume")
    except OSError as error:
        _leave(
            1, f"{error}: what was saved before is intact; a run goes on when the same command is given with --resume"
        )


def _leave(status: int, message: str) -> None:
    print(f"ddjax: {message}", file=sys.stderr)
    sys.exit(status)


def _recipes(argv: list[str]) -> None:
    if argv:
        print("usage: ddjax recipes\n\nThe named experiments, and what each reaches, on what, in what time.")
        sys.exit(0 if argv[0] in ("-h", "--help") else 2)
    for name, make in RECIPES.items():
        print(f"{name}\n    " + inspect.cleandoc(make.__doc__ or "").replace("\n", "\n    ") + "\n")


def _distill(argv: list[str]) -> None:
    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            known = textwrap.fill(f"RECIPE is one of {', '.join(RECIPES)} (see `ddjax recipes`).", width=80)
            print(f"usage: ddjax distill RECIPE [OPTIONS]\n\n{known}\n")
            tyro.cli(DistillArgs, args=["--help"], prog="ddjax distill RECIPE", default=DistillArgs(Recipe()))
        raise InputError(
            f"name a recipe first: ddjax distill RECIPE [OPTIONS], with RECIPE one of {', '.join(RECIPES)}"
        )
    name = argv[0]
    args = tyro.cli(DistillArgs, args=argv[1:], prog=f"ddjax distill {name}", default=DistillArgs(get_recipe(name)))
    out = args.out or Path("runs") / name
    devices.use_all_cores()
    summary = distilling.distill(args.recipe, out, name=name, resume=args.resume, data_dir=args.data_dir)
    pictures = plots.plot_run(artifact.load(out), read_metrics(out / "metrics.jsonl"), out)
    print("\n" + report.summary_table(summary) + "\n")
    for path in (out / artifact.FILE_NAME, out / "summary.json", out / "metrics.jsonl", *pictures):
        print(f"  {path}")


def _pretrain(argv: list[str]) -> None:
    if not argv or argv[0].startswith("-"):
        known = ", ".join(name for name, make in RECIPES.items() if make().source)
        if argv and argv[0] in ("-h", "--help"):
            print(
                f"usage: ddjax pretrain RECIPE [OPTIONS]\n\n{textwrap.fill(f'RECIPE is one of {known}.', width=80)}\n"
            )
            tyro.cli(PretrainArgs, args=["--help"], prog="ddjax pretrain RECIPE")
        raise InputError(f"name a recipe first: ddjax pretrain RECIPE [OPTIONS], with RECIPE one of {known}")
    args = tyro.cli(PretrainArgs, args=argv[1:], prog=f"ddjax pretrain {argv[0]}")
    chosen: dict[str, Any] = {
        name: str(value) for name in ("source", "pool") if (value := getattr(args, name)) is not None
    }
    recipe = dataclasses.replace(get_recipe(argv[0]), **chosen)
    devices.use_all_cores()
    pool = pretrain.pretrain_for(
        recipe,
        num_nets=args.num_nets,
        test_nets=args.test_nets,
        training=Training(args.steps, args.batch_size, args.lr),
        seed=args.seed,
        resume=args.resume,
        data_dir=args.data_dir,
    )
    print(report.pool_lines(pool.metadata, recipe.pool))


def _evaluate(argv: list[str]) -> None:
    args = tyro.cli(EvaluateArgs, args=argv, prog="ddjax evaluate")
    devices.use_all_cores()
    evaluation, num_test = replay.evaluate_artifact(
        args.path, num_nets=args.num_nets, data=args.data, data_dir=args.data_dir
    )
    if args.json:
        print(json.dumps({**evaluation.summary(), "num_test": num_test}))
    else:
        print(report.evaluation_lines(evaluation, num_test))


def _plot(argv: list[str]) -> None:
    args = tyro.cli(PlotArgs, args=argv, prog="ddjax plot")
    loaded = artifact.load(args.path)
    home = args.path if args.path.is_dir() else args.path.parent
    folder = args.out or home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = plots.plot_run(loaded, read_metrics(home / "metrics.jsonl"), folder)
    except OSError as error:
        raise InputError(f"cannot write pictures into {folder} ({error}): choose another --out") from error
    for path in pictures:
        print(path)


def _prepare(argv: list[str]) -> None:
    args = tyro.cli(PrepareArgs, args=argv, prog="ddjax prepare")
    if not args.names:
        raise InputError(f"name the data sets to prepare, any of {', '.join(DATASETS)}")
    for name in args.names:
        print(prepare(name, data_dir=args.data_dir), flush=True)


def _reproduce(argv: list[str]) -> None:
    if not argv or argv[0] != "paper":
        if argv and argv[0] in ("-h", "--help"):
            tyro.cli(ReproduceArgs, args=["--help"], prog="ddjax reproduce paper")
        raise InputError("say what to reproduce: ddjax reproduce paper [OPTIONS]")
    args = tyro.cli(ReproduceArgs, args=argv[1:], prog="ddjax reproduce paper")
    root = args.out or Path("quick" if args.budget == "quick" else ".")
    devices.use_all_cores()
    rows = reproduce.reproduce(root, only=args.only, budget=args.budget, data_dir=args.data_dir)
    measured = sum(row["ours_mean"] is not None for row in rows)
    print(f"{measured} of {len(rows)} rows are measured: {root / 'RESULTS.md'}, {root / 'results' / 'paper.json'}")


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "recipes": _recipes,
    "distill": _distill,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "plot": _plot,
    "prepare": _prepare,
    "reproduce": _reproduce,
}
