"""LeNet's convolutions with 2x2 max-pooling, in three formulations, timed on one device.

    python benchmarks/conv.py
    python benchmarks/conv.py --batch 10 --networks 4 --json conv.json
    python benchmarks/conv.py --whole-steps lenet alexcifar convnet     # what a whole outer step says to the choice

The formulations: `native`, XLA's own convolution, then a maximum of four; `patches`, all windows of the pictures times the
kernel, then the same maximum; `planes`, one product that gives the candidates of every maximum (ddjax/models/planes.py, what
a CPU runs). Each works in its own layout: turning pictures into planes is not counted, as a network does it once.
What is timed: `forward`; `gradient`, for kernel and pictures; `hvp`, the directional derivative of that gradient, which an
outer step takes at every inner step. Layer 1 sees the data, shared by all networks and constant along the direction; layer 2
sees activations, which each network has its own of and which move. Several networks are `vmap` over their kernels.
Calls are repeated within one compiled loop, each on inputs that the one before has touched; formulations take turns, and
`ms` of one call is the median of `--rounds` loops, +- half the distance between quartiles. A loop is also where an inner step
runs, and it matters: XLA on CPUs brings native convolutions into their fast form only outside of loops. With `--alone` each
call is a computation of its own, dispatch included, which shows that difference. On a CPU there is one thread, as every
device of `ddjax distill` has. That all three agree is checked first. With `--whole-steps` what is timed instead is the outer
step of these networks (`--inner-steps` x 3 epochs of 10 images, the largest `--batch` of real examples), with XLA's own
convolutions and with those that a CPU runs, `products`: planes, patches or Winograd's. `--json FILE` writes a list of rows.
"""

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import harness

from ddjax.errors import InputError
from ddjax.training.devices import use_all_cores

WHAT = ("forward", "gradient", "hvp")
FORMULATIONS = ("native", "patches", "planes")
TOLERANCE = 1e-4  # relative, in norm; float32 rounds sums of a few thousand terms to some 1e-6


class Layer(NamedTuple):
    """Pictures [n, side, side, channels], a 5x5 kernel, zero padding; `first` if its pictures are the data."""

    side: int
    channels: int
    features: int
    padding: int
    first: bool


LAYERS = {1: Layer(28, 1, 6, 2, True), 2: Layer(14, 6, 16, 0, False)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, choices=tuple(LAYERS), nargs="+", default=list(LAYERS))
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 64, 1024], help="pictures a call and network")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--what", choices=WHAT, nargs="+", default=list(WHAT))
    parser.add_argument("--rounds", type=int, default=5, help="timed loops of each formulation, in turn")
    parser.add_argument("--loop-ms", type=float, default=50, help="how long one loop should take")
    parser.add_argument("--alone", action="store_true", help="call by call, not within a compiled loop")
    parser.add_argument("--whole-steps", metavar="MODEL", nargs="+", help="time outer steps of these, not the layers")
    parser.add_argument("--inner-steps", type=int, default=10, help="S of a whole step")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def convolution(formulation: str, layer: Layer) -> Callable[[Any, Any], Any]:
    """(kernel, pictures in the formulation's layout) -> pooled, in that layout."""
    from ddjax.models.ops import convolution, layers, planes

    def native(kernel, pictures):
        return layers.max_pool_2x2(layers._native_conv(pictures, kernel, layer.padding))

    def patches(kernel, pictures):  # as `convolution` has it for few channels
        k = kernel.shape[0]
        windows = convolution.windows(pictures, (k, k), (1, 1), ((layer.padding,) * 2,) * 2)
        return layers.max_pool_2x2(windows.reshape(*windows.shape[:3], -1) @ kernel.reshape(-1, kernel.shape[-1]))

    def as_planes(kernel, pictures):
        return planes.conv_max_pool(pictures, kernel, padding=layer.padding)

    return {"native": native, "patches": patches, "planes": as_planes}[formulation]


def operation(what: str, formulation: str, layer: Layer) -> Callable[..., Any]:
    """(kernel, pictures, direction of the kernel, direction of the pictures) -> what is timed, for one network."""
    import jax
    import jax.numpy as jnp

    conv = convolution(formulation, layer)

    def loss(kernel, pictures):  # quadratic, since the gradient of a linear one would not depend on the outputs
        return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(conv(kernel, pictures)))

    gradient = jax.grad(loss, argnums=(0, 1))

    def call(kernel, pictures, kernel_direction, pictures_direction):
        if what == "forward":
            return conv(kernel, pictures)
        if what == "gradient":
            return gradient(kernel, pictures)
        if layer.first:
            return jax.jvp(lambda k: gradient(k, pictures), (kernel,), (kernel_direction,))[1]
        return jax.jvp(gradient, (kernel, pictures), (kernel_direction, pictures_direction))[1]

    return call


