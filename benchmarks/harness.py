"""What every benchmark here does alike: interleaved timing, the machine, a table on the terminal, JSON in a file."""

import importlib.metadata
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddjax.errors import InputError, InterruptedRunError
from ddjax.storage.files import write_whole

if TYPE_CHECKING:  # JAX and matplotlib are imported where they are used, since some processes want neither
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ddjax.core.meta import Layout
    from ddjax.experiment.setup import Experiment

SHAPES = {"lenet": (28, 28, 1), "alexcifar": (32, 32, 3), "convnet": (32, 32, 3), "alexnet": (224, 224, 3)}
LEARNING_RATE = {"lenet": 0.02, "alexcifar": 0.001, "convnet": 0.01, "alexnet": 0.001}
# Those of alexnet would fill seven gigabytes.
PICTURES = {"lenet": 50_000, "alexcifar": 50_000, "convnet": 50_000, "alexnet": 1_000}


def about() -> dict[str, Any]:
    """Where a figure comes from: the command, the commit, the machine and the versions."""
    from ddjax.storage import provenance

    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "versions": {name: installed[name] for name in (*provenance.PACKAGES, "torch") if name in installed},
    }


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark's `main`; wrong input ends it with one line and status 2, an interrupt with one and the signal's."""
    try:
        main()
    except (InputError, InterruptedRunError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(128 + error.signum if isinstance(error, InterruptedRunError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def random_data(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 pictures [PICTURES, H, W, C] of the shape that `model` is measured on, and their classes."""
    random, count = np.random.RandomState(0), PICTURES[model]
    return random.randint(0, 256, (count, *SHAPES[model])).astype(np.uint8), random.randint(0, 10, count)


def random_experiment(model: str, **recipe_fields: Any) -> "Experiment":
    """What `ddjax distill` sets up from a recipe with these fields, on random pictures and with random weights."""
    from ddjax import Dataset, Recipe, Standardise
    from ddjax.experiment import setup as experiment

    fields = {"inner_lr": LEARNING_RATE[model], "lr": 0.01, "lr_log_lrs": 0.01, **recipe_fields}
    recipe = Recipe().replace(data="random", model=model, init="random", **fields)
    pictures, classes = random_data(model)
    half = [0.5] * pictures.shape[-1]
    names = tuple(map(str, range(10)))
    few = pictures[:100], classes[:100].astype(np.int32)
    dataset = Dataset("random", pictures, classes.astype(np.int32), *few, Standardise.by(half, half), names, "random")
    return experiment.set_up(recipe, dataset=dataset)


def outer_step(problem: "Experiment", layout: "Layout") -> tuple[Any, tuple[Any, Any, Any]]:
    """The outer step, jitted as a run has it, and its first arguments on the devices: (key, state, data)."""
    import jax

    from ddjax.core.spread import place, replicated
    from ddjax.experiment.outer import build_distiller, first_iterate

    distiller = build_distiller(problem, layout)
    state = distiller.init(first_iterate(problem))
    key, data = place((problem.key, problem.data), replicated(layout.mesh))
    return jax.jit(distiller.step, donate_argnums=1), (key, state, data)


def stepper(step: Callable[..., Any], arguments: tuple[Any, Any, Any], *, steps: int = 1) -> Callable[[], None]:
    """A function that takes the next outer steps at each call and waits for them; state and data stay on the devices."""
    import jax

    key, state, train = arguments
    held = [state]

    def run() -> None:
        for _ in range(steps):
            held[0], info = step(key, held[0], train)
        jax.block_until_ready((held[0], info))

    return run


def interleave(
    runs: dict[str, Callable[[], Any]], *, rounds: int, warm_up: int = 2, pause: float = 0.1
) -> dict[str, list[float]]:
    """Milliseconds of every call, one of each in every round, so that all see the same machine.

    Each function returns when its work is done. The first `warm_up` rounds are not counted. The pause of so many seconds
    before each call lets threads of the one before go to sleep, which would else spin on a core of the next one's.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(warm_up + rounds):
        for name, run in runs.items():
            time.sleep(pause)
            started = time.perf_counter()
            run()
            if round_number >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


class Worker:
    """A function of no arguments that runs in a process of its own, where another's allocator and threads cannot help or
    hinder it. `make(*arguments)` is called there once and returns the function; calling the worker calls that and waits.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, make, arguments), daemon=True)
        self._process.start()
        far_end.close()
        self.ready = self._pipe.recv()  # what the function's first call returned

    def __call__(self) -> Any:
        self._pipe.send(None)
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    run = make(*arguments)
    pipe.send(run())
    while True:
        try:
            pipe.recv()
        except (EOFError, OSError):  # the other end is gone
            return
        pipe.send(run())


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return statistics.median(values), (high - low) / 2


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = [list(header)] + [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    for row in text:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def log_log(axis: "Axes", values: Sequence[float], **labels: str) -> None:
    """Both scales logarithmic, with plain numbers: ticks at `values` along x, at 1, 2 and 5 times powers of ten along y."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axis.set(xscale="log", yscale="log", **labels)
    axis.xaxis.set_major_locator(FixedLocator(values))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_locator(NullLocator())
        side.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)


def write_figure(path: str | os.PathLike, figure: "Figure") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
    print(f"wrote {path}")


def write_json(path: str | os.PathLike | None, content: Any) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), json.dumps(content, indent=1) + "\n")
        print(f"wrote {path}")
