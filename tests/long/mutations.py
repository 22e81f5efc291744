"""Files that are damaged or made up, one hundred thousand of them: each is read whole, or is one line that says what is wrong.

    python tests/long/mutations.py --inputs 100000

Artefacts, pools, .npz files, config.json, metrics.jsonl, summary.json and metadata of checkpoints are changed, in their bytes
(flipped, cut, doubled, overwritten) and in what they mean (values of a header or of JSON taken away, exchanged, nested, made
huge; tensors and arrays of other shapes, types and values), and read as the library reads them, in this process, whose memory
and time for each are bounded. Whatever else comes of one than success or a `ddjax.DdjaxError` is printed; exit status 1 if
anything did.
"""

import argparse
import collections
import contextlib
import copy
import io
import json
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

import ddjax
from ddjax.data import transform_for
from ddjax.data.npz import load_npz
from ddjax.experiment.folder import Config, find_runs, read_summary
from ddjax.models import build_model
from ddjax.storage import pools
from ddjax.storage.checkpoints import Checkpoints
from ddjax.storage.frames import read_frames
from ddjax.storage.metrics import read_metrics

MEMORY, SECONDS = 2**30, 30  # bytes and seconds that one input may take
EVALUATED = 50  # one of so many artefacts that are read has a network trained on it
SHAPE = (8, 8, 1)
ODD = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, 10**30, 10**400, 1e308, 1e-320, float("nan"), float("inf"), -0.0),
    *(
        "",
        "x",
        "digits",
        "x" * 5000,
        "\0",
        "\ud800",
        "\x1b[2J",
        "$x$",
        "../..",
        "~nosuchuser/x.npz",
        "a/b.py:Net",
        "1" * 5000,
    ),
    *([], {}, [[]], [0], [None] * 9, [1e999], {"": {}}, ["x"] * 2000, [[[[[[]]]]]], [10**9], [-1], [1.5]),
)


# Changes of bytes


def flipped(chance: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def cut(chance: random.Random, content: bytes) -> bytes:
    begin, end = sorted((chance.randint(0, len(content)), chance.randint(0, len(content))))
    return chance.choice((content[:begin], content[begin:], content[:begin] + content[end:], content[begin:end]))


def overwritten(chance: random.Random, content: bytes) -> bytes:
    at, length = chance.randint(0, len(content)), chance.choice((1, 2, 4, 8, 16, 100))
    new = chance.choice((b"\0", b"\xff", b"[", b'"', b"9", b"{", b"PK\x05\x06", chance.randbytes(8)))
    return content[:at] + (new * length)[:length] + content[at + chance.choice((0, length)) :]


def doubled(chance: random.Random, content: bytes) -> bytes:
    begin, end = sorted((chance.randint(0, len(content)), chance.randint(0, len(content))))
    return content[:end] + content[begin:end] * chance.choice((1, 2, 30)) + content[end:]


BYTES = (flipped, flipped, cut, overwritten, doubled)


# Changes of what is meant


def altered(chance: random.Random, held: Any) -> Any:
    """JSON with one or more values of it changed."""
    held = copy.deepcopy(held)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        places = list(_places(held))
        if not places:
            return _odd(chance)
        node, key = chance.choice(places)
        what = chance.randrange(6)
        if what == 0:
            del node[key]
        elif what == 1:
            other, name = chance.choice(places)
            node[key] = copy.deepcopy(other[name])
        elif what == 2:
            node[key] = json.loads("[" * (deep := chance.choice((1, 30, 50))) + "]" * deep)
        elif what == 3 and isinstance(node, dict):
            node[chance.choice(("", "x" * 100, "steps", "kind", "more"))] = _odd(chance)
        elif what == 4 and type(node[key]) in (int, float) and not abs(node[key]) > 1e300:
            node[key] *= chance.choice((-1, 0, 2, 0.1, 1e6, 1e-6, 1e30))
        else:
            node[key] = _odd(chance)
    return held


def _odd(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(ODD))


def _places(node: Any) -> Any:
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in pairs:
        yield node, key
        yield from _places(value)


def changed_array(chance: random.Random, array: np.ndarray) -> np.ndarray:
    what = chance.randrange(8)
    if array.dtype.hasobject:
        return array
    if what == 0:
        return array.astype(
            chance.choice(("float64", "int8", "uint8", "int64", "bool", "float16", "complex64", "S3", "U2"))
        )
    if what == 1:
        return array.reshape(-1)[: chance.randint(0, array.size)]
    if what == 2:
        return np.broadcast_to(array, (chance.choice((1, 2, 50)), *array.shape)).copy()
    if what == 3:
        return np.full_like(array, chance.choice((0, 1, 127)))
    if what == 4:
        return np.moveaxis(array, -1, 0).copy() if array.ndim else array
    if what == 5:
        return np.zeros(chance.choice(((), (0,), (0, 3), (3, 0, 8, 8, 1), (1,) * 20)), array.dtype)
    if array.dtype.kind not in "fiub":
        return array
    new = array.astype(np.float32)
    if new.size:
        new.reshape(-1)[chance.randrange(new.size)] = chance.choice(
            (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1, 1e10)
        )
    return new


class Kind(NamedTuple):
    """What may be damaged: a file that is intact, what is meant by it altered, how the library reads it, and how often."""

    path: Path
    intact: bytes
    alter: Callable[[random.Random, bytes], bytes]
    read: Callable[[], Any]
    share: int
    before: Callable[[], None] = lambda: None
    after: Callable[[random.Random], None] = lambda chance: None

    def mutant(self, chance: random.Random) -> bytes:
        if chance.random() < 0.6:
            return self.alter(chance, self.intact)
        content = self.intact
        for _ in range(chance.choice((1, 1, 2, 3))):
            content = chance.choice(BYTES)(chance, content)
        return content


def of_tensors(chance: random.Random, content: bytes) -> bytes:
    tensors = safetensors.numpy.load(content)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["ddjax"])
    if chance.random() < 0.7:
        header = altered(chance, header)
    else:
        name = chance.choice(list(tensors))
        value = changed_array(chance, tensors.pop(name))
        if value.dtype.kind in "fiub" and value.dtype.name != "complex64" and chance.random() < 0.9:
            tensors[chance.choice((name, name, name, name + "/more", "/".join("a" * 100)))] = value
    return safetensors.numpy.save(tensors, metadata={"ddjax": json.dumps(header)})


