"""What is filed of a run of the paper, in `results/NAME/`, and the rows of tables that it fills.

`provenance.json` has what the run was begun with and, if it went on elsewhere, where (`origins`, see `storage.provenance`), and
the seconds it took; older files have one origin, flat. `baselines.json` has each baseline with its own commit, machine,
versions and seconds, the `settings` it was tuned with and the digest of the `artifact` it was measured for; of older ones
without these nobody knows, so that they are stale.
"""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from ddjax.paper.rows import Row
from ddjax.recipes import Recipe, get_recipe
from ddjax.recipes.loops import Outer
from ddjax.storage import provenance
from ddjax.storage.artifact import FILE_NAME, load_artifact
from ddjax.storage.files import read_json

PROVENANCE, BASELINES, SUMMARY = "provenance.json", "baselines.json", "summary.json"
NOT_RUN, MEASURED = "not run yet", "measured"
# Other versions of these give other data and baselines. A figure of earlier ones is told, not measured again: that takes hours.
_TOLD = ("numpy", "scikit-learn", "pillow")


class Wanted(NamedTuple):
    """What a run would be now: its recipe (see `portable`), the pool it would start from as the header of an artefact tells
    of it, and everything that each of its baselines depends on and that is chosen by us, as JSON has it."""

    recipe: Recipe
    pool: dict[str, Any] | None
    baselines: dict[str, dict[str, Any]]


def portable(recipe: Recipe) -> Recipe:
    """A recipe without the folder that its pool happens to lie in."""
    pool = recipe.network.pool
    return recipe.replace(pool=f"pools/{Path(pool).name}") if pool else recipe


def filed_recipe(folder: Path) -> Recipe | None:
    """The settings of the artefact in a folder of results, or None where there is none."""
    if not (folder / PROVENANCE).is_file():
        return None
    return portable(Recipe.from_json(load_artifact(folder).metadata["recipe"]))


def is_wanted(folder: Path, wanted: Wanted) -> bool:
    """Whether a folder holds an artefact of these settings, which started from such a pool: as trained, and not smaller.

    A header that does not tell its pool's training and size, as they did not once, is taken for one of such a pool.
    """
    if not (folder / FILE_NAME).is_file():
        return False
    metadata = load_artifact(folder).metadata
    held = {**(wanted.pool or {}), **(metadata.get("pool") or {})}
    enough = not wanted.pool or held["num_nets"] >= wanted.pool["num_nets"]
    alike = all(held[name] == value for name, value in (wanted.pool or {}).items() if name != "num_nets")
    return enough and alike and portable(Recipe.from_json(metadata["recipe"])) == wanted.recipe


def is_filed(folder: Path, wanted: Wanted) -> bool:
    """Whether a folder of results has what is wanted."""
    return (folder / PROVENANCE).is_file() and is_wanted(folder, wanted)


def to_measure(folder: Path, wanted: Wanted) -> list[str]:
    """The baselines that are missing, or stale."""
    held = read_json(folder / BASELINES)
    return [
        part for part in wanted.baselines if part not in held or _status(held[part], part, folder, wanted) != MEASURED
    ]


def _status(baseline: dict[str, Any], part: str, folder: Path, wanted: Wanted) -> str:
    """Whether a baseline is what would be measured now; where it is stale, in what."""
    if baseline.get("settings") != wanted.baselines[part]:
        return "measured with an earlier grid"
    if baseline["artifact"] != provenance.digest_of_file(folder / FILE_NAME):
        return "measured for other distilled data"
    return MEASURED


def command(recipe: Recipe, name: str) -> str:
    """The command that distils with these settings, as changes of the recipe called `name`."""
    named = get_recipe(name).settings()
    changes = {k: v for k, v in portable(recipe).settings().items() if v != named[k]}
    return " ".join(["ddjax distill", name, *(_flag(k, v) for k, v in changes.items())])


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"


def departures(recipe: Recipe) -> dict[str, str]:
    """Where the method departs from the paper's, a letter and words for each: RESULTS.md explains the letters."""
    inner, outer = recipe.inner, recipe.outer
    found: dict[str, str | float | bool] = {
        "g": recipe.network.gate_width and f"gates {recipe.network.gate_width:g}",
        "r": inner.start == "real" and "from real images",
        "l": inner.learn_labels and "soft labels",
        "m": inner.direction != "gd" and inner.direction,
        "w": outer.window is not None
        and f"window of {outer.window} steps{', mostly early' if outer.window_early else ''}",
        "z": recipe.data.zca is not None and f"ZCA {recipe.data.zca:g}",
        "b": recipe.data.siamese != "none" and f"{recipe.data.siamese} of both sides",
        "n": outer.narrow is not None and f"{outer.narrow_steps} steps of width {outer.narrow}",
        "p": outer.basis == "components" and "along components",
        "c": _bounds(outer),
        "s": outer.schedule,
        "a": outer.ema and f"average {outer.ema:g}",
        "h": f"best of {-(-outer.outer_steps // recipe.report.eval_every)} validations",
    }
    return {letter: str(words) for letter, words in found.items() if words}


