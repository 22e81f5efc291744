"""What one outer step of LeNet must do, what this machine can do, and how far the step is from that.

    python benchmarks/cost_model.py

Counts the matrix products of one network's step (one row a layer: the pass over the real batch, the inner steps, and the
products that pull the cotangent back through them), in operations and in bytes read and written by the products alone. The
ceiling is measured on one core: the best rate of float32 products of these very shapes on operands that stay in cache, and
the rate of copying arrays of their size. `needed` counts the convolutions' own arithmetic, without what the matrix form adds
(kernels widened to a tile of outputs). The step is timed on one device, to which it is compared.
"""

import argparse
import time

import harness

from ddjax.core.meta import Layout
from ddjax.training.devices import use_all_cores

# Layer: (rows of the windows K, rows of the result, columns an example, multiplications an example by the definition).
LAYERS = {
    "conv1": (64, 96, 49, 25 * 6 * 28 * 28),
    "conv2": (216, 64, 25, 150 * 16 * 10 * 10),
    "dense1": (400, 120, 1, 400 * 120),
    "dense2": (120, 84, 1, 120 * 84),
    "dense3": (84, 10, 1, 84 * 10),
}
# Products of a layer in one pass: forward and weights, and the cotangent of the input for all layers but the first.
PASS = {"conv1": 2, "other": 3}
# Pulling back through an inner step: its forward pass and cotangents again, and two products for the tangent of each of
# the three; of the first layer the images' cotangent too, but no tangent of its input.
PULL = {"conv1": 5, "other": 8}


def best_seconds(run, repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def ceiling(columns: int) -> tuple[float, float]:
    """GFLOP/s of the products of conv2 with so many columns, and GB/s (read and written) of copying their result."""
    import jax
    import jax.numpy as jnp

    rows, out = LAYERS["conv2"][:2]
    many = 200
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
    args = parser.parse_args()
    use_all_cores()
    batch, images, inner_steps = 1024, 10, 30
    rows = []
    for layer, (k, out, columns, needed) in LAYERS.items():
        group = "conv1" if layer == "conv1" else "other"
        passes = batch * PASS[group] + inner_steps * images * (PASS[group] + PULL[group])
        calls = PASS[group] * (batch / 64 + inner_steps) + PULL[group] * inner_steps
        operations = 2e-9 * passes * k * out * columns
        traffic = 4e-9 * (passes * (k + out) * columns + calls * k * out)
        rows.append([layer, operations, 2e-9 * passes * needed, traffic])
    rows.append(["all", *(sum(row[i] for row in rows) for i in (1, 2, 3))])
    print("One network, 10 steps x 3 epochs of 10 images, real batch 1024:")
    harness.print_table(["layer", "GFLOP", "GFLOP needed", "GB of operands"], rows)

    small, large = ceiling(25 * images), ceiling(25 * 64)
    problem = harness.random_experiment("lenet", steps=10, epochs=3, batch_size=batch)
    step = harness.stepper(*harness.outer_step(problem, Layout(together=1, chunk=64)))
    measured, spread = harness.spread(harness.interleave({"step": step}, rounds=args.rounds)["step"])
    _, operations, needed, traffic = rows[-1]
    rate = min(small[0], large[0])
    least = 1e3 * operations / rate
    moving = 1e3 * traffic / min(small[1], large[1])
    print(
        f"\nOne core: products {small[0]:.0f} (10 images) and {large[0]:.0f} GFLOP/s (64), copies {small[1]:.0f} GB/s"
    )
    print(f"products at that rate: {least:.1f} ms; reading and writing their operands once more: {moving:.1f} ms")
    print(f"measured on one device: {measured:.1f} ms (± {spread:.1f}), {100 * least / measured:.0f} % of it products")
    print(f"the arithmetic that is needed alone: {1e3 * needed / rate:.1f} ms")
    content = {
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