def of_archive(chance: random.Random, content: bytes) -> bytes:
    with np.load(io.BytesIO(content)) as archive:
        arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    for _ in range(chance.choice((1, 1, 2))):
        name = chance.choice(list(arrays) or ["x"])
        arrays[name] = changed_array(chance, arrays.pop(name, np.zeros(3)))
        if chance.random() < 0.15:
            del arrays[name]
        elif chance.random() < 0.1:
            arrays[chance.choice(("mean", "std", "class_names", "feature_names"))] = changed_array(chance, np.ones(3))
        elif chance.random() < 0.05:
            arrays[name] = np.array([{}, None], object)
    file = io.BytesIO()
    chance.choice((np.savez, np.savez_compressed))(file, **arrays)
    return file.getvalue()


def of_json(chance: random.Random, content: bytes) -> bytes:
    return json.dumps(altered(chance, json.loads(content)), ensure_ascii=True).encode()


def of_lines(chance: random.Random, content: bytes) -> bytes:
    lines = content.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = of_json(chance, lines[at])
    return b"\n".join(lines) + b"\n"


def prepared(folder: Path) -> dict[str, Kind]:
    """One intact file of each kind, small, by name."""
    draw = np.random.RandomState(0)
    y = np.arange(60) % 3
    x = draw.randint(0, 256, (60, *SHAPE)).astype(np.uint8)
    np.savez(folder / "own.npz", x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
    small: dict[str, Any] = {"model": "linear", "gate_width": 0.0, "outer_steps": 2, "eval_every": 1, "batch_size": 8}
    recipe = ddjax.Recipe().replace(**small, data=str(folder / "own.npz"), init="random", valid_nets=1, test_nets=2)
    run = folder / "run"
    with jax.default_device(jax.devices("cpu")[0]):
        ddjax.distill(recipe, run, name="small", compare=False, progress=False)
    model = build_model("linear", SHAPE, 3)
    nets = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 4))
    story = {"kind": "pool", "accuracy": [50.0] * 4, "test_nets": 1, "wanted": 4, "data_source": "own"}
    pools.write_pool(folder / "pool.safetensors", nets, story)
    tree = {"images": np.ones((2, 3), np.float32), "step": np.zeros((), np.int32)}
    Checkpoints(folder / "states").save(0, tree)
    Checkpoints(folder / "states").save(4, tree)
    master = shutil.copytree(folder / "states", folder / "master")
    alone = folder / "alone" / "distilled.safetensors"
    alone.parent.mkdir()
    shutil.copyfile(run / alone.name, alone)
    given, read = str(shutil.copyfile(folder / "own.npz", folder / "given.npz")), 0

    def artefact() -> None:
        nonlocal read
        loaded = ddjax.load_artifact(alone)
        loaded.require(("recipe", "transform", "model", "class_names"), alone)
        transform_for(loaded.metadata["transform"], loaded.distilled.images.shape[2:])
        read += 1
        if read % EVALUATED == 1:
            evaluation, _ = ddjax.evaluate_artifact(alone, data=given, num_nets=1)
            assert np.isfinite(list(evaluation.summary().values())).all(), "scores that are not finite"

    def states() -> None:
        Checkpoints(folder / "states").restore(lambda step: tree)

    def anew() -> None:
        shutil.rmtree(folder / "states")
        shutil.copytree(master, folder / "states")

    def sealed(chance: random.Random) -> None:
        """Half of the time, as if it had been written so."""
        if chance.random() < 0.5:
            (folder / "states" / "4" / "digest").write_text(Checkpoints(folder / "states")._digest(4))

    def kind(path: Path, alter: Callable[[random.Random, bytes], bytes], read: Callable[[], Any], share: int) -> Kind:
        return Kind(path, path.read_bytes(), alter, read, share)

    pool, own = folder / "pool.safetensors", folder / "own.npz"
    kinds = {
        "artefact": kind(alone, of_tensors, artefact, 30),
        "pool": kind(pool, of_tensors, lambda: pools.load_pool(pool, model.init), 15),
        "npz": kind(own, of_archive, lambda: load_npz(own), 20),
        "config": kind(run / "config.json", of_json, lambda: (find_runs(run), Config.read(run)), 10),
        "summary": kind(run / "summary.json", of_json, lambda: (find_runs(run), read_summary(run)), 5),
        "metrics": kind(
            run / "metrics.jsonl", of_lines, lambda: (find_runs(run), read_metrics(run / "metrics.jsonl")), 10
        ),
        "frames": kind(run / "frames.npz", of_archive, lambda: read_frames(run / "frames.npz"), 5),
    }
    for name, after in (
        ("_CHECKPOINT_METADATA", sealed),
        ("default/_METADATA", sealed),
        ("digest", lambda chance: None),
    ):
        path = folder / "states" / "4" / name
        alter = flipped if name == "digest" else of_json
        kinds[f"checkpoint {name}"] = Kind(path, path.read_bytes(), alter, states, 2, anew, after)
    return kinds


