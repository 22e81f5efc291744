"""What is filed of a run of the paper, in `results/NAME/`, and the rows of tables that it fills."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ddjax.paper.rows import Row
from ddjax.recipes import Recipe
from ddjax.storage import artifact

NOT_RUN = "not run yet"


def portable(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings without the folder that its pool happens to lie in."""
    return {**dataclasses.asdict(recipe), "pool": Path(recipe.pool).name}


def filed_recipe(folder: Path) -> dict[str, Any] | None:
    """The settings of the artefact in a folder of results, or None where there is none."""
    if not (folder / "provenance.json").is_file():
        return None
    return portable(Recipe(**artifact.load(folder).metadata["recipe"]))


def filled(folder: Path, row: Row, settings: Recipe, reason: str) -> dict[str, Any]:
    """One row of `paper.json`; figures in percent, null where the row is not measured and `status` says why.

    Args:
      folder: what is filed of the row's run.
      settings: those that the run has now; figures of others are not shown.
      reason: why the run has no figures, if it has none.
    """
    filed, facts = filed_recipe(folder), read_json(folder / "provenance.json")
    if filed and filed != portable(settings):
        filed = None
        if reason == NOT_RUN:
            reason = "measured with other settings than the recipe has now"
    figure = _figure(row.part, folder) if filed else None
    told = {**facts, **figure} if figure else {}
    return {
        **{name: getattr(row, name) for name in ("table", "row", "column", "paper", "run")},
        "ours_mean": None if figure is None else figure["mean"],
        "ours_std": None if figure is None else figure["std"],
        "networks": None if figure is None else figure["networks"],
        "status": reason if figure is None else "measured",
        "command": f"ddjax reproduce paper --only {row.run}",
        **{name: told.get(name) for name in ("commit", "seconds", "machine")},
    }


def _figure(part: str, folder: Path) -> dict[str, Any] | None:
    """Mean, standard deviation and count of networks of one figure, with its own provenance where it has one."""
    summary = read_json(folder / "summary.json")
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
        baseline = read_json(folder / "baselines.json").get(part)
        if baseline is None:
            return None
        found = {"mean": baseline["accuracy_mean"], "std": baseline["accuracy_std"], "networks": baseline["num_nets"]}
        return found | {name: baseline[name] for name in ("commit", "machine", "seconds")}
    return found | {"seconds": read_json(folder / "provenance.json")["seconds_distilling"]}


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}
