"""Many outer steps, whose memory, open files, speed and folder stay as they are.

    python tests/long/steps.py --steps 20000

Runs `ddjax distill digits --model mlp` for so many outer steps, checkpoints being written every second, and looks at it while
it lasts: resident memory, open files, steps a second and bytes in its folder (without metrics.jsonl, which has a row for each
validation). Compares the second quarter of the time with the last; exit status 1 where memory or the folder grew by more than
5 %, open files by more than 2, or where speed fell by more than 20 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

WORDS = ("distill", "digits", "--model", "mlp", "--gate-width", "0", "--batch-size", "64", "--no-compare")


class Look(NamedTuple):
    """What one look at a run sees."""

    seconds: float
    steps: int
    memory: int
    files: int
    folder: int


def look(process: subprocess.Popen[bytes], out: Path, began: float) -> Look | None:
    """One look; None where the run is over, or has taken no step."""
    here = Path("/proc") / str(process.pid)
    try:
        rows = (out / "metrics.jsonl").read_text().splitlines()
        steps = json.loads(rows[-1])["step"]
        memory = int((here / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        files = len(list((here / "fd").iterdir()))
    except (OSError, IndexError, ValueError):
        return None
    paths = [Path(folder, name) for folder, _, names in os.walk(out) for name in names if name != "metrics.jsonl"]
    sizes = [size for path in paths if (size := size_of(path)) is not None]
    return Look(time.monotonic() - began, steps, memory, files, sum(sizes))


def size_of(path: Path) -> int | None:
    """Of a file that may have gone since it was listed."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def watch(folder: Path, steps: int, every: float, words: tuple[str, ...] = WORDS) -> list[Look]:
    """A run of so many steps, by these words, looked at every so many seconds.

    Raises:
      SystemExit: it did not end well.
    """
    out, began, looks = folder / "out", time.monotonic(), []
    validations = ("--eval-every", str(max(1, min(100, steps // 20))), "--checkpoint-every", "1")
    command = [sys.executable, "-m", "ddjax", *words, *validations, "--outer-steps", str(steps), "--out", str(out)]
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(every)
            seen = look(process, out, began)
            if seen is not None and process.poll() is None and seen.steps < steps:
                looks.append(seen)
        if process.returncode:
            said.seek(0)
            sys.exit(f"the run ended with status {process.returncode}:\n{said.read().decode()}")
    return looks


def quarters(looks: list[Look]) -> tuple[list[Look], list[Look]]:
    """The second quarter and the last: the first has what is made once."""
    quarter = max(2, len(looks) // 4)
    return looks[quarter : 2 * quarter], looks[-quarter:]


def speed(looks: list[Look]) -> float:
    return (looks[-1].steps - looks[0].steps) / (looks[-1].seconds - looks[0].seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="outer steps")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between looks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(Path(folder), args.steps, args.every)
    if len(looks) < 8:
        sys.exit(f"the run was over after {len(looks)} looks: give more --steps, or look more often with --every")
    before, after = quarters(looks)
    grown = []
    for name, unit, allowed in (("memory", 1e6, 1.05), ("folder", 1e6, 1.05), ("files", 1, None)):
        a, b = (statistics.median(getattr(seen, name) for seen in part) for part in (before, after))
        print(f"{name}: {a / unit:.1f}, then {b / unit:.1f}" + " MB" * (unit > 1))
        if b > (a + 2 if allowed is None else allowed * a):
            grown.append(name)
    print(f"steps a second: {speed(before):.1f}, then {speed(after):.1f}")
    if speed(after) < 0.8 * speed(before):
        grown.append("time")
    print(f"{looks[-1].steps} steps, {len(looks)} looks: " + (", ".join(grown) + " grew" if grown else "all flat"))
    sys.exit(min(1, len(grown)))


if __name__ == "__main__":
    main()
