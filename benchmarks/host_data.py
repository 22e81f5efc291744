"""Data sets that stay on the host: what an outer step on CIFAR-10 loses by it, and how much memory large pictures take.

    python benchmarks/host_data.py --json benchmarks/results/host_data.json
    python benchmarks/host_data.py --large --json benchmarks/results/host_data_large.json

The first takes steps of `cifar10-fixed` in turn with the data on the devices and in their file, memory-mapped, from which each
batch is fetched while the step before runs; one inner step, so that little hides it. `ratio` is the median over rounds of host
to device, since the two of a round see the same machine; `same` says that both ended with the same bits. The bar is 1.05.

The second makes up pictures of 224x224x3 in an .npz file and distils them with a ConvNet from end to end (steps, validation,
test, artefact) in one process, and evaluates the artefact in another. `distil GB` and `evaluate GB` are the most that each ever
held, pages of the file included; the bar is 4. `--where host device` does it a second time with the data on the devices.
"""

import argparse
import contextlib
import os
import resource
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

from ddjax.errors import InputError
from ddjax.training.devices import make_layout, use_all_cores

SLOWER, MOST = 1.05, 4e9  # the bars: a step's time on the host to that on the device; bytes
SHARES = {"host": "0", "device": "1"}  # of a memory that examples may fill
SIDE = 224


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1, help="S, inner steps an epoch, on CIFAR-10")
    parser.add_argument("--epochs", type=int, default=1, help="E, likewise")
    parser.add_argument("--batch-size", type=int, default=256, help="real examples an outer step, on CIFAR-10")
    parser.add_argument("--turn", type=int, default=3, help="outer steps that each side takes in a row")
    parser.add_argument("--rounds", type=int, default=15, help="timed turns of each")
    parser.add_argument("--large", action="store_true", help="large pictures instead of CIFAR-10")
    parser.add_argument("--pictures", type=int, default=8000, help="how many of those, in training")
    parser.add_argument("--width", type=int, default=8, help="of the ConvNet that reads them, of depth 5")
    parser.add_argument("--where", nargs="+", choices=tuple(SHARES), default=["host"], help="where those lie")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def steps_of(args: argparse.Namespace, where: str, stack: contextlib.ExitStack) -> tuple[Callable[[], None], list[Any]]:
    """A function that takes the next steps and waits for them, and a list with the state after them."""
    import jax

    from ddjax import get_recipe
    from ddjax.core.spread import replicated
    from ddjax.data import memory
    from ddjax.experiment.outer import build_distiller, feeding, first_iterate
    from ddjax.experiment.setup import set_up

    os.environ[memory.SHARE] = SHARES[where]
    recipe = get_recipe("cifar10-fixed").replace(
        steps=args.steps, epochs=args.epochs, batch_size=args.batch_size, num_nets=1
    )
    experiment = set_up(recipe)
    layout = make_layout(1, args.batch_size, example_size=32 * 32 * 3)
    distiller = build_distiller(experiment, layout)
    held = [distiller.init(first_iterate(experiment))]
    key, data = jax.device_put((experiment.key, experiment.data), replicated(layout.mesh))
    feed = stack.enter_context(feeding(experiment, key, data, layout.mesh))
    step, taken = jax.jit(distiller.step, donate_argnums=1), iter(range(10**9))

    def run() -> None:
        for _ in range(args.turn):
            held[0], info = step(key, held[0], feed(next(taken)))
        jax.block_until_ready((held[0], info))

    return run, held


def cifar10(args: argparse.Namespace) -> dict[str, Any]:
    """The one row of the first measurement."""
    use_all_cores()
    import jax

    with contextlib.ExitStack() as stack:
        sides = {where: steps_of(args, where, stack) for where in ("device", "host")}
        times = harness.interleave({where: run for where, (run, _) in sides.items()}, rounds=args.rounds)
        states = [jax.tree.leaves(jax.device_get(held)) for _, held in sides.values()]
    ratios = [host / device for host, device in zip(times["host"], times["device"], strict=True)]
    ratio, spread = harness.spread(ratios)
    return {
        "ratio": round(ratio, 4),
        "spread": round(spread, 4),
        "within": ratio < SLOWER,
        **{f"{where}_ms": round(statistics.median(each) / args.turn, 2) for where, each in times.items()},
        "same": all(a.tobytes() == b.tobytes() for a, b in zip(*states, strict=True)),
        "device": jax.devices()[0].device_kind,
        **{name: getattr(args, name) for name in ("steps", "epochs", "batch_size", "turn", "rounds")},
    }


