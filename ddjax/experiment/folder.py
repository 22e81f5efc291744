"""The folder of a run: whose it is, and what it was begun with; config.json says both before anything else is written."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddjax.errors import InputError
from ddjax.recipes import Recipe
from ddjax.storage import lock
from ddjax.storage.files import read_json, write_json
from ddjax.storage.metrics import read_metrics

CONFIG, SUMMARY = "config.json", "summary.json"
_NOTHING = {lock.LOCK, f"{CONFIG}.tmp"}  # what a call that was killed at its very beginning leaves


@dataclass(frozen=True)
class Config:
    """What a run is, and where its figures come from.

    Attributes:
      name: what the recipe is called in reports; model: the network's name.
      recipe: the settings.
      origins: where the run was begun and, if later calls were accepted that differ, where those were made, in their
        order: see `provenance.origin`.
    """

    name: str
    model: str
    recipe: Recipe
    origins: tuple[dict[str, Any], ...]

    def write(self, folder: Path) -> None:
        write_json(folder / CONFIG, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Config":
        """Raises OSError, ValueError, TypeError or LookupError where the file is not what `write` wrote."""
        held = json.loads((folder / CONFIG).read_text())
        return cls(held["name"], held["model"], Recipe.from_json(held["recipe"]), tuple(held["origins"]))


@contextmanager
def claim_folder(
    out: Path, wanted: Config, *, resume: bool, accept_changes: bool = False, finished: bool = False
) -> Iterator[Config]:
    """Makes `out` this run's folder, or makes sure that it already is, before anything is written into it; no other process may
    while it lasts.

    A run that is resumed may take more outer steps than it was begun with, have another patience and be tested with another
    number of networks; whatever else differs in its settings is refused, and so is other code, other versions or other
    inputs, unless `accept_changes`: `origins` then has both. One that is `finished` will only be read: whatever code reads
    it, its origins stay, and its inputs are compared.

    Yields: what the folder's config.json holds now.

    Raises:
      InputError: it holds something else, another run, or cannot be written, or another process is at it.
    """
    with ExitStack() as stack:
        try:
            if not (out / CONFIG).is_file() and out.exists() and not {path.name for path in out.iterdir()} <= _NOTHING:
                raise InputError(f"{out} is not empty and holds no run: choose another --out")
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.held(out))
            if (out / CONFIG).is_file():
                if not resume:
                    raise InputError(f"{out} already holds a run: continue it with --resume, or choose another --out")
                wanted = _continued(_held(out), wanted, out, accept_changes, finished)
            wanted.write(out)
        except OSError as error:
            raise InputError(f"cannot use {out} as output folder ({error}): choose another --out") from error
        yield wanted


def _held(out: Path) -> Config:
    try:
        return Config.read(out)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{out / CONFIG} is damaged, or of an older ddjax: choose another --out") from error


def _continued(held: Config, wanted: Config, out: Path, accept_changes: bool, finished: bool) -> Config:
    before = {**held.recipe.settings(), "model": held.model}
    now = {**wanted.recipe.settings(), "model": wanted.model}
    before.update({name: now[name] for name in ("patience", "test_nets")})
    if now["outer_steps"] > before["outer_steps"]:
        before["outer_steps"] = now["outer_steps"]
    changed = _differences(before, now)
    if changed:
        raise InputError(
            f"{out} holds a run with other settings ({'; '.join(changed)}): repeat its settings, choose another --out, or "
            "delete it"
        )
    last, here = held.origins[-1], wanted.origins[-1]
    changed = [
        line
        for part in (("inputs",) if finished else ("code", "versions", "inputs"))
        for line in _differences(*(_flat(o, part) for o in (last, here)))
    ]
    if changed and not accept_changes:
        raise InputError(
            f"{out} was begun with something else ({'; '.join(changed)}): go back to that, give --accept-changes to go on all "
            "the same, which its figures will say, or choose another --out"
        )
    if finished:
        return held
    extended = wanted.recipe != held.recipe
    return dataclasses.replace(wanted, origins=(*held.origins, here) if changed or extended else held.origins)


def _flat(origin: dict[str, Any], part: str) -> dict[str, Any]:
    value = origin[part]
    return value if isinstance(value, dict) else {part: value}


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{k} {before.get(k)} there, {now.get(k)} now" for k in {**before, **now} if before.get(k) != now.get(k)]


@dataclass(frozen=True)
class Found:
    """A run as its folder tells of it.

    Attributes:
      folder: where it lies; config: what it is, None where that cannot be read.
      step: outer steps done and recorded; seconds: how long they took.
      valid: the chosen iterate's held-out accuracy in percent, None before the first validation.
      test: accuracy on the test set in percent, None before the report.
    """

    folder: Path
    config: Config | None
    step: int = 0
    seconds: float = 0.0
    valid: float | None = None
    test: float | None = None


def find_runs(root: Path) -> list[Found]:
    """The runs in a folder and below it, by their paths.

    Raises:
      InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give one that runs were written into")
    return [_found(path.parent) for path in sorted(root.rglob(CONFIG))]


def _found(folder: Path) -> Found:
    try:
        config = Config.read(folder)
    except (OSError, ValueError, TypeError, LookupError):
        return Found(folder, None)
    rows = read_metrics(folder / "metrics.jsonl")
    try:
        test = float(read_json(folder / SUMMARY)["distilled"]["accuracy_mean"])
    except (OSError, ValueError, TypeError, LookupError):  # there is none yet, or a damaged one
        test = None
    if not rows:
        return Found(folder, config, test=test)
    last = rows[-1]
    return Found(folder, config, last["step"], last["seconds"], 100 * last["best_valid_accuracy"], test)
