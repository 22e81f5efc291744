"""What is filed of a run of the paper, in `results/NAME/`, and the rows of tables that it fills."""

from pathlib import Path
from typing import Any

from ddjax.paper.rows import Row
from ddjax.recipes import Recipe, get_recipe
from ddjax.storage.artifact import load_artifact
from ddjax.storage.files import read_json

PROVENANCE, BASELINES = "provenance.json", "baselines.json"
NOT_RUN = "not run yet"


def portable(recipe: Recipe) -> Recipe:
    """A recipe without the folder that its pool happens to lie in."""
    pool = recipe.network.pool
    return recipe.replace(pool=f"pools/{Path(pool).name}") if pool else recipe


def filed_recipe(folder: Path) -> Recipe | None:
    """The settings of the artefact in a folder of results, or None where there is none."""
    if not (folder / PROVENANCE).is_file():
        return None
    return portable(Recipe.from_json(load_artifact(folder).metadata["recipe"]))


def command(recipe: Recipe, name: str) -> str:
    """The command that distils with these settings, as changes of the recipe called `name`."""
    named = get_recipe(name).settings()
    changes = {k: v for k, v in portable(recipe).settings().items() if v != named[k]}
    return " ".join(["ddjax distill", name, *(_flag(k, v) for k, v in changes.items())])


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def departures(recipe: Recipe) -> dict[str, str]:
    """Where the method departs from the paper's, a letter and words for each: RESULTS.md explains the letters."""
    found = {}
    if recipe.network.gate_width:
        found["g"] = f"gates {recipe.network.gate_width:g}"
    if recipe.inner.start == "real":
        found["r"] = "from real images"
    if recipe.outer.clip is not None:
        found["c"] = f"clip {recipe.outer.clip:g}"
    found["s"] = "cosine"
    if recipe.outer.ema:
        found["a"] = f"average {recipe.outer.ema:g}"
    return found | {"h": f"best of {-(-recipe.outer.outer_steps // recipe.report.eval_every)} validations"}


def origin(folder: Path) -> dict[str, Any]:
    """Where the artefact in a folder of results was made, at last."""
    facts = read_json(folder / PROVENANCE)
    found: dict[str, Any] = facts.get("origins", [facts])[-1]
    return found


def filled(folder: Path, row: Row, settings: Recipe, reason: str) -> dict[str, Any]:
    """One row of `paper.json`; figures in percent, null where the row is not measured and `status` says why.

    Args:
      folder: what is filed of the row's run.
      settings: those that the run has now; figures of others are not shown.
      reason: why the run has no figures, if it has none.
    """
    filed = filed_recipe(folder)
    if filed and filed != portable(settings):
        filed = None
        if reason == NOT_RUN:
            reason = "measured with other settings than the recipe has now"
    figure = _figure(row.part, folder) if filed else None
    return {
        **{name: getattr(row, name) for name in ("table", "row", "column", "paper", "run")},
        "ours_mean": None if figure is None else figure["mean"],
        "ours_std": None if figure is None else figure["std"],
        "networks": None if figure is None else figure["networks"],
        "departs": " ".join(departures(filed)) if filed and figure and row.part == "distilled" else "",
        "status": reason if figure is None else "measured",
        "command": f"ddjax reproduce paper --only {row.run}",
        **{name: None if figure is None else figure[name] for name in ("commit", "seconds", "machine")},
    }


def _figure(part: str, folder: Path) -> dict[str, Any] | None:
    """Mean, standard deviation and count of networks of one figure, with its own provenance where it has one."""
    summary, made = read_json(folder / "summary.json"), origin(folder)
    if part.startswith("poisoning: "):
        what, when = part.removeprefix("poisoning: ").split(", ")
        poisoning = summary["poisoning"]
        figures = poisoning[when]
        found = {"mean": figures[f"{what}_mean"], "std": figures[f"{what}_std"], "networks": poisoning["num_nets"]}
    elif part in ("distilled", "before"):
        scores, which = summary["distilled"], "accuracy" if part == "distilled" else "accuracy_before"
        count = scores["num_nets"]
        std = scores[f"{which}_std"] if count > 1 else 0.0
        found = {"mean": scores[f"{which}_mean"], "std": std, "networks": count}
    else:
        baseline = read_json(folder / BASELINES).get(part)
        if baseline is None:
            return None
        found = {"mean": baseline["accuracy_mean"], "std": baseline["accuracy_std"], "networks": baseline["num_nets"]}
        return found | {name: baseline[name] for name in ("commit", "machine", "seconds")}
    seconds = read_json(folder / PROVENANCE)["seconds_distilling"]
    return found | {"commit": made["commit"], "machine": made["machine"], "seconds": seconds}
