"""What one outer step of a network must do, what this machine can do, and how far the step is from that.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --model alexcifar --batch-size 256

Counts the matrix products of one network's step (one row a layer: the pass over the real batch, the inner steps, and the
products that pull the cotangent back through them), in operations and in bytes read and written by the products alone. The
ceiling is measured on one core: the best rate of float32 products of the shapes that do most of the work, on operands that
stay in cache, and the rate of copying arrays of their size. `needed` counts the layers' own arithmetic by definition, which
the matrix form of LeNet's convolutions exceeds (kernels widened to a tile of outputs), and that of few multiplications falls
short of. The step is timed on one device, to which it is compared.
"""

import argparse
import math
import time
from typing import NamedTuple

import harness

from ddjax.core.meta import Layout
from ddjax.training.devices import make_layout, use_all_cores


class Product(NamedTuple):
    """A product [out, k] x [k, columns] that a layer is made of, and how often it, or one as large, is taken.

    `columns` are those of one example, or of a whole call where `once`. `in_pass` counts forward and backward; `in_pull` the
    pulling back through an inner step: forward and backward again, and along the tangent.
    """

    k: int
    out: int
    columns: int
    in_pass: int = 3
    in_pull: int = 8
    once: bool = False


# Of the first layer nobody wants the cotangent of the input but the distilled images, whose tangent is zero.
FIRST = {"in_pass": 2, "in_pull": 5}


def few_multiplications(k: int, tiles: int, channels: int, features: int) -> list[Product]:
    """A convolution by `winograd`, of so many tiles an example."""
    points = (k + 3) ** 2
    transforms = {"in_pass": 2, "in_pull": 4}
    return [
        Product(channels, features, tiles * points),
        Product(points, points, tiles * channels, **transforms),
        Product(points, 16, tiles * features, **transforms),
        Product(k * k, points, channels * features, in_pass=2, in_pull=3, once=True),
    ]


# Layer: (its products, multiplications an example by the definition).
LAYERS = {
    "lenet": {
        "conv1": ([Product(64, 96, 49, **FIRST)], 25 * 6 * 28 * 28),
        "conv2": ([Product(216, 64, 25)], 150 * 16 * 10 * 10),
        "dense1": ([Product(400, 120, 1)], 400 * 120),
        "dense2": ([Product(120, 84, 1)], 120 * 84),
        "dense3": ([Product(84, 10, 1)], 84 * 10),
    },
    "alexcifar": {
        "conv1": ([Product(75, 64, 32 * 32, **FIRST)], 75 * 64 * 32 * 32),
        "conv2": (few_multiplications(5, 16, 64, 64), 1600 * 64 * 16 * 16),
        "dense1": ([Product(4096, 384, 1)], 4096 * 384),
        "dense2": ([Product(384, 192, 1)], 384 * 192),
        "dense3": ([Product(192, 10, 1)], 192 * 10),
    },
    "convnet": {
        "conv1": ([Product(27, 128, 32 * 32, **FIRST)], 27 * 128 * 32 * 32),
        "conv2": (few_multiplications(3, 16, 128, 128), 1152 * 128 * 16 * 16),
        "conv3": (few_multiplications(3, 4, 128, 128), 1152 * 128 * 8 * 8),
        "dense": ([Product(2048, 10, 1)], 2048 * 10),
    },
}


def best_seconds(run, repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def ceiling(product: Product, images: int) -> tuple[float, float]:
    """GFLOP/s of a product for so many examples, and GB/s (read and written) of copying an operand of its size."""
    import jax
    import jax.numpy as jnp

    rows, out, columns = product.k, product.out, product.columns * images
    many = max(10, int(2e9 / (rows * out * columns)))
    a, b = jnp.ones((rows, out)), jnp.ones((rows, columns))

    @jax.jit
    def products(a, b):
        def one(_, b):
            return b.at[0, 0].set((a.T @ b)[0, 0])

        return jax.lax.fori_loop(0, many, one, b)

    @jax.jit
    def copies(b):
        return jax.lax.fori_loop(0, many, lambda i, b: b + 1.0, b)

    multiply = best_seconds(lambda: products(a, b).block_until_ready()) / many
    copy = best_seconds(lambda: copies(b).block_until_ready()) / many
    return 2e-9 * rows * out * columns / multiply, 8e-9 * rows * columns / copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed steps")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--model", choices=tuple(LAYERS), default="lenet")
    parser.add_argument("--batch-size", type=int, default=1024, help="real examples")
    args = parser.parse_args()
    use_all_cores()
    batch, images, inner_steps = args.batch_size, 10, 30
    chunk = make_layout(1, batch, example_size=math.prod(harness.SHAPES[args.model])).chunk or batch
    calls, layers, rows = batch / chunk + inner_steps, LAYERS[args.model], []
    for layer, (products, multiplications) in layers.items():
        operations = traffic = 0.0
        for product in products:
            k, out, columns, in_pass, in_pull, once = product
            times = calls * in_pass + inner_steps * in_pull
            examples = times if once else (batch + inner_steps * images) * in_pass + inner_steps * images * in_pull
            operations += 2e-9 * examples * k * out * columns
            traffic += 4e-9 * (examples * (k + out) * columns + times * k * out)
        in_pass, in_pull = products[0].in_pass, products[0].in_pull
        needed = 2e-9 * ((batch + inner_steps * images) * in_pass + inner_steps * images * in_pull) * multiplications
        rows.append([layer, operations, needed, traffic])
    rows.append(["all", *(sum(row[i] for row in rows) for i in (1, 2, 3))])
    print(f"One {args.model}, 10 steps x 3 epochs of 10 images, real batch {batch}:")
    harness.print_table(["layer", "GFLOP", "GFLOP needed", "GB of operands"], rows)

    most = max((p for products, _ in layers.values() for p in products), key=lambda p: p.k * p.out * p.columns)
    small, large = ceiling(most, images), ceiling(most, chunk)
    problem = harness.random_experiment(args.model, steps=10, epochs=3, batch_size=batch)
    step = harness.stepper(*harness.outer_step(problem, Layout(together=1, chunk=chunk)))
    measured, spread = harness.spread(harness.interleave({"step": step}, rounds=args.rounds)["step"])
    _, operations, needed, traffic = rows[-1]
    rate = min(small[0], large[0])
    least = 1e3 * operations / rate
    moving = 1e3 * traffic / min(small[1], large[1])
    print(
        f"\nOne core: products {small[0]:.0f} (10 images) and {large[0]:.0f} GFLOP/s ({chunk}), copies {small[1]:.0f} GB/s"
    )
    print(f"products at that rate: {least:.1f} ms; reading and writing their operands once more: {moving:.1f} ms")
    print(f"measured on one device: {measured:.1f} ms (± {spread:.1f}), {100 * least / measured:.0f} % of it products")
    print(f"the arithmetic that is needed alone: {1e3 * needed / rate:.1f} ms")
    content = {
        "model": args.model,
        "batch_size": batch,
        "rows": rows,
        "ceiling_gflops": rate,
        "copy_gb_s": min(small[1], large[1]),
        "measured_ms": measured,
        "products_ms": least,
        **harness.about(),
    }
    harness.write_json(args.json, content)


if __name__ == "__main__":
    harness.run(main)
