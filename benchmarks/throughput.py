"""One outer step, ddjax against the authors' algorithm in PyTorch, in one interleaved run.

    python benchmarks/throughput.py                                  # LeNet, 10 steps x 3 epochs, 1, 4 and 16 networks
    python benchmarks/throughput.py --model alexcifar --networks 4   # CIFAR-10 shapes

Both sides take the whole step: draw a real batch from uint8 pictures on the device, draw fresh networks, differentiate
through their training, update images and log learning rates with Adam. float32 on both sides, eager PyTorch with all
threads on a CPU (TF32 off on a GPU), as the authors' code runs. The pictures are random: nothing is downloaded, and time
does not depend on them. Each side has a process of its own, as its users have, and they take turns, of several steps where
those are short; with `--one-process` they share one (its memory allocator, warmed by both, then serves PyTorch better than
a process of its own). `--json FILE` writes a list of rows with networks, device, ddjax_ms, torch_ms and ratio. Needs the
extra `bench` (PyTorch).
"""

import argparse
import importlib.util
import math
import os
from collections.abc import Callable

import harness
import numpy as np

from ddjax.errors import InputError
from ddjax.training.devices import make_layout, use_all_cores


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("lenet", "alexcifar", "convnet"), default="lenet")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 4, 16], help="networks an outer step")
    parser.add_argument("--steps", type=int, default=10, help="S, inner steps with images of their own")
    parser.add_argument("--epochs", type=int, default=3, help="E, passes over them")
    parser.add_argument("--per-step", type=int, default=10, help="M, images a step")
    parser.add_argument("--batch-size", type=int, default=1024, help="real examples an outer step")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each, in turn")
    parser.add_argument(
        "--precision", default="float32", help="of ddjax's products: float32, tensorfloat32 or bfloat16"
    )
    parser.add_argument("--one-process", action="store_true", help="both in this process")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def steps_a_turn(num_nets: int) -> int:
    """Outer steps that each side takes in a row: in training too one follows the other, and caches are warm."""
    return max(1, 6 // num_nets)


def ddjax_step(args: argparse.Namespace, num_nets: int) -> Callable[[], str]:
    """A function that takes one outer step, waits for it and names the device; state and data stay there."""
    use_all_cores()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with PyTorch
    import jax

    problem = harness.random_experiment(
        args.model,
        steps=args.steps,
        epochs=args.epochs,
        per_class=args.per_step // 10,
        num_nets=num_nets,
        batch_size=args.batch_size,
        precision=args.precision,
    )
    outer = harness.outer_step(
        problem, make_layout(num_nets, args.batch_size, example_size=math.prod(problem.dataset.input_shape))
    )
    step = harness.stepper(*outer, steps=steps_a_turn(num_nets))

    def run() -> str:
        step()
        return jax.devices()[0].device_kind

    return run


def torch_step(args: argparse.Namespace, num_nets: int) -> Callable[[], str]:
    """The same for the reference, on the GPU that PyTorch sees, if any."""
    import torch
    import torch_reference

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pictures, classes = harness.random_data(args.model)
    channels, size = pictures.shape[-1], pictures.shape[1]
    reference = torch_reference.Reference(torch_reference.NETWORKS[args.model](channels, size), device=device)
    labels = np.tile(np.arange(10).repeat(args.per_step // 10), (args.steps, 1))
    trainer = torch_reference.Trainer(
        reference,
        np.random.RandomState(0).normal(size=(*labels.shape, channels, size, size)),
        labels,
        np.full((args.epochs, args.steps), np.log(harness.LEARNING_RATE[args.model])),
        pictures.transpose(0, 3, 1, 2),
        classes,
        batch_size=args.batch_size,
        num_nets=num_nets,
    )

    def run() -> str:
        for _ in range(steps_a_turn(num_nets)):
            trainer.step()
        if device == "cpu":
            return device
        torch.cuda.synchronize()
        return torch.cuda.get_device_name()

    return run


def measure(args: argparse.Namespace, num_nets: int) -> dict[str, object]:
    """One row of the table."""
    makers = {"ddjax": ddjax_step, "torch": torch_step}
    if args.one_process:
        runs = {name: make(args, num_nets) for name, make in makers.items()}
        devices = [run() for run in runs.values()]
    else:
        runs = {name: harness.Worker(make, args, num_nets) for name, make in makers.items()}
        devices = [run.ready for run in runs.values()]
    if ("cpu" in devices) and devices[0] != devices[1]:
        raise InputError(f"ddjax runs on {devices[0]}, PyTorch on {devices[1]}: install both for the same device")
    times = harness.interleave(runs, rounds=args.rounds)
    for run in () if args.one_process else runs.values():
        run.stop()
    steps = steps_a_turn(num_nets)
    (ours, our_spread), (theirs, their_spread) = (harness.spread([t / steps for t in times[name]]) for name in runs)
    return {
        "networks": num_nets,
        "device": devices[0],
        "ddjax_ms": round(ours, 2),
        "torch_ms": round(theirs, 2),
        "ratio": round(theirs / ours, 3),
        "ddjax_spread_ms": round(our_spread, 2),
        "torch_spread_ms": round(their_spread, 2),
    }


def main() -> None:
    args = parse()
    if args.per_step < 10 or args.per_step % 10 or min(args.networks) < 1:
        raise InputError("--per-step must be a multiple of the 10 classes, and --networks at least 1")
    if importlib.util.find_spec("torch") is None:
        raise InputError("PyTorch is what ddjax is measured against: pip install 'ddjax[bench]'")
    rows = []
    for count in args.networks:
        rows.append(measure(args, count))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    origin = harness.about()
    for row in rows:
        row |= {"model": args.model, "rounds": args.rounds, "one_process": args.one_process, **origin}
    harness.print_table(list(rows[0])[:7], [list(row.values())[:7] for row in rows])
    harness.write_json(args.json, rows)


if __name__ == "__main__":
    harness.run(main)
