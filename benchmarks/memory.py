"""Temporary memory of one outer step against the length T of the inner loop, by differentiation rule.

    python benchmarks/memory.py                          # LeNet, gradient descent, T = 30, 100 and 300
    python benchmarks/memory.py --direction adam --plot benchmarks/memory.png
    python benchmarks/memory.py --model alexnet --steps 1 --epochs 1 3 --per-step 20 --peak

The rules: `reverse_over_reverse`, plain automatic differentiation, which keeps every step's activations; `mixed_mode`, ours,
which keeps what each step starts from; `mixed_mode` with `remat`, which keeps that of one epoch and of every epoch's start.
T = S * E with S fixed. `MB` is what the compiled step asks for beside its arguments and results, on one device with one
network; the step is compiled and not run, unless `--rounds` asks for its time too, so a busy machine does not change it.
`weights/step` is what each step more costs, (memory(T) - memory(T before)) / (T - T before), in units of the network's
weights. The last lines hold the growth over all T against what should be kept: one copy a step, of the weights and of the
state that momentum (as large) or Adam (twice) adds. With `--peak`, one step of the longest T is taken with `remat` by a
process of its own, on one core: what the compiled step needs in all, and the most that the process ever held, against 16 GB.
"""

import argparse
import os
import resource
from collections.abc import Callable
from typing import Any

import harness

from ddjax.errors import InputError
from ddjax.training.devices import make_layout, use_all_cores

