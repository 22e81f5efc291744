"""Bytes that a fuzzer chooses by what of the library they reach: each file is read whole, or one line says what is wrong.

    pip install '.[fuzz]' && python tests/long/fuzz.py --seconds 600

Each kind of file that `mutations.py` changes by chance is read here under atheris (libFuzzer, Linux), which keeps whatever
reaches a new branch of ddjax and of what reads files for it, and goes on from there; half of its changes are those of
`mutations.py`, so that what is meant is changed too. The kinds are taken in turn, for as long each, in a process of its own;
what is found is printed, and the input that does it kept under --keep; exit status 1 if anything was.
"""

import argparse
import contextlib
import importlib.util
import logging
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

READERS = ["ddjax", "json", "numpy.lib", "safetensors", "zipfile"]  # whose branches count
NAMES = ("artefact", "pool", "npz", "config", "summary", "metrics", "frames")


def fuzz(name: str, seconds: int, keep: Path) -> None:
    """Reads files of one kind for so long, and ends the process, as libFuzzer does; status 77 where something was found."""
    import atheris

    with atheris.instrument_imports(include=READERS, enable_loader_override=False):
        import mutations
    logging.disable()  # of Orbax, at length
    with tempfile.TemporaryDirectory() as scratch:
        kind = mutations.prepared(Path(scratch))[name]
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        (corpus / "intact").write_bytes(kind.intact)

        def changed(data: bytes, most: int, seed: int) -> bytes:
            chance = random.Random(seed)
            if chance.random() < 0.5:
                return atheris.Mutate(data, most)
            with contextlib.suppress(Exception):  # what can no longer be taken apart is changed in its bytes
                return kind.alter(chance, data)[:most]
            return chance.choice(mutations.BYTES)(chance, data)[:most]

        def read(data: bytes) -> None:
            what, said = mutations.outcome(kind._replace(alter=lambda chance, intact: data), ALWAYS)
            if what == "FOUND":
                raise AssertionError(said)

        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={keep}/{name}-",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        limits = [f"-max_len={4 * len(kind.intact)}", "-rss_limit_mb=0", "-timeout=0"]  # outcome() has its own
        atheris.Setup([sys.argv[0], *options, *limits, str(corpus)], read, custom_mutator=changed)
        atheris.Fuzz()


class _Always(random.Random):
    """Chance that always alters, which is how `mutations.outcome` is given an input as it is."""

    def random(self) -> float:
        return 0.0


ALWAYS = _Always(0)


def run(names: list[str], seconds: int, keep: Path) -> list[str]:
    """Fuzzes each kind in a process of its own; returns the kinds in which something was found."""
    found = []
    for name in names:
        words = [sys.executable, __file__, "--only", name, "--alone", "--seconds", str(seconds), "--keep", str(keep)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        said: dict[str, Any] = dict(
            line.removeprefix("stat::").split(":", 1) for line in done.stdout.splitlines() if line.startswith("stat::")
        )
        if done.returncode or "number_of_executed_units" not in said:
            found.append(name)
            print(done.stdout[-3000:])
        read, new = (int(said.get(f"{stat}", 0)) for stat in ("number_of_executed_units", "new_units_added"))
        print(
            f"{name:10s} {read:8d} read, {new:5d} of which reached something new, status {done.returncode}", flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="in all")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="these kinds")
    parser.add_argument("--keep", type=Path, default=Path("found"), help="folder for inputs that were found")
    parser.add_argument("--alone", action="store_true", help="one kind, in this process")
    args = parser.parse_args()
    if args.alone:
        fuzz(args.only[0], args.seconds, args.keep)
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is missing: pip install '.[fuzz]', on Linux")
    args.keep.mkdir(exist_ok=True)
    found = run(args.only, max(1, args.seconds // len(args.only)), args.keep)
    print(f"{args.seconds} s: found in {', '.join(found) or 'none'}")
    sys.exit(min(1, len(found)))


if __name__ == "__main__":
    main()
