"""A network of one's own, as written in Flax, against the same network of our layers.

    python benchmarks/own_network.py
    python benchmarks/own_network.py --channels 32 64 --json own_network.json

The network: two blocks of 3x3 convolution, norm of each channel of each picture, ReLU and 2x2 average pooling, then a dense
layer. `native` is Flax's own, with XLA's convolutions; `fast` is that with `fast_convolutions`, which every `Model` has; `ours`
is of `ddjax.Conv` and its like. All have the same weights, and agree, which is checked first.
What is timed: `step`, one step of gradient descent, and `hvp`, one Hessian-vector product, each in the body of a loop, where an
outer step takes them. On a CPU there is one thread, as every device of `ddjax distill` has. Rounds take turns; `ms` of one
step is the median, +- half the distance between the quartiles.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import harness

from ddjax.errors import InputError
from ddjax.training.devices import use_all_cores

FORMULATIONS = ("native", "fast", "ours")
WHAT = ("step", "hvp")
TOLERANCE = 1e-3  # relative, in norm, of weights after a loop


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=28, help="pixels along a side of the pictures")
    parser.add_argument("--inputs", type=int, default=1, help="channels of the pictures")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32], help="of each block")
    parser.add_argument("--batch", type=int, default=20, help="pictures a step")
    parser.add_argument("--steps", type=int, default=10, help="steps of one loop")
    parser.add_argument("--rounds", type=int, default=5, help="timed loops of each, in turn")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def networks(args: argparse.Namespace) -> tuple[dict[str, Callable[..., Any]], Any]:
    """The formulations as `(weights, pictures) -> logits`, and weights for all of them."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    import ddjax

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, width in enumerate(args.channels):
                x = nn.Conv(width, (3, 3), name=f"conv{i}")(x)
                x = nn.relu(nn.GroupNorm(width, epsilon=1e-5, name=f"norm{i}")(x))
                x = nn.avg_pool(x, (2, 2), (2, 2))
            return nn.Dense(10, name="dense")(x.reshape(len(x), -1))

    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, width in enumerate(args.channels):
                x = ddjax.Conv(width, 3, name=f"conv{i}")(x)
                x = ddjax.average_pool_2x2(nn.relu(ddjax.InstanceNorm(name=f"norm{i}")(x)))
            return ddjax.Dense(10, name="dense")(x.reshape(len(x), -1))

    def native(params, x):
        return Theirs().apply({"params": params}, x)

    def ours(params, x):
        return Ours().apply({"params": params}, x)

    pictures = jnp.zeros((1, args.side, args.side, args.inputs))
    params = jax.jit(Ours().init)(jax.random.key(0), pictures)["params"]
    return {"native": native, "fast": ddjax.fast_convolutions(native), "ours": ours}, params


def loops(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], Any]]]:
    """By what is timed and by formulation: a function that takes all steps of a loop and returns the last one's result."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ddjax.core import losses

    random, rate = np.random.RandomState(0), 0.02
    pictures = jnp.asarray(random.normal(size=(args.batch, args.side, args.side, args.inputs)), jnp.float32)
    targets = jnp.eye(10)[random.randint(0, 10, args.batch)]
    applies, params = networks(args)

    def over(apply: Callable[..., Any], what: str) -> Callable[..., Any]:
        gradient = jax.grad(losses.of_network(apply))

        def step(params, direction):
            if what == "step":
                moved = jax.tree.map(lambda p, g: p - rate * g, params, gradient(params, pictures, targets))
                return moved, direction
            slope = jax.jvp(lambda p: gradient(p, pictures, targets), (params,), (direction,))[1]
            return params, jax.tree.map(lambda d, s: d - rate * s, direction, slope)

        return jax.jit(lambda *start: jax.lax.scan(lambda s, _: (step(*s), None), start, None, length=args.steps)[0])

    direction = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), params)

    def run(loop: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(loop(params, direction))

    return {what: {name: run(over(apply, what)) for name, apply in applies.items()} for what in WHAT}


def check_agreement(runs: dict[str, dict[str, Callable[[], Any]]]) -> None:
    """Ends the run where the formulations differ by more than rounding, in what a loop returns."""
    import jax
    import numpy as np

    for what, each in runs.items():
        found = {name: np.concatenate([np.ravel(x) for x in jax.tree.leaves(run())]) for name, run in each.items()}
        for name in FORMULATIONS[1:]:
            error = np.linalg.norm(found[name] - found["native"]) / np.linalg.norm(found["native"])
            if not error < TOLERANCE:
                sys.exit(f"own_network: {what}: {name} is {error:.1e} off native, so no time counts")


def main() -> None:
    args = parse()
    if min(args.side, args.inputs, args.batch, args.steps, args.rounds, *args.channels) < 1:
        raise InputError("every number must be at least 1")
    use_all_cores()
    import jax

    runs = loops(args)
    check_agreement(runs)
    rows, table = [], []
    for what, each in runs.items():
        times = harness.interleave(each, rounds=args.rounds, warm_up=1)
        row: dict[str, Any] = {"what": what}
        for name in FORMULATIONS:
            median, half = harness.spread([ms / args.steps for ms in times[name]])
            row |= {f"{name}_ms": float(f"{median:.4g}"), f"{name}_spread_ms": float(f"{half:.2g}")}
        rows.append(row)
        cells = [f"{row[f'{name}_ms']:.3g} ± {row[f'{name}_spread_ms']:.1g}" for name in FORMULATIONS]
        ratios = [row[f"{first}_ms"] / row[f"{second}_ms"] for first, second in (("native", "fast"), ("fast", "ours"))]
        table.append([what, *cells, *ratios])
    harness.print_table(["what", *(f"{name}, ms" for name in FORMULATIONS), "native / fast", "fast / ours"], table)
    origin = harness.about() | {"device": jax.devices()[0].device_kind, **vars(args)}
    harness.write_json(args.json, [row | origin for row in rows])


if __name__ == "__main__":
    harness.run(main)
