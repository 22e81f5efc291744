"""What one outer step costs against S (steps), E (epochs), M (images a step), N (networks) and W (window), one at a time.

    python benchmarks/steps_epochs.py                                       # LeNet, all five sweeps
    python benchmarks/steps_epochs.py --sweep networks --values 1 4 16      # one of them
    python benchmarks/steps_epochs.py --window 10 --sweep epochs --values 1 3 9 # what runs before a window
    python benchmarks/steps_epochs.py --plot benchmarks/steps_epochs.png

The others stay at the base point, S=10, E=3, M=10, N=1 with 1024 real examples and no window, unless an option moves it; a
window of W steps begins anywhere, so that (S E - W) / 2 steps run before it on average. For every point:
`ms`, the median time of a whole outer step as `ddjax distill` takes it (draw batch and networks, meta-gradient, Adam), and
half the distance between quartiles; `compile_s`, tracing and compiling it, once, with nothing cached; `MB`, the temporary
memory that the compiled step asks for on each device (data set and state not counted). Points of a sweep take steps in turn,
so all see the same machine. The pictures are random: nothing is downloaded. `--json FILE` writes a list of rows.
"""

import argparse
import os
import time
from typing import Any

import harness

from ddjax.errors import InputError
from ddjax.training.devices import make_layout, use_all_cores

VALUES = {
    "steps": [1, 2, 5, 10, 20, 50],
    "epochs": [1, 3, 10, 30],
    "per-step": [10, 20, 50, 100],
    "networks": [1, 2, 4, 8, 16],
    "window": [1, 2, 5, 10, 20, 30],
}
AXES = {
    "steps": "S, inner steps an epoch",
    "epochs": "E, epochs",
    "per-step": "M, images a step",
    "networks": "N, networks an outer step",
    "window": "W, steps of the window",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(harness.SHAPES), default="lenet")
    parser.add_argument("--sweep", choices=tuple(VALUES), nargs="+", default=list(VALUES), help="what to sweep")
    parser.add_argument("--values", type=int, nargs="+", help="values of the sweep, where there is only one")
    parser.add_argument("--steps", type=int, default=10, help="S of the base point")
    parser.add_argument("--epochs", type=int, default=3, help="E of the base point")
    parser.add_argument("--per-step", type=int, default=10, help="M of the base point, a multiple of the 10 classes")
    parser.add_argument("--networks", type=int, default=1, help="N of the base point")
    parser.add_argument("--window", type=int, help="W of the base point; all S x E steps without")
    parser.add_argument("--batch-size", type=int, default=1024, help="real examples an outer step")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each point, in turn")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the sweeps there")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def points(args: argparse.Namespace, sweep: str) -> list[dict[str, int]]:
    """The points of one sweep, each with all of S, E, M and N, and W where there is a window."""
    base = {"steps": args.steps, "epochs": args.epochs, "per-step": args.per_step, "networks": args.networks}
    if args.window is not None:
        base["window"] = args.window
    return [base | {sweep: value} for value in sorted(set(args.values or VALUES[sweep]))]


def check(args: argparse.Namespace) -> None:
    if args.values and len(set(args.sweep)) > 1:
        raise InputError("--values belongs to one sweep: name it with --sweep")
    if min(args.rounds, args.batch_size) < 1:
        raise InputError("--rounds and --batch-size must be at least 1")
    for sweep in args.sweep:
        for point in points(args, sweep):
            if min(point.values()) < 1 or point["per-step"] % 10:
                raise InputError("S, E, N and W must be at least 1, and M a multiple of the 10 classes")
            if point.get("window", 1) > point["steps"] * point["epochs"]:
                raise InputError("W must be at most S x E")