def make_up(path: Path, pictures: int) -> None:
    """Writes an .npz of random pictures, bright in another quarter of each by their class, a few at a time."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", pictures), ("test", pictures // 8)):
            labels = (np.arange(count) % 4).astype(np.int32)
            with archive.open(f"y_{part}.npy", "w") as file:
                np.lib.format.write_array(file, labels)
            with archive.open(f"x_{part}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE, 3)}
                np.lib.format.write_array_header_1_0(file, header)
                for each in np.array_split(labels, max(1, count // 100)):
                    few = rng.integers(0, 200, (len(each), 2, SIDE // 2, 2, SIDE // 2, 3), np.uint8)
                    few[np.arange(len(each)), each // 2, :, each % 2] += 50
                    file.write(few.tobytes())


def whole_run(path: Path, where: str, width: int) -> Callable[[], dict[str, Any]]:
    """Runs in a process of its own: distils the pictures in a file, beside it, and says what that held."""
    use_all_cores()
    import ddjax
    from ddjax.data import memory

    os.environ[memory.SHARE] = SHARES[where]

    def run() -> dict[str, Any]:
        recipe = ddjax.Recipe().replace(
            **{"data": str(path), "model": "convnet", "width": width, "depth": 5, "batch_size": 64, "inner_lr": 0.01},
            **{"outer_steps": 10, "eval_every": 5, "lr": 0.05, "lr_log_lrs": 0.05},
        )
        done = ddjax.distill(recipe, path.parent / where, compare=False)
        return {"accuracy": done.summary.distilled["accuracy_mean"], "peak": peak()}

    return run


def again(path: Path, where: str) -> Callable[[], dict[str, Any]]:
    """The same of evaluating what was distilled there."""
    use_all_cores()
    import ddjax
    from ddjax.data import memory

    os.environ[memory.SHARE] = SHARES[where]

    def run() -> dict[str, Any]:
        evaluation, _ = ddjax.evaluate_artifact(path.parent / where, data=str(path))
        return {"accuracy": evaluation.summary()["accuracy_mean"], "peak": peak()}

    return run


def peak() -> int:
    """Bytes that this process held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def large(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the second measurement."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pictures.npz")
        make_up(path, args.pictures)
        for where in args.where:
            started = time.perf_counter()
            found = []
            for make, arguments in ((whole_run, (path, where, args.width)), (again, (path, where))):
                worker = harness.Worker(make, *arguments)
                found.append(worker.ready)
                worker.stop()
            most = max(each["peak"] for each in found)
            row = {"where": where, "pictures": args.pictures, "width": args.width, "file GB": path.stat().st_size / 1e9}
            row |= {"distil GB": found[0]["peak"] / 1e9, "evaluate GB": found[1]["peak"] / 1e9, "within": most < MOST}
            row |= {"seconds": round(time.perf_counter() - started, 1), "accuracy": found[0]["accuracy"]}
            rows.append(row | {"same": found[0]["accuracy"] == found[1]["accuracy"]})
    return rows


def main() -> None:
    args = parse()
    if min(args.steps, args.epochs, args.batch_size, args.turn, args.rounds, args.width) < 1 or args.pictures < 100:
        raise InputError("the sizes must be at least 1, and --pictures at least 100")
    rows = large(args) if args.large else [cifar10(args)]
    harness.print_table(list(rows[0]), [list(row.values()) for row in rows])
    harness.write_json(args.json, [row | harness.about() for row in rows])


if __name__ == "__main__":
    harness.run(main)
