"""What distilled data transfer to: other weights, networks, orders, epochs, optimisers and precisions than they were made for.

    python benchmarks/transfer.py results/digits results/mnist-fixed results/mnist-random
    python benchmarks/transfer.py results/mnist-random --protocol lenet mlp linear

Each row trains up to `--num-nets` networks on the artefact, otherwise as documented, and gives their accuracy on the whole test
set, mean +- deviation. Where weights are fixed there is one network, and several where something is drawn: weights, an order,
minibatches. The rates of minibatch training are the best of three on the artefact's own loss, not on test data; `float64`
says how far rounding alone carries the same steps. With `--protocol` the rows are those of `ddjax evaluate --protocol`.
Until all is done the rows lie in `FILE.part`, from which the same command goes on.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness

from ddjax.storage import provenance
from ddjax.storage.artifact import artifact_file
from ddjax.storage.files import write_whole
from ddjax.training.devices import use_all_cores

Row = tuple[str, Callable[[], Any]]
RATES = {"sgd": (0.01, 0.03, 0.1), "adam": (0.0003, 0.001, 0.003)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="artefacts, or folders of runs, in the order of the columns")
    parser.add_argument("--num-nets", type=int, default=20, help="networks a row")
    parser.add_argument("--models", nargs="*", default=["lenet", "convnet", "mlp"], help="other networks")
    parser.add_argument("--protocol", nargs="+", metavar="MODEL", help="instead: these by the protocol of benchmarks")
    parser.add_argument("--epochs", type=int, default=30, help="of training by minibatches")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def rows(path: str, args: argparse.Namespace) -> Iterator[Row]:
    """What is tried, and the function that gives its accuracies in percent."""
    import jax.numpy as jnp
    import numpy as np
    import optax

    from ddjax.evaluation.measure import evaluate
    from ddjax.experiment.protocol import by_protocol
    from ddjax.experiment.replay import Reopened, reopen
    from ddjax.experiment.streams import stream
    from ddjax.models import model_of

    if args.protocol:
        for name in args.protocol:
            yield f"protocol: {name}", lambda name=name: by_protocol(path, (name,))[name]
        return
    found = reopen(path)
    network, distilled = found.recipe.network, found.artifact.distilled
    epochs, steps = distilled.log_lrs.shape
    fixed = found.artifact.params is not None

    def score(found: Reopened, distilled: Any = distilled, one_each: bool = False, **changes: Any) -> np.ndarray:
        nets = found.starts.test
        count = args.num_nets if one_each or nets.params_N is None else min(args.num_nets, nets.num_nets)
        key, problem = stream(found.key, "test"), found.problem._replace(**changes)
        options: Any = {"num_nets": count, "params_N": nets.params_N, "after": distilled.log_lrs.shape[-2:-1]}
        return evaluate(key, problem, distilled, found.test, **options).accuracy[:, -1]

    def with_rates(log_lrs: Any) -> np.ndarray:
        return score(found, distilled._replace(log_lrs=np.asarray(log_lrs, np.float32)))

    def shuffled() -> np.ndarray:
        orders = [np.random.RandomState(seed).permutation(steps) for seed in range(args.num_nets)]
        each = distilled._replace(
            images=np.stack([distilled.images[order] for order in orders]),
            labels=np.stack([distilled.labels[order] for order in orders]),
            log_lrs=np.stack([distilled.log_lrs[:, order] for order in orders]),
        )
        return score(found, each, one_each=True)

    yield "as documented", lambda: score(found)
    yield "in float64", lambda: in_precision(found, args.num_nets, "float64")
    yield "products of bfloat16", lambda: in_precision(found, args.num_nets, "bfloat16")
    if fixed:
        yield "fresh weights", lambda: score(reopen(path, fresh=True))
    other = "he" if network.weights == "xavier" else "xavier"
    shape, classes = distilled.images.shape[2:], distilled.labels.shape[-1]
    plain = dataclasses.replace(network, weights=other, gate_width=0.0)
    yield (
        f"fresh weights, {other}",
        lambda: score(reopen(path, fresh=True, model=model_of(plain, shape, classes))),
    )
    for name in args.models:
        if name != network.model:
            yield f"another network: {name}", lambda name=name: score(reopen(path, fresh=True, model=name))
    if steps > 1:
        yield "steps in another order", shuffled
    for count in range(1, epochs):
        yield f"{count} of {epochs} epochs", lambda count=count: with_rates(distilled.log_lrs[:count])
    longer = jnp.concatenate([distilled.log_lrs] + [distilled.log_lrs[-1:]] * epochs)
    yield f"{2 * epochs} epochs, the last one's rates", lambda: with_rates(longer)
    if distilled.log_lrs.size > 1:
        mean = np.log(np.exp(distilled.log_lrs).mean())
        yield "one rate for all steps", lambda: with_rates(np.full_like(distilled.log_lrs, mean))
    yield (
        "momentum 0.9, a tenth of the rates",
        lambda: score(found, distilled._replace(log_lrs=distilled.log_lrs - np.log(10)), direction=optax.trace(0.9)),
    )
    for way in RATES:
        yield f"{way}, shuffled minibatches, {args.epochs} epochs", lambda way=way: minibatches(found, path, way, args)


def in_precision(found: Any, num_nets: int, precision: str) -> Any:
    """The documented steps with all numbers in float64, or with the factors of products rounded."""
    import functools

    import jax
    import numpy as np

    from ddjax.core.inner import unroll
    from ddjax.evaluation.scoring import score
    from ddjax.experiment.streams import stream

    double, nets, accuracies = precision == "float64", found.starts.test, []
    count = num_nets if nets.params_N is None else min(num_nets, nets.num_nets)
    kind = np.float64 if double else np.float32
    scored = jax.jit(functools.partial(score, found.problem.apply))
    for number in range(count):
        key = jax.random.fold_in(stream(found.key, "test"), number)
        start = (
            found.problem.init(key)
            if nets.params_N is None
            else jax.tree.map(lambda leaf, number=number: leaf[number], nets.params_N)
        )
        start, data = jax.tree.map(
            lambda leaf: np.asarray(leaf, kind), (jax.device_get(start), found.artifact.distilled)
        )
        with jax.enable_x64(True) if double else jax.default_matmul_precision(precision):
            train = functools.partial(unroll, found.problem.inner_loss, **found.problem.unroll_options)
            trained = jax.device_get(jax.jit(train)(start, data))
        trained = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained)
        accuracies.append(100 * float(scored(trained, found.test)[0]))
    return np.array(accuracies)


def minibatches(found: Any, path: str, way: str, args: argparse.Namespace) -> Any:
    """Ordinary training on the examples; of three rates the one that ends at the lowest loss on them."""
    import jax
    import numpy as np

    from ddjax.experiment.train import train_artifact

    inputs, targets = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in found.artifact.distilled[:2])
    loss = jax.jit(found.problem.inner_loss)
    best: tuple[float, Any] = (np.inf, None)
    for lr in RATES[way]:
        trained = [train_artifact(path, way=way, epochs=args.epochs, lr=lr, seed=seed) for seed in range(5)]
        mean = float(np.mean([loss(one.params, inputs, targets) for one in trained]))
        if mean < best[0]:
            best = mean, np.array([one.accuracy for one in trained])
    return best[1]


def figures(found: Any) -> dict[str, Any]:
    """Of accuracies, or of `Scores`, which tell the rate that was chosen, too."""
    chosen = {"chosen": found.chosen} if hasattr(found, "chosen") else {}
    accuracy = getattr(found, "accuracy", found)
    return {"mean": float(accuracy.mean()), "std": float(accuracy.std()), "networks": len(accuracy), **chosen}


def main() -> None:
    args = parse()
    use_all_cores()
    filed, origin = [], harness.about()
    part = Path(f"{args.json}.part") if args.json else None
    earlier = json.loads(part.read_text()) if part and part.exists() else []
    for path in args.paths:
        digest = provenance.digest_of_file(artifact_file(path))
        print(path, flush=True)
        for what, measure in rows(path, args):
            about = {"artefact": path, "what": what, "digest": digest, "code": provenance.code(), **origin}
            done = [row for row in earlier if about.items() <= row.items()]
            row = done[0] if done else {**about, **figures(measure())}
            filed.append(row)
            if part:
                write_whole(part, json.dumps(filed))
            spread = f" ± {row['std']:.2f} ({row['networks']})" if row["networks"] > 1 else ""
            print(f"  {what:<44} {row['mean']:6.2f}{spread}", flush=True)
    harness.write_json(args.json, filed)
    if part:
        part.unlink()


if __name__ == "__main__":
    harness.run(main)