def outcome(kind: Kind, chance: random.Random) -> tuple[str, str]:
    """What becomes of one input, "read", "refused" or "FOUND", and what is said of it."""

    def too_long(signum: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    kind.before()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = kind.mutant(chance)
    kind.path.write_bytes(content)
    kind.after(chance)
    before, began, peak = signal.signal(signal.SIGALRM, too_long), time.monotonic(), memory(afresh=True)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            kind.read()
        found = "read", ""
    except ddjax.DdjaxError as error:
        good = str(error).isprintable() and len(str(error)) <= 2000
        found = ("refused", "") if good else ("FOUND", f"not one line: {str(error)[:200]!r}")
    except Exception as error:  # whatever it is: this is what is looked for
        found = "FOUND", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        kind.path.parent.mkdir(parents=True, exist_ok=True)
        kind.path.write_bytes(kind.intact)
    if time.monotonic() - began > SECONDS or memory() - peak > MEMORY:
        return "FOUND", f"{time.monotonic() - began:.1f} s, {(memory() - peak) / 1e6:.0f} MB more than before"
    return found


def memory(afresh: bool = False) -> int:
    """The most bytes that this process has had: since it was last asked `afresh`, where the system can begin again."""
    if afresh:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(kinds: dict[str, Kind], inputs: int, seed: int = 0, first: int = 0) -> list[str]:
    """Reads so many inputs, of numbers from `first` on; returns what was found, one line each."""
    names, shares, found = list(kinds), [kind.share for kind in kinds.values()], []
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    began = time.monotonic()
    for number in range(first, first + inputs):
        chance = random.Random(f"{seed} {number}")
        name = chance.choices(names, shares)[0]
        what, said = outcome(kinds[name], chance)
        counts[name][what] += 1
        if what == "FOUND":
            found.append(f"input {number}, {name}: {said}")
            print(found[-1].encode("ascii", "backslashreplace").decode(), flush=True)
    for name, count in sorted(counts.items()):
        print(f"{name:34s} {count['read']:7d} read {count['refused']:7d} refused {count['FOUND']:5d} found")
    seconds = time.monotonic() - began
    print(f"{inputs} inputs in {seconds:.0f} s, at most {memory() / 1e6:.0f} MB: {len(found)} found", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to see one of them again")
    args = parser.parse_args()
    logging.disable()  # of Orbax, at length
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(min(1, len(run(prepared(Path(folder)), args.inputs, args.seed, args.first))))


if __name__ == "__main__":
    main()