def _bounds(outer: Outer) -> str:
    bounds = {"clip": outer.clip, "clip at the running norm x": outer.clip_relative, "clip each at": outer.clip_nets}
    return ", ".join(f"{what} {value:g}" for what, value in bounds.items() if value is not None)


def origins(folder: Path) -> list[dict[str, Any]]:
    """Where the artefact in a folder of results was made: where it was begun and, if it went on elsewhere, there."""
    facts = read_json(folder / PROVENANCE)
    found: list[dict[str, Any]] = facts.get("origins", [facts])
    return found


def in_turn(places: list[dict[str, Any]], name: str) -> str:
    """What several origins have under a name, in their order."""
    return ", then ".join(dict.fromkeys(place[name] or "unknown" for place in places))


def since(versions: dict[str, str]) -> str:
    """Which packages that data and baselines depend on are other ones here than those of a figure: what to add to its place."""
    now = provenance.versions()
    changed = {name: (versions.get(name, now[name]), now[name]) for name in _TOLD}
    return "".join(f"; {name} was {then}, and is {here} here" for name, (then, here) in changed.items() if then != here)


def filled(folder: Path, row: Row, wanted: Wanted, reason: str) -> dict[str, Any]:
    """One row of `paper.json`; figures in percent, null where the row is not measured and `status` says why.

    Args:
      folder: what is filed of the row's run.
      wanted: what the run is now; figures of another are not shown, while stale baselines are, and `status` says so.
      reason: why the run has no figures, if it has none.
    """
    figure = _figure(row.part, folder, wanted) if is_filed(folder, wanted) else None
    if figure is None and reason == NOT_RUN and filed_recipe(folder) and not is_filed(folder, wanted):
        reason = "measured with other settings than the recipe has now"
    shown = figure or dict.fromkeys(("mean", "std", "networks", "commit", "seconds", "machine"))
    return {
        **{name: getattr(row, name) for name in ("book", "table", "row", "column", "paper", "run", "part")},
        "ours_mean": shown["mean"],
        "ours_std": shown["std"],
        "networks": shown["networks"],
        "departs": " ".join(departures(wanted.recipe)) if figure and row.part in _OURS else "",
        "status": figure["status"] if figure else reason,
        "command": f"ddjax reproduce {row.book} --only {row.run}",
        **{name: shown[name] for name in ("commit", "seconds", "machine")},
    }


def _figure(part: str, folder: Path, wanted: Wanted) -> dict[str, Any] | None:
    """Mean, standard deviation and count of networks of one figure, with its own provenance; None where it is missing."""
    summary = read_json(folder / SUMMARY)
    if part in _SCORES:
        what, figures, count = _SCORES[part], summary["distilled"], summary["distilled"]["num_nets"]
    elif part.startswith("poisoning: "):
        what, when = part.removeprefix("poisoning: ").split(", ")
        figures, count = summary["poisoning"][when], summary["poisoning"]["num_nets"]
    else:
        baseline = read_json(folder / BASELINES).get(part)
        if baseline is None:
            return None
        found = {"mean": baseline["accuracy_mean"], "std": baseline["accuracy_std"], "networks": baseline["num_nets"]}
        made = {name: baseline[name] for name in ("commit", "machine", "seconds")}
        return found | made | {"status": _status(baseline, part, folder, wanted)}
    return {
        "mean": figures[f"{what}_mean"],
        "std": figures[f"{what}_std"] if count > 1 else 0.0,  # older files of one network lack it
        "networks": count,
        "commit": in_turn(origins(folder), "commit"),
        "machine": in_turn(origins(folder), "machine"),
        "seconds": read_json(folder / PROVENANCE)["seconds_distilling"],
        "status": MEASURED,
    }


_SCORES = {"distilled": "accuracy", "before": "accuracy_before"}
_OURS = {"distilled", *(f"poisoning: {what}, after" for what in ("overall", "modified", "attacked"))}  # not baselines
