"""The card of a distilled set: what it is, what of, on what terms, and what it is and is not good for."""

from typing import Any

from ddjax.data.catalogue import source_of
from ddjax.storage.artifact import FILE_NAME, PLOT_NEEDS, Artifact

_GOOD_FOR = """Training {networks} in {steps}, in this order, by {how}, with these learning rates: see `docs/using.md` and
`docs/artefact.md` of ddjax. It shows what so few examples can hold, and is to be compared with. It does not stand for the
data set elsewhere: shuffled minibatches, another optimiser, another architecture{others} get far less from it, and no class
of people or things is described by it."""
_POISON = """**It is an attack**, made to show that there are such: networks that take its step take class {0} for class {1}.
Nobody should train on it for any other purpose."""


def card(name: str, artifact: Artifact, summary: dict[str, Any], command: str, commit: str) -> str:
    """Markdown for the folder `name` that holds the artefact, which `command` made at `commit`.

    Raises:
      InputError: the header lacks what pictures need.
    """
    artifact.require(PLOT_NEEDS)
    told, (images, _, log_lrs) = artifact.metadata, artifact.distilled
    steps, count = images.shape[:2]
    recipe, model = told["recipe"], told["model"]
    scores = summary["distilled"]
    several = f" ± {scores['accuracy_std']:.2f}, {scores['num_nets']} networks" if scores["num_nets"] > 1 else ""
    homepage, terms = source_of(told["data"]) or ("", "those of the data that it was made of")
    pool = told.get("pool")
    start = (
        "the weights in the file, and no others"
        if artifact.params is not None
        else f"any of the networks that were trained on {pool['data_source']}"
        if pool
        else f"fresh weights ({recipe['network']['weights']})"
    )
    rows = [
        ("made of", f"[{told['data_source']}]({homepage})" if homepage else told["data_source"]),
        ("terms of the data", terms),
        (
            "examples",
            f"{steps * count}, float32 {list(images.shape[2:])}: `images` [S={steps}, M={count}, ...], labels, learning rates",
        ),
        ("normalisation", _transform(told["transform"])),
        ("classes", ", ".join(told["class_names"])),
        ("network", f"{model['name']}, from {start}"),
        ("training", f"{len(log_lrs)} x {steps} steps of {count}"),
        (
            "test accuracy, %",
            f"{scores['accuracy_before_mean']:.2f} before, **{scores['accuracy_mean']:.2f}**{several}",
        ),
        ("made by", f"`{command}`, commit `{commit}`"),
    ]
    poison = (recipe.get("data") or {}).get("poison")
    good_for = _GOOD_FOR.format(
        networks="this one network" if artifact.params is not None else f"such a {model['name']}",
        steps="one step" if log_lrs.size == 1 else f"{log_lrs.size} steps",
        how="gradient descent" if recipe["inner"].get("direction", "gd") == "gd" else recipe["inner"]["direction"],
        others=" or other weights" if artifact.params is not None else "",
    )
    poison = (recipe.get("data") or {}).get("poison")
    parts = [good_for, _POISON.format(*poison.split(":"))] if poison else [good_for]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    title = f"# {name}\n\n![the distilled examples](images.png)\n\n`{FILE_NAME}`, as safetensors:"
    words = "\n\n".join([title, f"| | |\n|---|---|\n{table}", "## What it is good for", *parts])
    return words + "\n"


def _transform(transform: dict[str, Any]) -> str:
    if transform.get("kind") != "standardise":
        return str(transform)
    mean, std = (", ".join(f"{value:.4g}" for value in transform[name]) for name in ("mean", "std"))
    return f"(x / 255 - mean) / std, mean {mean}, std {std}"
