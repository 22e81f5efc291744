"""Everything that is open on an accelerator, in order: whoever has one for half an hour gets it measured.

    python benchmarks/accelerator.py --list              # the queue: what it measures, about how long, where it is done
    python benchmarks/accelerator.py --next              # the first that this machine has not done, in 9 minutes at most
    python benchmarks/accelerator.py --minutes 28        # one after the other until the time is spent
    python benchmarks/accelerator.py --rehearse          # all of it at a tiny size, on a CPU too, into a temporary folder

A measurement that is done is OUT/MACHINE/NAME.json: the device, code, commit and versions, rows, and the bars it is held
against; it appears whole or not at all. One that is stopped begins anew at the next call, but the paper's runs go on from
OUT/MACHINE/unfinished/paper: take that folder along to where they go on, and to file what is done there,
`cp -r OUT/MACHINE/unfinished/paper/results/NAME results/ && ddjax reproduce paper --page-only`.

A bare machine needs a checkout, not installed (`PYTHONPATH=. python benchmarks/accelerator.py ...`), with jax for its device,
flax, optax, chex, orbax-checkpoint, safetensors, scikit-learn, matplotlib and tqdm, and torch for `throughput`; neither tyro
nor tensorflow-datasets. Where git's files did not come along, give the commit with `--commit`. CIFAR-10 may come as one file,
`--data cifar10=cifar10.npz`, which this makes of the prepared set (170 MB; `split -b 50M` and `cat` carry it in parts):

    python -c "import ddjax, numpy; d = ddjax.load_dataset('cifar10'); numpy.savez_compressed('cifar10.npz', **{
        n: getattr(d, n) for n in ('x_train', 'y_train', 'x_test', 'y_test', 'class_names')})"
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import numpy as np

from ddjax.errors import InputError
from ddjax.storage import provenance
from ddjax.storage.files import write_json

HERE = Path(__file__).resolve().parent
MOST, TO_SAVE = 520.0, 45.0  # seconds a measurement may take, and those in which one that is stopped saves what it has


@dataclass(frozen=True)
class Measurement:
    """One entry of the queue.

    Attributes:
      name, what: what it is called, and what it measures.
      minutes: about how long it takes, a guess until it was measured.
      words: the script, and its options; tiny: options after these that make it a rehearsal.
      bars: times as fast as PyTorch that is wanted, by networks; needs: a package that may be missing.
      goes_on: whether what was stopped is gone on with, so that it may be stopped at any time.
    """

    name: str
    what: str
    minutes: int
    words: str
    tiny: str
    bars: Mapping[int, float] = field(default_factory=dict)
    needs: str = "jax"
    goes_on: bool = False


def throughput(
    model: str, networks: str, *, minutes: int, bars: Mapping[int, float] | None = None, name: str = ""
) -> Measurement:
    return Measurement(
        f"throughput-{name or model}",
        f"an outer step against PyTorch, {model}, N = {networks.replace(' ', ', ')}",
        minutes,
        f"throughput.py --model {model} --networks {networks} --rounds 7",
        "--networks 1 --steps 1 --epochs 1 --batch-size 16 --rounds 1",
        bars or {},
        needs="torch",
    )


def paper_run(name: str, *, minutes: int) -> Measurement:
    what = f"{name} at its full budget, and what is measured beside it"
    return Measurement(name, what, minutes, f"accelerator.py --run {name}", "--budget quick", goes_on=True)


QUEUE = (
    throughput("lenet", "1 4 16", minutes=4, bars={4: 20, 16: 40}),
    throughput("lenet", "64", minutes=4, name="lenet-64"),
    throughput("alexcifar", "1 4", minutes=4, bars={4: 3}),
    throughput("convnet", "1 4", minutes=4),
    Measurement(
        "convolutions-steps",
        "an outer step by form of convolution, native or products",
        6,
        "conv.py --whole-steps lenet alexcifar convnet --networks 1 4",
        "--whole-steps lenet --networks 1 --inner-steps 1 --batch 2 --rounds 1",
    ),
    Measurement(
        "convolutions",
        "LeNet's convolutions by form: forward, gradient, Hessian-vector product",
        6,
        "conv.py --batch 10 1024",
        "--batch 4 --networks 1 --layer 2 --what forward --rounds 1 --loop-ms 0.01",
    ),
    Measurement(
        "steps-epochs",
        "an outer step against S, E, M and N, LeNet: time, memory",
        6,
        "steps_epochs.py",
        "--sweep networks --values 1 --steps 1 --epochs 1 --batch-size 16 --rounds 1",
    ),
    paper_run("cifar10-fixed", minutes=30),
    paper_run("cifar10-random", minutes=60),
    paper_run("cifar10-ipc1", minutes=30),
    paper_run("cifar10-ipc10", minutes=60),
    paper_run("cifar10-poison", minutes=60),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    do = parser.add_mutually_exclusive_group(required=True)
    do.add_argument("--list", action="store_true", help="print the queue")
    do.add_argument("--next", action="store_true", help="do the first that is open")
    do.add_argument("--minutes", type=float, help="do what is open, until so many minutes are spent")
    do.add_argument("--rehearse", action="store_true", help="do all of it at a tiny size, and keep nothing")
    do.add_argument("--run", metavar="NAME", help=argparse.SUPPRESS)  # a run of the paper, as the queue calls it
    names = [measurement.name for measurement in QUEUE]
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=names, default=names, help="of the queue, these")
    parser.add_argument("--data", metavar="cifar10=FILE.npz", help="where CIFAR-10 is, if not in $TFDS_DATA_DIR")
    parser.add_argument("--commit", metavar="ID", help="what the code is, where git cannot tell")
    parser.add_argument(
        "--accept-changes", action="store_true", help="go on with the paper's runs though code or versions changed"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "accelerator", help="folder of all machines")
    parser.add_argument("--budget", choices=("full", "quick"), default="full", help=argparse.SUPPRESS)
    parser.add_argument("--json", help=argparse.SUPPRESS)
    return parser.parse_args()


def accelerator() -> str:
    """The name of the device here, asked for in another process: whoever asks holds its memory."""
    ask = "import jax; print(jax.default_backend()); print(jax.devices()[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"JAX finds no device: {(done.stderr.strip().splitlines() or [''])[-1]}")
    backend, kind = done.stdout.splitlines()[-2:]
    if backend == "cpu":
        raise InputError("JAX sees no accelerator here: install jax for it, or try all with --rehearse")
    return kind


def show(out: Path) -> None:
    """The queue, with what each machine has done of it."""
    for measurement in QUEUE:
        name, states = measurement.name, []
        for path in sorted(out.glob(f"*/{name}.json")):
            filed = json.loads(path.read_text())
            met = [f"{b['measured']:g}x at N={b['networks']}, wanted {b['wanted']:g}x" for b in filed["bars"]]
            states.append(f"done on {filed['device']}" + f" ({'; '.join(met)})" * bool(met))
        done = {path.parent.name for path in out.glob(f"*/{name}.json")}
        begun = {path.parents[3].name for path in out.glob(f"*/unfinished/paper/runs/{name}")}
        states += [f"begun on {machine}" for machine in sorted(begun - done)]
        wanted = "".join(f", bar {ratio:g}x at N={count}" for count, ratio in measurement.bars.items())
        print(f"{name:<20} about {measurement.minutes:>2} min  {'; '.join(states) or 'open'}")
        print(f"{'':<20} {measurement.what}{wanted}", flush=True)


def measure(measurement: Measurement, device: str, place: Path, options: list[str], seconds: float) -> str:
    """Measures for so many seconds at most and files what came of it; returns why nothing did, or nothing."""
    draft = place / "unfinished" / f"{measurement.name}.json"
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.unlink(missing_ok=True)
    script, *words = measurement.words.split()
    words += [*options, "--json", str(draft)]
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, str(HERE / script), *words])
    try:
        status = child.wait(seconds)
    except subprocess.TimeoutExpired:
        going = "; the next call goes on with it" if measurement.goes_on else ""
        return f"stopped, {seconds / 60:.1f} minutes are over{going}"
    finally:
        stop(child)
    if status:
        return f"failed with exit status {status}"
    rows = json.loads(draft.read_text())
    content = {
        "name": measurement.name,
        "what": measurement.what,
        "device": device,
        "code": provenance.code(),
        "commit": provenance.commit(),
        "seconds_of_last_call": round(time.monotonic() - started, 1),
        "bars": bars(measurement, rows),
        "rows": rows,
    }
    write_json(place / f"{measurement.name}.json", content)
    return ""


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a measurement that has not ended, as `ddjax.training.loop` has it: the step under way is saved first."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(TO_SAVE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def bars(measurement: Measurement, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted beside what was measured."""
    ratios = {row["networks"]: row["ratio"] for row in rows if "ratio" in row}
    return [
        {"networks": count, "wanted": wanted, "measured": ratios[count], "met": ratios[count] >= wanted}
        for count, wanted in measurement.bars.items()
        if count in ratios
    ]