def arrange(pictures: Any, formulation: str, layer: Layer) -> Any:
    """Pictures [n, H, W, C] in the layout in which the formulation meets them in LeNet."""
    from ddjax.models.ops import planes

    if formulation != "planes":
        return pictures
    blocks = planes.to_planes(pictures)
    if layer.first:
        return blocks
    return planes._blocks(blocks, 2, 0, (layer.side // 2, layer.side // 2))  # what the first layer returns


def inputs(formulation: str, layer: Layer, batch: int, networks: int) -> tuple[Any, ...]:
    """Arguments of `operation`, with a leading axis of networks where there are several; the same whatever the layout."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    random = np.random.RandomState(0)

    def draw(*shape: int, own: bool) -> Any:
        lead = (networks,) if own and networks > 1 else ()
        return jnp.asarray(random.normal(size=(*lead, *shape)), jnp.float32)

    shapes = (5, 5, layer.channels, layer.features), (batch, layer.side, layer.side, layer.channels)
    kernel, kernel_direction = (draw(*shapes[0], own=True) for _ in range(2))
    laid = functools.partial(arrange, formulation=formulation, layer=layer)
    if networks > 1 and not layer.first:
        laid = jax.vmap(laid)
    pictures, pictures_direction = (jax.jit(laid)(draw(*shapes[1], own=not layer.first)) for _ in range(2))
    return kernel, pictures, kernel_direction, pictures_direction


def over_networks(call: Callable[..., Any], layer: Layer, networks: int) -> Callable[..., Any]:
    import jax

    shared = None if layer.first else 0
    return call if networks == 1 else jax.vmap(call, in_axes=(0, shared, 0, shared))


def check_agreement(layers: list[int]) -> None:
    """Ends the run where the formulations differ by more than rounding, in value or in any derivative."""
    import jax
    import numpy as np

    from ddjax.models.ops import planes

    def pictures(leaf: Any) -> Any:
        return planes.from_planes(leaf) if isinstance(leaf, planes.Planes) else leaf

    for number in layers:
        layer = LAYERS[number]
        for what in WHAT:
            results = {}
            for formulation in FORMULATIONS:
                result = jax.jit(operation(what, formulation, layer))(*inputs(formulation, layer, 4, 1))
                parts = result if isinstance(result, tuple) else (result,)
                results[formulation] = [np.asarray(pictures(part), np.float64) for part in parts]
            for formulation in FORMULATIONS[1:]:
                for ours, native in zip(results[formulation], results["native"], strict=True):
                    error = np.linalg.norm(ours - native) / np.linalg.norm(native)
                    if not error < TOLERANCE:
                        sys.exit(
                            f"conv: layer {number}, {what}: {formulation} is {error:.1e} off native, so no time counts"
                        )


def loop(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[int], None]:
    """A function that makes `count` calls in one compiled loop and waits for them.

    Of every array that the call takes, one element gets a vanishing share of the result added. So no part of the next
    call can be taken out of the loop, at a price that does not grow with the arrays. The result is carried, hence computed
    in full.
    """
    import jax
    import jax.numpy as jnp

    def touch(array: Any, by: Any) -> Any:
        corner = (0,) * array.ndim
        return array.at[corner].add(1e-30 * by)

    @jax.jit
    def calls(count, arguments):
        def body(_, carry):
            arguments, _ = carry
            result = call(*arguments)
            by = jax.tree.leaves(result)[0].ravel()[0]
            return jax.tree.map(lambda array: touch(array, by), arguments), result

        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(call, *arguments))
        return jax.lax.fori_loop(0, count, body, (arguments, start))[1]

    return lambda count: jax.block_until_ready(calls(count, arguments))


def alone(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[int], None]:
    """As `loop`, with every call dispatched from here and waited for."""
    import jax

    compiled = jax.jit(call)

    def calls(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(compiled(*arguments))

    return calls


def repeats(run: Callable[[int], None], wanted_ms: float) -> int:
    """Calls that take about `wanted_ms`, from loops of ever more of them; compiles, too."""
    run(1)
    count = 1
    while True:
        started = time.perf_counter()
        run(count)
        took = 1e3 * (time.perf_counter() - started)
        if took > wanted_ms / 4:
            return max(1, math.ceil(count * wanted_ms / took))
        count *= 4


def measure(args: argparse.Namespace, number: int, batch: int, networks: int, what: str) -> dict[str, Any]:
    """One row of the table."""
    layer = LAYERS[number]
    runs, counts = {}, {}
    for name in FORMULATIONS:
        call = over_networks(operation(what, name, layer), layer, networks)
        many = (alone if args.alone else loop)(call, inputs(name, layer, batch, networks))
        counts[name] = repeats(many, args.loop_ms)
        runs[name] = functools.partial(many, counts[name])
    row: dict[str, Any] = {"layer": number, "batch": batch, "networks": networks, "what": what}
    # No threads of another process have to go to sleep here, so next to no pause.
    for name, times in harness.interleave(runs, rounds=args.rounds, warm_up=1, pause=0.01).items():
        median, spread = harness.spread([ms / counts[name] for ms in times])
        row |= {f"{name}_ms": float(f"{median:.4g}"), f"{name}_spread_ms": float(f"{spread:.2g}")}
    return row


def whole_step(args: argparse.Namespace, model: str, networks: int) -> dict[str, Any]:
    """One row: the outer step in each form that `layers` can choose, whatever the backend."""
    import jax

    from ddjax.models.ops import layers
    from ddjax.training.devices import make_layout

    batch, chosen, runs = max(args.batch), layers._on_cpu, {}
    fields = {"steps": args.inner_steps, "epochs": 3, "num_nets": networks, "batch_size": batch}
    problem = harness.random_experiment(model, **fields)
    for name, products in (("native", False), ("products", True)):
        jax.clear_caches()  # of what was traced in the other form
        layers._on_cpu = lambda products=products: products
        try:
            step, arguments = harness.outer_step(problem, make_layout(networks, batch))
            runs[name] = harness.stepper(step.lower(*arguments).compile(), arguments)
        finally:
            layers._on_cpu = chosen
    row: dict[str, Any] = {"model": model, "networks": networks, "inner_steps": 3 * args.inner_steps, "batch": batch}
    for name, times in harness.interleave(runs, rounds=args.rounds).items():
        median, spread = harness.spread(times)
        row |= {f"{name}_ms": round(median, 3), f"{name}_spread_ms": round(spread, 3)}
    return row | {"native / products": round(row["native_ms"] / row["products_ms"], 3)}


def show(rows: list[dict[str, Any]]) -> None:
    def cells(row: dict[str, Any]) -> list[Any]:
        times = [f"{row[f'{name}_ms']:.3g} ± {row[f'{name}_spread_ms']:.1g}" for name in FORMULATIONS]
        gains = [f"{row[f'{name}_ms'] / row['planes_ms']:.2f}" for name in FORMULATIONS[:2]]
        return [row["layer"], row["batch"], row["networks"], row["what"], *times, *gains]

    header = ["layer", "batch", "networks", "what", *(f"{name}, ms" for name in FORMULATIONS)]
    harness.print_table([*header, "native/planes", "patches/planes"], [cells(row) for row in rows])


def layer_by_layer(args: argparse.Namespace) -> list[dict[str, Any]]:
    import jax

    rows = []
    with jax.default_matmul_precision("float32"):  # a GPU would round the factors
        check_agreement(args.layer)
        print(f"all formulations agree to {TOLERANCE:g}; {jax.devices()[0].device_kind}")
        for number in args.layer:
            for batch in args.batch:
                for networks in args.networks:
                    for what in args.what:
                        rows.append(measure(args, number, batch, networks, what))
                        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    show(rows)
    return rows


def main() -> None:
    args = parse()
    if min(args.rounds, *args.batch, *args.networks) < 1 or not args.loop_ms > 0:
        raise InputError("--batch, --networks and --rounds must be at least 1, and --loop-ms above zero")
    for model in args.whole_steps or ():
        if model not in harness.SHAPES or args.inner_steps < 1:
            raise InputError(f"--whole-steps takes {', '.join(harness.SHAPES)}, and --inner-steps at least 1")
    use_all_cores()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU may be shared
    import jax

    rows = []
    for model in args.whole_steps or ():
        for networks in args.networks:
            rows.append(whole_step(args, model, networks))
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if not args.whole_steps:
        rows = layer_by_layer(args)
    origin = harness.about() | {"device": jax.devices()[0].device_kind, "rounds": args.rounds, "alone": args.alone}
    for row in rows:
        row |= origin
    harness.write_json(args.json, rows)


if __name__ == "__main__":
    harness.run(main)
