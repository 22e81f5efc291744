"""Seconds until the first outer step of a recipe is done: tracing, compiling and running it, with nothing cached.

    python benchmarks/first_step.py                       # the recipes that need nothing prepared
    python benchmarks/first_step.py digits mnist-fixed    # these

Each recipe in a process of its own; loading the data and importing ddjax are not counted. The second step is timed beside it.
"""

import argparse
import itertools
import time

import harness

from ddjax.recipes import get_recipe
from ddjax.training.devices import make_layout, use_all_cores


def first_two_steps(name: str):
    """A function that returns the seconds of the first and of the second outer step of a recipe."""
    use_all_cores()
    from ddjax.experiment import setup as experiment

    recipe = get_recipe(name)
    problem = experiment.set_up(recipe)
    step = harness.stepper(*harness.outer_step(problem, make_layout(recipe.outer.num_nets, recipe.outer.batch_size)))

    def run() -> list[float]:
        moments = [time.perf_counter()]
        for _ in range(2):
            step()
            moments.append(time.perf_counter())
        return [later - earlier for earlier, later in itertools.pairwise(moments)]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["digits", "digits-random"], metavar="RECIPE")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    args = parser.parse_args()
    for name in args.recipes:
        get_recipe(name)  # a wrong name ends it before anything runs
    rows = []
    for name in args.recipes:
        worker = harness.Worker(first_two_steps, name)
        first, second = worker.ready
        worker.stop()
        rows.append({"recipe": name, "first_s": round(first, 2), "second_s": round(second, 3)})
    harness.print_table(list(rows[0]), [list(row.values()) for row in rows])
    harness.write_json(args.json, [row | harness.about() for row in rows])


if __name__ == "__main__":
    harness.run(main)
