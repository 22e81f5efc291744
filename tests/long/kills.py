"""Runs that are killed at random moments, again and again, and are the runs that nobody kills: byte for byte.

    python tests/long/kills.py --kills 100

Each run of `ddjax distill digits` is killed (SIGKILL) so many times, checkpoints being written every second, then let go to its
end; its artefact, summary and metrics are compared with those of a run that was left alone. Prints a line a kill, then how many
runs differed; exit status 1 if any did.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FILES = ("distilled.safetensors", "summary.json")
WORDS = ("distill", "digits", "--no-compare", "--checkpoint-every", "1", "--resume")


def start(folder: Path, steps: int, cache: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "ddjax", *WORDS, "--outer-steps", str(steps), "--out", str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    printed, _ = process.communicate()
    if process.returncode:
        sys.exit(f"a run ended with status {process.returncode}:\n{printed.decode()}")


def outcome(folder: Path) -> list[Any]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        *((folder / f).read_bytes() for f in FILES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--each", type=int, default=20, help="kills of one run")
    parser.add_argument("--steps", type=int, default=4000, help="outer steps of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    chance, differing, runs = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        cache, alone = Path(scratch) / "compiled", Path(scratch) / "alone"
        started = time.monotonic()
        finish(start(alone, args.steps, cache))
        whole = time.monotonic() - started
        print(f"left alone: {whole:.0f} s", flush=True)
        done = 0
        while done < args.kills:
            folder, runs = Path(scratch) / f"run-{runs}", runs + 1
            for _ in range(min(args.each, args.kills - done)):
                process = start(folder, args.steps, cache)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, whole / 4))
                early = process.poll() is not None
                process.kill()
                process.communicate()
                if early:
                    print("it was over before it could be killed", flush=True)
                    break
                done += 1
                saved = sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())
                print(f"kill {done}: checkpoints of steps {saved}", flush=True)
            finish(start(folder, args.steps, cache))
            same = outcome(folder) == outcome(alone)
            differing += not same
            print(f"run {runs}: {'the same bytes' if same else 'DIFFERS'}", flush=True)
    print(f"{done} kills of {runs} runs: {differing} differ from the run that was left alone")
    sys.exit(min(1, differing))


if __name__ == "__main__":
    main()
