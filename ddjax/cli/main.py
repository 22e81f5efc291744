"""The command `ddjax`: its subcommands, and how it ends."""

import contextlib
import difflib
import errno
import importlib.metadata
import io
import re
import sys
from typing import NoReturn, get_args

import tyro

from ddjax.cli.distill import Distill
from ddjax.cli.evaluate import Evaluate
from ddjax.cli.export import Export
from ddjax.cli.output import say_last, unbreakable
from ddjax.cli.plot import Plot
from ddjax.cli.prepare import Prepare
from ddjax.cli.pretrain import Pretrain
from ddjax.cli.recipes import Recipes
from ddjax.cli.report import Report
from ddjax.cli.reproduce import Reproduce
from ddjax.cli.runs import Runs
from ddjax.cli.train import Train
from ddjax.errors import (
    InputError,
    InterruptedRunError,
    LostProcessError,
    NonFiniteError,
    is_out_of_memory,
    one_line,
)
from ddjax.training import signals

Command = Recipes | Distill | Pretrain | Evaluate | Train | Export | Plot | Report | Runs | Prepare | Reproduce
# A setting is a flag of its own name, wherever it stands in a recipe, and may stand anywhere behind the command.
_CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.CascadeSubcommandArgs,
    tyro.conf.FlagCreatePairsOff,
)
_DESCRIPTION = """Dataset distillation in JAX: a data set becomes a handful of synthetic examples plus learning rates.

`ddjax distill digits` needs nothing downloaded; `ddjax COMMAND --help` tells more; `ddjax --version` tells the version."""
# How a command that was interrupted, or that found no room for a file, goes on with what it has done already.
_GOES_ON = {Distill: "with --resume", Pretrain: "with --resume", Reproduce: "again"}


def main(argv: list[str] | None = None) -> None:
    """The command `ddjax`. Exit status: 0 done, 1 the run failed, 2 bad input, 128 + signal when interrupted."""
    with unbreakable():
        _main(list(sys.argv[1:] if argv is None else argv))


def _main(argv: list[str]) -> None:
    if argv == ["--version"]:
        print(f"ddjax {importlib.metadata.version('ddjax')}")
        return
    advice = ""
    try:
        command = _parse(argv)
        if how := _GOES_ON.get(type(command)):
            advice = f": give the same command {how} to go on"
        # Preparing data cleans up behind itself, and so an interrupt must reach it in Python's own way.
        preparing = isinstance(command, Prepare)
        with contextlib.nullcontext() if preparing else signals.end_at_once(f"ddjax: interrupted{advice}"):
            command.run()
    except InputError as error:
        _leave(2, str(error))
    except NonFiniteError as error:
        _leave(1, str(error))
    except LostProcessError as error:
        _leave(1, f"{error}{advice}")
    except InterruptedRunError as error:
        _leave(128 + error.signum, f"{error}{advice}")
    except KeyboardInterrupt:
        _leave(130, "interrupted")
    except OSError as error:
        if getattr(error.__cause__ or error, "errno", None) in (errno.ENAMETOOLONG, errno.ELOOP):
            _leave(2, f"{error}: give another path")
        _leave(1, f"{error} (what was saved before is intact){advice}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _leave(
            1,
            f"there is not enough memory for this ({one_line(error)}): ask for less, as by --batch-size or --num-nets",
        )


def _parse(argv: list[str]) -> Command:
    """The command that the words make; help, which is also what no words at all ask for, ends the process.

    Raises:
      InputError: they make none.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Command,
                prog="ddjax",
                description=_DESCRIPTION,
                args=argv or ["--help"],
                config=_CONFIG,
            )
    except SystemExit as leaving:
        if leaving.code:
            known = [word for word in argv[:1] if word in (c.__name__.lower() for c in get_args(Command))]
            raise InputError(f"{_in_one_line(said.getvalue())} (see `{' '.join(['ddjax', *known])} --help`)") from None
        sys.exit(0 if argv else 2)


def _in_one_line(box: str) -> str:
    """What tyro says of wrong words, which is a box of a title and several parts: what is wrong, hints, where to look."""
    rows = [row.strip("│╰╯ ") for row in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()[1:]]
    parts = (" ".join(part.split()) for part in re.split(r"(?m)^[─-]{3,}$", "\n".join(rows)))
    wrong, hint, *_ = [*filter(None, parts), "", ""]
    _, unknown, words = wrong.partition("Unrecognized options: ")
    if not unknown:
        return wrong.removesuffix(" (required)").removesuffix(".")
    word, flags, names = words.split(", ")[0], re.findall(r"--[\w-]+", hint), hint.partition("subcommands: ")[2]
    near = difflib.get_close_matches(word, flags or names.split(", "), n=1)
    choice = f": did you mean {near[0]}?" if near else f": choose one of {names}" if names else ""
    return f"there is no {word!r} here{choice}"


def _leave(status: int, message: str) -> NoReturn:
    say_last(f"ddjax: {message}")
    if "jax" in sys.modules:  # else no other process knows of this one
        from ddjax.storage import processes

        processes.leave_run(status)
    sys.exit(status)
