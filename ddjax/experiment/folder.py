"""The folder of a run: whose it is, and what it was begun with; config.json says both before anything else is written."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddjax.errors import InputError
from ddjax.recipes import Recipe
from ddjax.storage import lock, schema
from ddjax.storage.files import read_json, write_json
from ddjax.storage.metrics import read_metrics

CONFIG, SUMMARY = "config.json", "summary.json"
# What `provenance.origin` says of the making of a run.
_ORIGIN = {
    **dict.fromkeys(("commit", "code", "machine", "python"), schema.TEXT),
    **dict.fromkeys(("versions", "inputs"), schema.OBJECT),
}
_CONFIG = {
    "name": schema.TEXT,
    "model": schema.TEXT,
    "recipe": schema.OBJECT,
    "origins": schema.list_of(schema.OBJECT, "a list of objects"),
}
# Of `outcome.Summary` what pages and lists tell.
_SUMMARY = {
    **dict.fromkeys(("images", "inner_steps", "num_train", "num_test", "outer_steps", "best_step"), schema.COUNT),
    "distilled": schema.OBJECT,
    **{f"distilled/{name}": kind for name, kind in (schema.SCORES | schema.BEFORE).items()},
    "random_real": schema.OBJECT,
    **{f"random_real/{name}": kind for name, kind in schema.SCORES.items()},
    "all_data": schema.OBJECT,
    **{f"all_data/{name}": kind for name, kind in schema.SCORES.items()},
    "poisoning": schema.OBJECT,
}
_NOTHING = {lock.LOCK, f"{CONFIG}.tmp"}  # what a call that was killed at its very beginning leaves


@dataclass(frozen=True)
class Config:
    """What a run is, and where its figures come from.

    Attributes:
      name: what the recipe is called in reports; model: the network's name.
      recipe: the settings.
      origins: where the run was begun and, if later calls differ in it or were made on another machine, where, in their
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
        """What `write` wrote.

        Raises:
          InputError: there is none, or it is damaged; the message says what is wrong with it.
        """
        path = folder / CONFIG
        held = read_json(path, "choose another --out")
        try:
            schema.check(held, _CONFIG, needs=_CONFIG)
            recipe = Recipe.from_json(held["recipe"])
            recipe.validate()
            origins = checked_origins(held["origins"])
        except ValueError as error:
            raise InputError(f"{path} is damaged, or of an older ddjax ({error}): choose another --out") from error
        return cls(held["name"], held["model"], recipe, origins)


def checked_origins(held: Any) -> tuple[dict[str, Any], ...]:
    """Where figures were made, one or more.

    Raises:
      ValueError: one of them is not what `provenance.origin` says.
    """
    if not held or not isinstance(held, list):
        raise ValueError("'origins' is not a list of one or more")
    for origin in held:
        schema.check(origin, _ORIGIN, needs=_ORIGIN)
    return tuple(held)


def read_summary(folder: Path) -> dict[str, Any]:
    """What `summary.json` of a run says; nothing where there is none.

    Raises:
      InputError: it is damaged.
    """
    held, path = read_json(folder / SUMMARY), folder / SUMMARY
    try:
        if held:
            schema.check(held, _SUMMARY, needs=set(_SUMMARY) - {"random_real", "all_data", "poisoning"})
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): remove it, or make it again") from error
    return held


@contextmanager
def claim_folder(
    out: Path, wanted: Config, *, resume: bool, accept_changes: bool = False, finished: bool = False
) -> Iterator[Config]:
    """Makes `out` this run's folder, or makes sure that it already is, before anything is written into it; no other process may
    while it lasts.

    A run that is resumed may end after another number of outer steps, one more than it has taken at the least, have another
    patience and be tested with another number of networks; whatever else differs in its settings is refused, and so is other
    code, other versions or other inputs, unless `accept_changes`: `origins` then has both. One that is `finished` will only
    be read: whatever code reads it, its origins stay, and its inputs are compared.

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
                wanted = _continued(Config.read(out), wanted, out, accept_changes, finished)
            wanted.write(out)
        except OSError as error:
            raise InputError(f"cannot use {out} as output folder ({error}): choose another --out") from error
        yield wanted


def _continued(held: Config, wanted: Config, out: Path, accept_changes: bool, finished: bool) -> Config:
    before = {**held.recipe.settings(), "model": held.model}
    now = {**wanted.recipe.settings(), "model": wanted.model}
    taken = max((int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdecimal()), default=0)
    if now["outer_steps"] < before["outer_steps"] and now["outer_steps"] <= taken:
        raise InputError(
            f"--outer-steps is {now['outer_steps']}, but the run in {out} has taken {taken}: give more, or choose another --out"
        )
    before.update({name: now[name] for name in ("outer_steps", "patience", "test_nets")})
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
    # Its end, how it is judged, or whose seconds they are.
    moved = wanted.recipe != held.recipe or last["machine"] != here["machine"]
    return dataclasses.replace(wanted, origins=(*held.origins, here) if changed or moved else held.origins)


def _flat(origin: dict[str, Any], part: str) -> dict[str, Any]:
    value = origin[part]
    return value if isinstance(value, dict) else {part: value}


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{k} {before.get(k)} there, {now.get(k)} now" for k in {**before, **now} if before.get(k) != now.get(k)]


@dataclass(frozen=True)
class Found:
    """A run as its folder tells of it.

    Attributes:
      folder: where it lies; config: what it is, None where that cannot be read, and why then says why.
      step: outer steps done and recorded; seconds: how long they took.
      valid: the chosen iterate's held-out accuracy in percent, None before the first validation.
      test: accuracy on the test set in percent, None before the report.
    """

    folder: Path
    config: Config | None
    why: str = ""
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
        rows = read_metrics(folder / "metrics.jsonl")
    except InputError as error:
        return Found(folder, None, str(error))
    try:
        test = read_summary(folder).get("distilled", {}).get("accuracy_mean")
    except InputError:
        test = None
    if not rows:
        return Found(folder, config, test=test)
    last = rows[-1]
    valid = 100 * last["best_valid_accuracy"]
    return Found(folder, config, step=last["step"], seconds=last["seconds"], valid=valid, test=test)
