"""Runs recipes and rebuilds RESULTS.md and results/ from what they reached.

    python benchmarks/results.py digits mnist-fixed-1step mnist-fixed     # runs them (resumes, if interrupted), then rebuilds
    python benchmarks/results.py                                          # rebuilds the page alone

Each recipe is run by the command that the page prints. What goes into results/NAME/: the artefact, its pictures, the
metrics, the summary, and `provenance.json` (command, commit, machine, versions, wall time).
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import time
from typing import Any

from harness import ROOT, git, machine

KEPT = ("distilled.safetensors", "summary.json", "metrics.jsonl", "images.png", "curve.png", "learning_rates.png")

# A variant of a recipe: what it is called in the page, and the arguments of `ddjax distill`.
VARIANTS = {"digits-exact": ["digits", "--gate-width", "0"]}

# What each recipe is held against: as reported in arXiv 1811.10959, or this project's own bar where the paper has none.
REFERENCES = {
    "digits": "90 (our bar; not in the paper)",
    "digits-exact": "digits, without surrogate gates",
    "digits-random": "(not in the paper)",
    "mnist-fixed-1step": "93.8 (paper)",
    "mnist-fixed": "96.6 (paper, recalled)",
    "mnist-random": "79.5 ± 8.1 (paper)",
    "cifar10-fixed": "54.0 (paper)",
    "cifar10-random": "36.8 ± 1.2 (paper)",
}


def run_recipe(name: str) -> None:
    """Runs one recipe from the committed code and files what it leaves; refuses a tree with uncommitted library code."""
    if git("status", "--porcelain", "--", "ddjax"):
        sys.exit("results: ddjax/ has uncommitted changes, so no commit stands for the result: commit first")
    folder = ROOT / "runs" / name
    command = ["ddjax", "distill", *VARIANTS.get(name, [name]), "--out", f"runs/{name}"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", *command, "--resume"], cwd=ROOT, check=True)
    wall = time.monotonic() - started
    kept = ROOT / "results" / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        shutil.copyfile(folder / file, kept / file)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    provenance = {
        "command": " ".join(command),
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "flax", "optax")},
        "seconds_distilling": metrics[-1]["seconds"],
        "seconds_last_call": round(wall, 1),
    }
    (kept / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def page() -> str:
    """RESULTS.md, from the files under results/ alone."""
    found = [name for name in REFERENCES if (ROOT / "results" / name / "provenance.json").exists()]
    lines = [
        "# Results",
        "",
        "Built by `python benchmarks/results.py` from the files under `results/`; nothing here is typed by hand. Accuracies",
        "are percent of the whole test set, which is read once, at the end; the iterate is chosen on 1/12 of the training set",
        "held out. Where initial weights are random: mean ± standard deviation over fresh networks. `random real` is the same",
        "number of steps on random real images (mean ± deviation over 20 sets), at the best of a grid of learning rates.",
        "",
        "| recipe | images | steps | before | **distilled** | held against | random real | all data | distilling |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in found:
        lines.append(row(name, *load(name)))
    missing = [f"`{name}`" for name in REFERENCES if name not in found]
    lines += ["", *([f"Not run: {', '.join(missing)}."] if missing else []), ""]
    for name in found:
        lines += section(name, *load(name))
    return "\n".join(lines)


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = ROOT / "results" / name
    return json.loads((folder / "summary.json").read_text()), json.loads((folder / "provenance.json").read_text())


def accuracy(scores: dict[str, Any]) -> str:
    spread = f" ± {scores['accuracy_std']:.2f}" if scores["num_nets"] > 1 else ""
    return f"{scores['accuracy_mean']:.2f}{spread}"


def row(name: str, summary: dict[str, Any], provenance: dict[str, Any]) -> str:
    distilled = summary["distilled"]
    cells = (
        f"[{name}](#{name})",
        summary["images"],
        summary["inner_steps"],
        f"{distilled['accuracy_before_mean']:.2f}",
        f"**{accuracy(distilled)}**",
        REFERENCES[name],
        accuracy(summary["random_real"]),
        f"{summary['all_data']['accuracy']:.2f}",
        f"{provenance['seconds_distilling'] / 60:.1f} min",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def section(name: str, summary: dict[str, Any], provenance: dict[str, Any]) -> list[str]:
    points = ", ".join(f"{value:.2f} after {step}" for step, value in summary["accuracy_by_step"].items())
    versions = ", ".join(f"{package} {version}" for package, version in provenance["versions"].items())
    return [
        f"## {name}",
        "",
        f"`{provenance['command']}` at commit `{provenance['commit']}`, seed in the recipe; {provenance['machine']}; "
        f"Python {provenance['python']}, {versions}. Distilling took {provenance['seconds_distilling']:.0f} s.",
        "",
        f"Test accuracy by inner steps taken: {points}. Held-out accuracy of the chosen iterate (outer step "
        f"{summary['best_step']}): {summary['valid_accuracy']:.2f}.",
        "",
        *(f"![{name}: {picture}](results/{name}/{picture}.png)\n" for picture in ("images", "learning_rates", "curve")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"any of {', '.join(REFERENCES)}")
    names = parser.parse_args().recipes
    unknown = [name for name in names if name not in REFERENCES]
    if unknown:
        parser.error(f"unknown recipe {unknown[0]!r}: choose among {', '.join(REFERENCES)}")
    for name in names:
        run_recipe(name)
    (ROOT / "RESULTS.md").write_text(page())


if __name__ == "__main__":
    main()
