"""Heads on a frozen backbone: two objectives for distilled images, against real images and all the data.

    python benchmarks/frozen.py fashion_mnist usps

A LeNet is trained on MNIST and stands still; its last layer, drawn at random, learns other data from one image a class. The
images are distilled through one step of gradient descent, through ten on the same images, and by matching the gradient of one
(Linear Gradient Matching, arXiv 2511.16674); beside them are random real images, the best of those, k-means centres and all the
training data. Each set of images trains `--num-nets` fresh heads in one step, in ten, and by 500 steps of Adam; rates are those
that were learned, or the best of a grid on held-out training data, whichever does better there.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import harness

from ddjax.training.devices import use_all_cores
from ddjax.training.progress import say

MADE = {
    "distilled for one step": {"epochs": 1},
    "distilled for ten": {"epochs": 10},
    "gradients matched": {"objective": "gradient"},
}
TRAINED = "500 of Adam"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data sets that heads learn")
    parser.add_argument("--source", default="mnist", help="data set that the backbone learned")
    parser.add_argument("--model", default="lenet", help="the backbone")
    parser.add_argument("--pictures", default="28x28x1", help="what all pictures are brought to")
    parser.add_argument("--outer-steps", type=int, default=1000, help="of each distillation")
    parser.add_argument(
        "--training-steps", type=int, default=1000, help="of the backbone, and of heads on all the data"
    )
    parser.add_argument("--num-nets", type=int, default=20, help="heads a figure")
    parser.add_argument("--runs", metavar="FOLDER", help="keep distillations there, and go on with them")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args()


def frozen_backbone(args: argparse.Namespace, folder: Path) -> Any:
    """The network with all but its last layer trained on the source, and its accuracy there in percent."""
    import jax

    import ddjax

    source = ddjax.load_dataset(args.source, pictures=args.pictures)
    network = ddjax.build_model(args.model, source.input_shape, source.num_classes)
    path, training = folder / "backbone.safetensors", ddjax.Training(steps=args.training_steps)
    pool = ddjax.pretrain(path, network, source, num_nets=1, test_nets=1, training=training, resume=path.exists())
    weights = jax.tree.map(lambda leaf: leaf[0], pool.test)
    return ddjax.freeze(network, weights, input_shape=source.input_shape), pool.metadata["accuracy"][0]


def measure(data: str, head: Any, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The rows of one data set: what is learned from, in how many steps, accuracies."""
    import ddjax
    from ddjax.evaluation import baselines
    from ddjax.evaluation.real_sets import kmeans_sets, random_sets
    from ddjax.evaluation.tuning import TUNING
    from ddjax.experiment.setup import set_up
    from ddjax.training.fit import full_data

    recipe = ddjax.get_recipe("mnist-random").replace(
        **{"data": data, "pictures": args.pictures, "steps": 1, "epochs": 1, "inner_lr": 0.1, "start": "real"},
        **{"outer_steps": args.outer_steps, "eval_every": max(1, args.outer_steps // 10), "num_nets": 4},
        **{"batch_size": 512, "clip": 1.0, "lr": 0.02, "lr_log_lrs": 0.02, "test_nets": args.num_nets},
    )
    done = {
        name: ddjax.distill(
            recipe.replace(**changes), folder / data / name.replace(" ", "-"), model=head, resume=True, compare=False
        )
        for name, changes in MADE.items()
    }
    made = set_up(recipe, model=head)
    key, problem, train, valid, test = made.stream("baseline"), made.problem, made.train, made.valid, made.test
    # The rates that were learned for one step and for ten are tried for all images.
    like = {
        steps: done[name].artifact.distilled
        for steps, name in ((1, "distilled for one step"), (10, "distilled for ten"))
    }
    sets = {name: one.artifact.distilled.images[None] for name, one in done.items()} | {
        "random real": random_sets(key, like[1], train, TUNING.random_sets),
        "k-means": kmeans_sets(key, like[1], train, TUNING.kmeans_sets),
    }
    rows = []

    def note(images: str, steps: str, summary: dict[str, Any]) -> None:
        rows.append({"data": data, "images": images, "steps": steps, **summary})
        print(f"  {images:<24}{steps:>12}  {summary['accuracy_mean']:6.2f} ± {summary['accuracy_std']:.2f}", flush=True)

    for name, images in sets.items():
        for steps, shape in like.items():
            found = baselines.train_on(key, problem, shape, images, valid, test, num_nets=args.num_nets)
            note(name, str(steps), found.summary())
        note(name, TRAINED, trained_out(problem, images, like[1].labels, test, args.num_nets, made.stream("test")))
    for steps, shape in like.items():
        best = baselines.optimised_real(key, problem, shape, train, valid, test, num_nets=args.num_nets)
        note("optimised real", str(steps), best.summary())
    every = full_data(key, problem, train, test, num_nets=3, steps=args.training_steps)
    note("all the data", f"{args.training_steps} of Adam", every.summary())
    return rows


def trained_out(problem: Any, sets: Any, labels: Any, test: Any, count: int, key: Any) -> dict[str, Any]:
    """Fresh heads trained by Adam on all ten images at once for 500 steps: what they come to when steps cost nothing."""
    import jax
    import numpy as np
    import optax

    from ddjax.evaluation.measure import Scores
    from ddjax.evaluation.scoring import float32, score

    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, 500))

    @jax.jit
    def accuracy(key: Any, images: Any, test: Any) -> Any:
        def step(carry: Any, _: Any) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(problem.inner_loss)(params, images, labels[0])
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        start = problem.init(key)
        (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=500)
        return score(problem.apply, params, test)[0]

    with float32():
        found = [accuracy(jax.random.fold_in(key, j), sets[j % len(sets)][0], test) for j in range(count)]
    return Scores(100 * np.array(found), "Adam, 0.01").summary()


def main() -> None:
    args = parse()
    use_all_cores()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.runs or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        head, accuracy = frozen_backbone(args, folder)
        rows, about = [], harness.about()
        for data in args.data:
            say(f"{data}, the head of a {args.model} with {accuracy:.1f} % on {args.source}")
            rows += [{**row, "backbone": accuracy, **about} for row in measure(data, head, args, folder)]
    harness.write_json(args.json, rows)


if __name__ == "__main__":
    harness.run(main)
