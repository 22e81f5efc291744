"""The command `ddjax`: its subcommands, and how it ends."""

import contextlib
import importlib.metadata
import sys
from typing import Annotated, NoReturn

import tyro
from tyro.conf import subcommand

from ddjax.cli.distill import Distill
from ddjax.cli.evaluate import Evaluate
from ddjax.cli.plot import Plot
from ddjax.cli.prepare import Prepare
from ddjax.cli.pretrain import Pretrain
from ddjax.cli.recipes import Recipes
from ddjax.cli.reproduce import Reproduce
from ddjax.errors import InputError, InterruptedRunError, NonFiniteError
from ddjax.training import signals

Command = (
    Annotated[Recipes, subcommand("recipes")]
    | Annotated[Distill, subcommand("distill")]
    | Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Prepare, subcommand("prepare")]
    | Annotated[Reproduce, subcommand("reproduce")]
)
# A setting is a flag of its own name, wherever it stands in a recipe, and may stand anywhere behind the command.
_CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.CascadeSubcommandArgs,
    tyro.conf.FlagCreatePairsOff,
)
_DESCRIPTION = """Dataset distillation in JAX: a data set becomes a handful of synthetic examples plus learning rates.

`ddjax distill digits` needs nothing downloaded."""


def main(argv: list[str] | None = None) -> None:
    """The command `ddjax`. Exit status: 0 done, 1 the run failed, 2 bad input, 128 + signal when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"ddjax {importlib.metadata.version('ddjax')}")
        return
    try:
        command: Command = tyro.cli(
            Command,
            prog="ddjax",
            description=_DESCRIPTION,
            args=argv or ["--help"],
            config=_CONFIG,
        )
        # Preparing data cleans up behind itself, and so an interrupt must reach it in Python's own way.
        preparing, last_words = isinstance(command, Prepare), f"ddjax: {_interrupted(argv)}"
        with contextlib.nullcontext() if preparing else signals.end_at_once(last_words):
            command.run()
    except InputError as error:
        _leave(2, str(error))
    except NonFiniteError as error:
        _leave(1, str(error))
    except InterruptedRunError as error:
        _leave(128 + error.signum, f"{error}: give the same command {_again(argv)} to go on")
    except KeyboardInterrupt:
        _leave(130, _interrupted(argv))
    except OSError as error:
        _leave(1, f"{error}: what was saved before is intact; give the same command {_again(argv)} to go on")


def _interrupted(argv: list[str]) -> str:
    return f"interrupted: give the same command {_again(argv)} to go on"


def _again(argv: list[str]) -> str:
    """How a command of this kind goes on."""
    return "with --resume" if argv[:1] in (["distill"], ["pretrain"]) else "again"


def _leave(status: int, message: str) -> NoReturn:
    print(f"ddjax: {message}", file=sys.stderr)
    sys.exit(status)