BAR = 16e9  # bytes that one outer step may take
LIMIT = 1.2  # copies a step: one is needed, and a little is left for what XLA lays beside it


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(harness.SHAPES), default="lenet")
    parser.add_argument("--direction", choices=("gd", "momentum", "adam"), default="gd", help="of the inner loop")
    parser.add_argument("--steps", type=int, default=10, help="S, inner steps an epoch")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 10, 30], help="values of E")
    parser.add_argument("--per-step", type=int, default=10, help="M, images a step")
    parser.add_argument("--batch-size", type=int, default=1024, help="real examples an outer step")
    parser.add_argument("--rounds", type=int, default=0, help="also time the steps of the shortest T, so often")
    parser.add_argument("--peak", action="store_true", help="also take one step and see what its process held")
    parser.add_argument("--plot", metavar="FILE.png", help="draw memory against T there")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def size(tree: Any) -> int:
    """Bytes of a pytree of arrays or of their shapes."""
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def base_experiment(args: argparse.Namespace) -> tuple[Any, Any]:
    """The experiment, but for its epochs, and the layout on one device."""
    fields = {"steps": args.steps, "direction": args.direction, "batch_size": args.batch_size}
    base = harness.random_experiment(args.model, per_class=args.per_step // 10, **fields)
    return base, make_layout(1, args.batch_size)._replace(mesh=None)


def one_step(args: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Runs in a process of its own: a function that takes a step of the longest T and says what was held so far."""
    base, layout = base_experiment(args)
    longest = base._replace(recipe=base.recipe.replace(epochs=max(args.epochs)))
    step, arguments = harness.outer_step(longest, layout._replace(remat=True))
    compiled = step.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    run = harness.stepper(compiled, arguments)

    def take() -> dict[str, Any]:
        run()
        return {
            "temporary_bytes": memory.temp_size_in_bytes,
            "argument_bytes": memory.argument_size_in_bytes,
            "result_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "peak_resident_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }

    return take


def peak(args: argparse.Namespace) -> dict[str, Any]:
    """What `one_step` reports, printed, with whether all of it is below `BAR`."""
    worker = harness.Worker(one_step, args)
    found = worker.ready
    worker.stop()
    temporary, given, results, held = found.values()
    print(
        f"T={args.steps * max(args.epochs)}, mixed_mode, remat: {temporary / 1e9:.2f} GB, with arguments and results "
        f"{(temporary + given + results) / 1e9:.2f} GB; the process held {held / 1e9:.2f} GB at most, "
        f"{'below' if max(held, temporary + given + results) < BAR else 'NOT below'} {BAR / 1e9:g} GB"
    )
    return found


def measure(args: argparse.Namespace) -> tuple[list[dict[str, Any]], int, float]:
    """The rows, the bytes of the weights, and how many times that a step starts from."""
    import jax

    from ddjax.core.rules import mixed_mode, reverse_over_reverse

    rules = {
        "reverse_over_reverse": (reverse_over_reverse, False),
        "mixed_mode": (mixed_mode, False),
        "mixed_mode, remat": (mixed_mode, True),
    }
    base, layout = base_experiment(args)
    params, direction = jax.eval_shape(base.problem.init, base.key), base.problem.direction
    weights = size(params)
    kept = weights + (0 if direction is None else size(jax.eval_shape(direction.init, params)))
    rows: list[dict[str, Any]] = []
    runs: dict[str, Any] = {}
    for epochs in sorted(set(args.epochs)):
        problem = base._replace(recipe=base.recipe.replace(epochs=epochs))
        for name, (rule, remat) in rules.items():
            one = problem._replace(problem=problem.problem._replace(rule=rule))
            step, arguments = harness.outer_step(one, layout._replace(remat=remat))
            compiled = step.lower(*arguments).compile()
            memory = compiled.memory_analysis().temp_size_in_bytes
            if epochs == min(args.epochs):
                runs[name] = harness.stepper(compiled, arguments)
            T = args.steps * epochs
            before = next((row for row in reversed(rows) if row["rule"] == name), None)
            growth = None if before is None else (memory - before["bytes"]) / (T - before["T"]) / weights
            rows.append({"T": T, "rule": name, "bytes": memory, "weights_per_step": growth})
    if args.rounds:
        for row, times in zip(rows, harness.interleave(runs, rounds=args.rounds).values(), strict=False):
            row["ms"], row["spread_ms"] = (round(value, 2) for value in harness.spread(times))
            print(f"T={row['T']}, {row['rule']}: {row['ms']} ms (± {row['spread_ms']}) an outer step")
    return rows, weights, kept / weights


def verdict(rows: list[dict[str, Any]], rule: str, weights: int, copies: float) -> dict[str, Any]:
    """Growth from the shortest to the longest loop, and whether it is within `LIMIT` copies a step; printed too."""
    own = [row for row in rows if row["rule"] == rule]
    first, last = own[0], own[-1]
    growth = (last["bytes"] - first["bytes"]) / (last["T"] - first["T"]) / weights
    limit = LIMIT * copies
    kept = growth < limit
    word = "below" if kept else "NOT below"
    print(f"{rule}: {growth:.3f} x the weights a step from T={first['T']} to T={last['T']}, {word} {limit:.3g}")
    return {"growth": round(growth, 4), "limit": round(limit, 4), "within": kept}


def plot(path: str, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    lengths = sorted({row["T"] for row in rows})
    for rule, style in zip(dict.fromkeys(row["rule"] for row in rows), ("s-", "o-", "^-"), strict=True):
        axis.plot(lengths, [row["bytes"] / 1e6 for row in rows if row["rule"] == rule], style, label=rule)
    harness.log_log(axis, lengths, xlabel="T, inner steps", ylabel="temporary memory of an outer step, MB")
    axis.legend(fontsize=8)
    about = rows[0]
    axis.set_title(f"{about['model']}, {about['direction']}, one network, one device: {about['device']}", fontsize=10)
    harness.write_figure(path, figure)


def main() -> None:
    args = parse()
    if args.per_step < 10 or args.per_step % 10 or min(args.steps, args.batch_size, *args.epochs) < 1:
        raise InputError("--per-step must be a multiple of the 10 classes, and the other sizes at least 1")
    if len(set(args.epochs)) < 2:
        raise InputError("--epochs wants two values at least: growth is what is measured")
    use_all_cores()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU may be shared
    import jax

    rows, weights, copies = measure(args)
    print(
        f"{args.model}, {args.direction}: weights of {weights / 1e6:.3f} MB, a step starts from {copies:.3g} times that"
    )
    table = [
        [row["T"], row["rule"], row["bytes"] / 1e6, "" if row["weights_per_step"] is None else row["weights_per_step"]]
        for row in rows
    ]
    harness.print_table(("T", "rule", "MB", "weights/step"), table)
    verdicts = {rule: verdict(rows, rule, weights, copies) for rule in ("mixed_mode", "mixed_mode, remat")}
    held = peak(args) if args.peak else None
    origin = harness.about()
    device = jax.devices()[0].device_kind
    for row in rows:
        row |= {"model": args.model, "direction": args.direction, "device": device, "weights_bytes": weights}
        row |= {"growth_from_first_T": verdicts.get(row["rule"]), **({"one_step": held} if held else {}), **origin}
    harness.write_json(args.json, rows)
    if args.plot:
        plot(args.plot, rows)


if __name__ == "__main__":
    harness.run(main)
