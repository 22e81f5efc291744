"""Downloads that are cut short, damaged or made up: nothing that looks complete comes of any.

    python tests/long/downloads.py

Serves small sets in the official formats on a local web server, with checksums where the published ones have them: each file of
each cut at every kilobyte (at ten places, where it is smaller), with a flipped bit, with a wrong checksum, and archives with
members that point out of the folder ("..", absolute names, links). Prepares each as `ddjax prepare` does, and sees that it is
refused by one `ddjax.InputError`, that no folder of the set appears, that nothing is written beside it, and that it is prepared
well afterwards. Exit status 1 if not.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_data import RAW, WHOLE, random_pictures

import ddjax
from ddjax.data.catalogue import CATALOGUE
from ddjax.data.catalogue.entry import RawFile
from ddjax.data.prepared import find_prepared

Files = dict[str, bytes]
SECONDS = 60  # that one preparation may take


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server for a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def damaged(files: Files, every: int, chance: random.Random) -> Iterator[tuple[str, Files]]:
    """What is wrong, and the files."""
    for role, content in files.items():
        step = every if len(content) > 10 * every else max(1, len(content) // 10)
        for at in range(0, len(content), step):
            yield f"{role} cut at byte {at} of {len(content)}", files | {role: content[:at]}
        data = bytearray(content)
        data[chance.randrange(len(data) // 4, len(data) - 8)] ^= 1 << chance.randrange(8)
        yield f"a flipped bit in {role}", files | {role: bytes(data)}
        yield f"a page of HTML for {role}", files | {role: b"<html>please log in</html>" * 40}
    if "archive" in files:
        for what in ("..", "absolute", "symbolic link", "hard link", "device"):
            yield f"an archive with members by {what}", files | {"archive": rewritten(files["archive"], what)}


def rewritten(archive: bytes, what: str) -> bytes:
    """The archive whose members have names that lead out of it, or are links, with a file that nobody wants written beside."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
        for member in old.getmembers():
            file = old.extractfile(member)
            assert file is not None
            content = file.read()
            if what in ("..", "absolute"):
                member.name = ("../../../escaped/" if what == ".." else "/tmp/escaped-of-ddjax/") + member.name
            else:
                kinds = {"symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
                member.type, member.linkname, member.size, content = kinds[what], "/etc/passwd", 0, b""
            new.addfile(member, io.BytesIO(content))
    return out.getvalue()


class Served:
    """A set in the catalogue that is fetched from a local folder, and a place where it is prepared."""

    def __init__(self, name: str, address: str, web: Path, root: Path):
        self.name, self.address, self.web, self.root, self.number = name, address, web, root, 0

    def publish(self, files: Files, honest: Files | None) -> None:
        """Puts files on the server; with `honest` ones, the checksums of those."""
        self.number += 1  # by an address of its own: nothing that was kept is taken for it
        entries = {}
        for role, content in files.items():
            place = f"{self.name}-{self.number}-{role}"
            (self.web / place).write_bytes(content)
            known = () if honest is None else (len(honest[role]), hashlib.sha256(honest[role]).hexdigest())
            entries[role] = RawFile(f"{self.address}/{place}", *known)
        CATALOGUE[self.name] = dataclasses.replace(CATALOGUE[self.name], files=entries, digests={})

    def refused(self) -> str:
        """What is wrong with how the published files are met; nothing where they are refused."""
        beside, hung = listing(self.root.parent), []

        def too_long(signum: int, frame: object) -> None:
            hung.append(f"it hung for {SECONDS} s")
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ddjax.prepare(self.name, data_dir=self.root)
        except ddjax.InputError as error:
            wrong = [] if str(error).isprintable() else ["not one line"]
        else:
            wrong = ["taken for good"]
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        wrong += hung
        if find_prepared(self.name, self.root) is not None:
            wrong.append("a folder that looks complete")
        wrong += [f"{path} was written" for path in sorted(listing(self.root.parent) - beside)]
        wrong += [f"{place} was written" for place in ("/tmp/escaped-of-ddjax",) if os.path.exists(place)]
        return ", ".join(wrong)


def listing(folder: Path) -> set[str]:
    """What lies in a folder, but for the folders of data and of the server."""
    return {path.name for path in folder.iterdir()}


def run(folder: Path, names: list[str], every: int = 1024, most: int | None = None) -> list[str]:
    """Tries every damage to every set, or `most` of each; returns what was found, one line each."""
    web, root = folder / "web", folder / "sets"
    web.mkdir()
    root.mkdir()
    found, tried, began = [], 0, time.monotonic()
    before = dict(CATALOGUE)
    try:
        with served(web) as address, patch.dict(os.environ, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1"):
            for name in names:
                chance = random.Random(name)
                pictures = {s: random_pictures(WHOLE[name].input_shape, n, n) for s, n in (("train", 30), ("test", 20))}
                honest = RAW[name](pictures)
                place = Served(name, address, web, root)
                cases = list(damaged(honest, every, chance))
                known = honest if all(file.sha256 for file in before[name].files.values()) else None
                for what, files in chance.sample(cases, most or len(cases)):
                    place.publish(files, known)
                    tried += 1
                    if wrong := place.refused():
                        found.append(f"{name}, {what}: {wrong}")
                        print(found[-1], flush=True)
                        shutil.rmtree(root / CATALOGUE[name].folder, ignore_errors=True)
                place.publish(honest, files if files != honest else {})
                tried += 1
                if wrong := place.refused():
                    found.append(f"{name}, wrong checksums: {wrong}")
                    print(found[-1], flush=True)
                place.publish(honest, honest)
                ddjax.prepare(name, data_dir=root)
                print(f"{name}: {len(cases)} kinds of damage; prepared at last", flush=True)
    finally:
        CATALOGUE.update(before)
    print(f"{tried} downloads in {time.monotonic() - began:.0f} s: {len(found)} found", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=RAW, default=list(RAW), help="which, of all those")
    parser.add_argument("--every", type=int, default=1024, help="bytes between places where a file is cut")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(min(1, len(run(Path(folder), args.sets, args.every))))


if __name__ == "__main__":
    main()
