"""Every test runs on the CPU with strict rank promotion; the fixture `x64` turns on double precision.

Strict dtype promotion is out of reach: optax's own Adam does not hold up with it.
"""

import dataclasses
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import chex
import jax
import pytest
from helpers import compiled_once

from ddjax.data.catalogue import CATALOGUE
from ddjax.data.catalogue.entry import RawFile

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def traces_counted_afresh():
    """chex counts the traces of a function by its name and line, across tests."""
    chex.clear_trace_counter()


@pytest.fixture(autouse=True, scope="session")
def compiled_but_once(tmp_path_factory):
    """Tests compile many programs twice: those of a worker find its own again."""
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def in_haste():
    """Programs compiled with few optimisations, in a third of the time: for tests of which none runs long."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def x64():
    """Double precision, for comparisons far below the rounding of float32; compiled in haste, as none of it runs long."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    """No test reads or writes the user's folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(name, files by role) serves raw files and points the catalogue at them; returns the folder served."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def serve(name, files, digests=(), **checks):
        base = f"http://127.0.0.1:{server.server_address[1]}/{name}-"
        urls = {role: RawFile(base + role, **checks) for role in files}
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(CATALOGUE[name], files=urls, digests=dict(digests)))
        for role, content in files.items():
            (folder / f"{name}-{role}").write_bytes(content)
        return folder

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()