def go_through(args: argparse.Namespace, device: str, place: Path, data: str | None) -> int:
    """Measures what is open, one or until the time is spent; returns how many failed."""
    ends, failed = time.monotonic() + (60 * args.minutes if args.minutes else MOST), 0
    for measurement in QUEUE:
        name, left = measurement.name, ends - time.monotonic()
        if name not in args.only or (place / f"{name}.json").is_file():
            continue
        if importlib.util.find_spec(measurement.needs) is None:
            print(f"{name}: left out, it needs {measurement.needs}", flush=True)
            continue
        if not args.rehearse and left < 60 * (1 if measurement.goes_on else measurement.minutes):
            print(f"{name}: left for another call, {max(left, 0) / 60:.1f} minutes are not enough", flush=True)
            continue
        print(f"\n{name}: {measurement.what}", flush=True)
        options = measurement.tiny.split() if args.rehearse else []
        if measurement.goes_on:
            options += ["--out", str(place / "unfinished" / "paper"), *(["--data", data] if data else [])]
            options += ["--accept-changes"] * args.accept_changes
        seconds = left if measurement.goes_on and not args.rehearse else MOST
        why_not = measure(measurement, device, place, options, seconds)
        failed += why_not.startswith("failed")
        print(f"{name}: {why_not or f'done, {place / name}.json'}", flush=True)
        if args.next:
            return failed
    return failed


