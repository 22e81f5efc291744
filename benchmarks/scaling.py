"""What several processes exchange in an outer step, and what it costs: measured here with 1, 2 and 4, predicted for a cluster.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json

Every process has one device and a core or a share of one; they take the same outer step together (10 steps x 3 epochs, 10
images a step) over JAX's own exchange, Gloo on a CPU. Bytes are those of the all-reduces in the compiled program, of one
device. The prediction is arithmetic: operations / (devices x rate) + 2 x latency + bytes x 2 (n - 1) / n / bandwidth, a ring's
cost.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import harness

from ddjax.errors import InputError

BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "f64": 8, "pred": 1}
# A cluster as one may rent it, on paper: float32 rate of a GPU in this work, exchange between hosts.
HOSTS, GPUS, FLOPS, BANDWIDTH, LATENCY = 8, 8, 20e12, 25e9, 50e-6


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet", choices=tuple(harness.SHAPES), help="network (lenet)")
    parser.add_argument("--networks", type=int, default=4, help="networks an outer step (4)")
    parser.add_argument("--batch-size", type=int, default=1024, help="real examples an outer step (1024)")
    parser.add_argument("--processes", type=int, nargs="+", default=(1, 2, 4), help="numbers of processes (1 2 4)")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps (7)")
    parser.add_argument("--json", help="file to write the results to")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def exchanged(program: str) -> tuple[int, int]:
    """How many all-reduces a compiled program has, and the bytes of their results."""
    count = size = 0
    for results in re.findall(r"= (.*?) all-reduce(?:-start)?\(", program):
        count += 1
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", results):
            values = 1
            for side in filter(None, shape.split(",")):
                values *= int(side)
            size += BYTES[kind] * values
    return count, size


def worker(args: argparse.Namespace) -> None:
    """One process of several: takes the steps, and says of them what there is to say."""
    from ddjax.storage.processes import first_process
    from ddjax.training.devices import make_layout, use_devices

    use_devices()
    import jax

    from ddjax.experiment.forecast import operations

    problem = harness.random_experiment(
        args.model, steps=10, epochs=3, num_nets=args.networks, batch_size=args.batch_size
    )
    layout = make_layout(args.networks, args.batch_size, example_size=problem.dataset.x_train[0].size)
    step, arguments = harness.outer_step(problem, layout)
    program = step.lower(*arguments).compile().as_text()
    flops = operations(jax.make_jaxpr(step)(*arguments).jaxpr)
    take = harness.stepper(step, arguments)
    times = harness.interleave({"step": take}, rounds=args.rounds)["step"]
    if first_process():
        count, size = exchanged(program)
        axes = {} if layout.mesh is None else {name: int(length) for name, length in layout.mesh.shape.items()}
        found = {"times": times, "exchanges": count, "bytes": size, "gflop_a_device": flops / 1e9, "axes": axes}
        os.write(2, (json.dumps(found) + "\n").encode())


def measured(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """One row: so many processes of this very script."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    if count > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    words = [sys.executable, __file__, "--worker", "--model", args.model, "--networks", str(args.networks)]
    words += ["--batch-size", str(args.batch_size), "--rounds", str(args.rounds)]
    begun = [
        subprocess.Popen(
            words, env=environment | {"JAX_PROCESS_ID": str(number)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for number in range(count)
    ]
    told = [process.communicate()[1].decode() for process in begun]
    if any(process.returncode for process in begun):
        raise InputError(f"{count} processes did not end well: {told[0].strip().splitlines()[-1]}")
    found = json.loads(next(line for line in told[0].splitlines() if line.startswith("{")))
    times = found.pop("times")
    ms, spread = harness.spread(times)
    return {"processes": count, "ms": round(ms, 2), "spread_ms": round(spread, 2), **found}


def predicted(args: argparse.Namespace, alone: dict[str, Any], networks: int) -> dict[str, Any]:
    """A step of so many networks on one GPU and on all of the cluster, networks shared out, by arithmetic."""
    devices, images = HOSTS * GPUS, 4 * 100 * alone["values"]
    flop = 1e9 * alone["gflop_a_device"] / args.networks * networks
    ring = 2 * (devices - 1) / devices
    exchange = 2 * LATENCY + ring * images / BANDWIDTH
    one, all_of_them = flop / FLOPS, flop / devices / FLOPS + exchange
    return {
        "networks": networks,
        "one_gpu_ms": round(1e3 * one, 3),
        "cluster_ms": round(1e3 * all_of_them, 3),
        "exchange_ms": round(1e3 * exchange, 3),
        "times_as_fast": round(one / all_of_them, 1),
    }


def main() -> None:
    args = parse()
    if args.worker:
        worker(args)
        return
    if min(*args.processes, args.networks, args.batch_size, args.rounds) < 1:
        raise InputError("--processes, --networks, --batch-size and --rounds are numbers above zero")
    rows = []
    for count in args.processes:
        rows.append(measured(args, count))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    shape = harness.SHAPES[args.model]
    alone = {**rows[0], "values": shape[0] * shape[1] * shape[2]}
    cluster = [predicted(args, alone, HOSTS * GPUS * each) for each in (1, 4, 16)] if args.processes[0] == 1 else []
    harness.print_table(list(rows[0]), [list(row.values()) for row in rows])
    if cluster:
        print(f"\npredicted, {HOSTS} hosts of {GPUS} GPUs:")
        harness.print_table(list(cluster[0]), [list(row.values()) for row in cluster])
    assumed = {"hosts": HOSTS, "gpus": GPUS, "flops": FLOPS, "bandwidth": BANDWIDTH, "latency": LATENCY}
    settings = {"model": args.model, "networks": args.networks, "batch_size": args.batch_size, "rounds": args.rounds}
    harness.write_json(
        args.json, {**harness.about(), **settings, "rows": rows, "predicted": cluster, "assumed": assumed}
    )


if __name__ == "__main__":
    harness.run(main)
