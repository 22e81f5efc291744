"""What each technique is worth: the paper's setting, each of today's added to it alone, and those together that help.

    python benchmarks/techniques.py digits --runs runs/techniques --json benchmarks/results/techniques_digits.json

100 images (ten steps, three epochs) for fresh networks, a tenth of a full budget: what the same outer steps come to with one
setting changed. `held out` chooses and `test` is read once, both after the documented steps, means over seeds; `ms` are of an
outer step, its share of the validations within and compilation not, `MB` what the compiled step asks for beside its
arguments, on one device. Distillations lie in `--runs`, with what is compiled, and go on where they were interrupted.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness

from ddjax.training.devices import make_layout, use_all_cores
from ddjax.training.progress import say

BASE = {
    "init": "random",
    "steps": 10,
    "epochs": 3,
    "inner_lr": 0.05,
    "num_nets": 2,
    "batch_size": 256,
    "eval_every": 100,
    "lr": 0.02,
    "lr_log_lrs": 0.02,
    "valid_nets": 16,
    "gate_width": 0.0,
    "clip": 0.3,
}
TECHNIQUES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "from real images": {"start": "real"},
    "those along components": {"start": "real", "basis": "components"},
    "surrogate gates": {"gate_width": 0.2},
    "momentum": {"direction": "momentum", "inner_lr": 0.01},
    "Nesterov": {"direction": "nesterov", "inner_lr": 0.01},
    "Adam": {"direction": "adam", "inner_lr": 0.003},
    "one rate": {"learn_rates": "one"},
    "no rate learned": {"learn_rates": "none"},
    "all images in every step": {"steps": 1, "epochs": 30, "per_class": 10},
    "a tenth of all at random": {"steps": 1, "epochs": 30, "per_class": 10, "subset_images": 1},
    "window of 10 steps": {"window": 10},
    "window of 10 steps, early": {"window": 10, "window_early": 3.0},
    "soft labels": {"learn_labels": True},
    "crops of both sides": {"siamese": "crop"},
    "scale and rotate both": {"siamese": "scale-rotate"},
    "clip at the running norm": {"clip": None, "clip_relative": 2.0},
    "clip each network": {"clip": None, "clip_nets": 0.3},
    "no average of iterates": {"ema": 0.0},
    "constant outer rates": {"schedule": "constant"},
    "warm-up": {"warmup": 50},
}
# Whatever alone gains more than two points of `digits` held out, components beside the start that they want.
TOGETHER = ("those along components", "Adam", "soft labels", "scale and rotate both", "constant outer rates")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data set")
    parser.add_argument("--model", default="lenet", help="network")
    parser.add_argument("--width", type=int, help="of a convnet")
    parser.add_argument("--outer-steps", type=int, default=300, help="of each distillation")
    parser.add_argument("--seeds", type=int, default=3, help="distillations a technique")
    parser.add_argument("--test-nets", type=int, default=20, help="networks that each is tested by")
    parser.add_argument("--together", nargs="*", default=list(TOGETHER), choices=list(TECHNIQUES), metavar="TECHNIQUE")
    parser.add_argument("--only", nargs="*", choices=list(TECHNIQUES), metavar="TECHNIQUE", help="some of them")
    parser.add_argument("--runs", metavar="FOLDER", help="keep distillations there, and go on with them")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def megabytes(recipe: Any) -> float:
    """What the outer step asks for beside its arguments and results, on one device."""
    from ddjax.experiment.setup import set_up

    outer, experiment = recipe.outer, set_up(recipe)
    layout = make_layout(outer.num_nets, outer.batch_size)._replace(mesh=None)
    step, arguments = harness.outer_step(experiment, layout)
    return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes / 1e6


def milliseconds(folder: Path) -> float:
    """An outer step's, from the first validation of a run to its last."""
    from ddjax.storage.metrics import read_metrics

    first, *_, last = read_metrics(folder / "metrics.jsonl")
    return 1000 * (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def row_of(name: str, changes: dict[str, Any], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A technique's figures, means over seeds."""
    import ddjax
    from ddjax.storage.files import read_json

    sizes = {"outer_steps": args.outer_steps, "test_nets": args.test_nets, "width": args.width}
    recipe = ddjax.get_recipe("digits").replace(**BASE, data=args.data, model=args.model, **sizes).replace(**changes)
    summaries, paces, origins = [], [], []
    for seed in range(args.seeds):
        out = folder / args.data / args.model / name.replace(" ", "-").replace("'", "") / f"seed-{seed}"
        done = ddjax.distill(recipe.replace(seed=seed), out, name=name, resume=True, compare=False, progress=False)
        summaries.append(done.summary)
        paces.append(milliseconds(out))
        origins.append(read_json(out / "config.json")["origins"][-1])  # it may have been distilled before
    tests = [summary.distilled["accuracy_mean"] for summary in summaries]
    return {
        "technique": name,
        "changes": changes,
        "held_out": statistics.mean(summary.valid_accuracy for summary in summaries),
        "test": statistics.mean(tests),
        "test_std_over_seeds": statistics.pstdev(tests),
        "std_over_nets": statistics.mean(summary.distilled["accuracy_std"] for summary in summaries),
        "ms": statistics.mean(paces),
        "megabytes": megabytes(recipe),
        **{what: ", ".join(dict.fromkeys(origin[what] for origin in origins)) for what in ("commit", "machine")},
    }


def main() -> None:
    args = parse()
    use_all_cores()
    import jax

    chosen = {name: TECHNIQUES[name] for name in args.only or TECHNIQUES}
    if args.together:
        together = {key: value for name in args.together for key, value in TECHNIQUES[name].items()}
        chosen["together: " + ", ".join(args.together)] = together
    rows, settings = [], {"data": args.data, "model": args.model, "outer_steps": args.outer_steps, "seeds": args.seeds}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.runs or scratch)
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))  # other seeds run the same programs
        say(f"{args.data}, {args.model}: held out, test, over seeds, over networks, ms, MB")
        for name, changes in chosen.items():
            row = row_of(name, changes, args, folder)
            rows.append({**harness.about(), **settings, **row})
            print(
                f"  {name:<26}{row['held_out']:7.2f}{row['test']:7.2f} ± {row['test_std_over_seeds']:.2f} ± "
                f"{row['std_over_nets']:<6.2f}{row['ms']:7.0f}{row['megabytes']:8.1f}",
                flush=True,
            )
    harness.write_json(args.json, rows)


if __name__ == "__main__":
    harness.run(main)