def run_of_the_paper(args: argparse.Namespace) -> None:
    """Goes on with a run of the paper or the benchmark: distillation and baselines, to their end or until a signal."""
    from ddjax.training import devices, signals

    devices.use_all_cores()
    from ddjax.paper.reproduce import reproduce
    from ddjax.paper.rows import ROWS

    book = next(row.book for row in ROWS if row.run == args.run)
    options: dict[str, Any] = {"budget": args.budget, "accept_changes": args.accept_changes}
    with signals.end_at_once("interrupted, what was saved is intact"):
        rows = reproduce(args.out, book, only=[args.run], dataset=given(args.data), **options)
    origin = harness.about()
    harness.write_json(args.json, [{**origin, **row} for row in rows if row["run"] == args.run])


def given(data: str | None) -> Any:
    """The data set that `--data` names, as if it had been prepared here."""
    if data is None:
        return None
    from ddjax.data import load_dataset
    from ddjax.data.catalogue import CATALOGUE

    name, _, file = data.partition("=")
    entry = CATALOGUE[name]
    dataset = load_dataset(Path(file))
    transform = entry.transform or dataset.transform
    return dataclasses.replace(dataset, name=name, source=f"{name}:{entry.version}", transform=transform)


def like_cifar10(path: Path) -> str:
    """Writes a few random pictures of CIFAR-10's shape; returns what `--data` then says."""
    random = np.random.RandomState(0)
    parts = {"train": 240, "test": 40}
    pictures = {f"x_{part}": random.randint(0, 256, (count, 32, 32, 3), np.uint8) for part, count in parts.items()}
    np.savez(path, **pictures, **{f"y_{part}": np.arange(count) % 10 for part, count in parts.items()})
    return f"cifar10={path}"


def main() -> None:
    args = parse()
    if args.minutes is not None and not args.minutes > 0:
        raise InputError(f"--minutes is {args.minutes:g}: give a number above zero")
    if args.data and not (args.data.startswith("cifar10=") and Path(args.data[8:]).is_file()):
        raise InputError(f"--data is {args.data!r}: give cifar10=FILE.npz, a file that is there")
    if args.commit:
        os.environ["DDJAX_COMMIT"] = args.commit
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # through `finally`, as with Ctrl-C
    if args.run:
        run_of_the_paper(args)
    elif args.list:
        show(args.out)
    elif args.rehearse:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        with tempfile.TemporaryDirectory() as folder:
            data = args.data or like_cifar10(Path(folder) / "pictures.npz")
            sys.exit(min(1, go_through(args, "rehearsal", Path(folder), data)))
    else:
        if not provenance.commit():
            raise InputError("git cannot tell which commit this is: give it with --commit")
        device = accelerator()
        place = args.out / re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        sys.exit(min(1, go_through(args, device, place, args.data)))


if __name__ == "__main__":
    harness.run(main)
