"""Seconds until `import ddjax` is done, its first names are there, and a command answers, beside `import jax, optax`.

    python benchmarks/import_time.py --json benchmarks/results/import_time.json

Every call is a process of its own, and they take turns. What each has imported of the packages that take long is told too,
since names are imported where they are first used: nothing is gained by what is only put off.
"""

import argparse
import json
import subprocess
import sys

import harness

SLOW = ("jax", "optax", "flax", "flax.nnx", "sklearn", "scipy", "orbax", "matplotlib", "tensorflow_datasets")
BASE = "import jax, optax"
PYTHON = (BASE, "import ddjax", "import ddjax; ddjax.LeNet", "import ddjax; ddjax.distill")
COMMANDS = ("--help", "recipes", "distill digits --help")
# What was asked of them: at most so many times as long as BASE, or at most so many seconds.
BARS = {"import ddjax": "1.5 x", "ddjax --help": "0.7 s", "ddjax recipes": "0.7 s"}
_COMMAND = "import sys; sys.argv = {!r}; from ddjax.cli.main import main; main()"
_TELL = "import atexit, json, sys; atexit.register(lambda: print(json.dumps([m for m in {!r} if m in sys.modules])))\n"


def call(code: str) -> str:
    """What the last line says that the code prints in a new process."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.rstrip("\n").rpartition("\n")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    args = parser.parse_args()
    codes = {code: code for code in PYTHON}
    codes |= {f"ddjax {words}": _COMMAND.format(["ddjax", *words.split()]) for words in COMMANDS}
    imported = {name: json.loads(call(_TELL.format(SLOW) + code)) for name, code in codes.items()}
    runs = {name: lambda code=code: call(code) for name, code in codes.items()}
    times = harness.interleave(runs, rounds=args.rounds, warm_up=1)
    base, _ = harness.spread(times[BASE])
    rows = []
    for name, milliseconds in times.items():
        median, half = harness.spread(milliseconds)
        row = {"what": name, "s": round(median / 1e3, 3), "spread_s": round(half / 1e3, 3)}
        rows.append(row | {"ratio": round(median / base, 2), "bar": BARS.get(name, ""), "imported": imported[name]})
    table = [[*list(row.values())[:-1], ", ".join(row["imported"]) or "none of those"] for row in rows]
    harness.print_table(list(rows[0]), table)
    harness.write_json(args.json, [row | harness.about() for row in rows])


if __name__ == "__main__":
    harness.run(main)