def measure(args: argparse.Namespace, sweep: str, base: Any) -> list[dict[str, Any]]:
    """The rows of one sweep; `base` is an experiment whose recipe the points replace, so that all share its data."""
    rows, runs = [], {}
    for point in points(args, sweep):
        recipe = base.recipe.replace(
            steps=point["steps"],
            epochs=point["epochs"],
            per_class=point["per-step"] // 10,
            num_nets=point["networks"],
        )
        layout = make_layout(recipe.outer.num_nets, recipe.outer.batch_size)
        problem = base.problem._replace(window=point.get("window"))
        step, arguments = harness.outer_step(base._replace(recipe=recipe, problem=problem), layout)
        started = time.perf_counter()
        compiled = step.lower(*arguments).compile()
        seconds = time.perf_counter() - started
        memory = compiled.memory_analysis().temp_size_in_bytes
        rows.append({"sweep": sweep, **point, "compile_s": round(seconds, 2), "MB": round(memory / 1e6, 3)})
        runs[str(point[sweep])] = harness.stepper(compiled, arguments)
    for row, times in zip(rows, harness.interleave(runs, rounds=args.rounds).values(), strict=True):
        median, spread = harness.spread(times)
        row |= {"ms": round(median, 3), "spread_ms": round(spread, 3)}
        if sweep == "networks":
            row["ms_per_network"] = round(median / row["networks"], 3)
    return rows


def show(sweep: str, rows: list[dict[str, Any]]) -> None:
    fixed = ", ".join(f"{name} {rows[0][name]}" for name in VALUES if name != sweep and name in rows[0])
    columns = [sweep, "ms", "spread_ms", "compile_s", "MB"] + ["ms_per_network"] * (sweep == "networks")
    print(f"\n{AXES[sweep]} ({fixed})")
    harness.print_table([name.replace("_", " ") for name in columns], [[row[name] for name in columns] for row in rows])


def plot(path: str, rows: list[dict[str, Any]]) -> None:
    """One column a sweep: time above, memory below, the scale of each row shared so that sweeps compare."""
    from matplotlib.figure import Figure

    sweeps = list(dict.fromkeys(row["sweep"] for row in rows))
    figure = Figure(figsize=(3.1 * len(sweeps) + 0.9, 5.6), layout="constrained")
    grid = figure.subplots(2, len(sweeps), squeeze=False, sharex="col", sharey="row")
    for column, sweep in enumerate(sweeps):
        own = [row for row in rows if row["sweep"] == sweep]
        values = [row[sweep] for row in own]
        for axis, quantity in zip(grid[:, column], ("ms", "MB"), strict=True):
            last = own[-1][quantity]
            axis.plot(values, [last * v / values[-1] for v in values], ":", color="gray", label="in proportion")
            drawn = [row[quantity] for row in own]
            axis.errorbar(values, drawn, [row["spread_ms"] for row in own] if quantity == "ms" else None, fmt="o-")
            harness.log_log(axis, values)
        grid[1, column].set_xlabel(AXES[sweep])
    grid[0, 0].set_ylabel("time of an outer step, ms")
    grid[1, 0].set_ylabel("temporary memory a device, MB")
    grid[0, 0].legend(fontsize=8, loc="lower right")
    base = rows[0]
    figure.suptitle(f"{base['model']}, {base['batch_size']} real examples, {base['device']}", fontsize=10)
    harness.write_figure(path, figure)


def main() -> None:
    args = parse()
    check(args)
    use_all_cores()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU may be shared
    import jax

    from ddjax.core.spread import replicated

    base = harness.random_experiment(args.model, batch_size=args.batch_size)
    everywhere = replicated(make_layout(args.networks, args.batch_size).mesh)
    base = base._replace(train=jax.device_put(base.train, everywhere))  # once, not again for every point
    rows = []
    for sweep in dict.fromkeys(args.sweep):
        rows += measure(args, sweep, base)
        show(sweep, rows[-len(points(args, sweep)) :])
    origin = harness.about()
    device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    for row in rows:
        row |= {"model": args.model, "batch_size": args.batch_size, "device": device, "rounds": args.rounds, **origin}
    harness.write_json(args.json, rows)
    if args.plot:
        plot(args.plot, rows)


if __name__ == "__main__":
    harness.run(main)
