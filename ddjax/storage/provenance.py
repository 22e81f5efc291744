"""Where a figure comes from: the code, the machine, the versions and the inputs it was measured with."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

# This library, what it computes with, and what its data and baselines depend on.
PACKAGES = ("ddjax", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "pillow")
_FOLDER = Path(__file__).resolve().parents[1]


def origin(outer_steps: int, inputs: dict[str, str]) -> dict[str, Any]:
    """What a run is begun with, JSON-serialisable.

    `commit`: see `commit`; `code`: digest of the library's source; `versions`, `machine`, `python`; `outer_steps`: to how
    many the run was to go; `inputs`: a digest of everything that it reads, by what it is.
    """
    return {
        "commit": commit(),
        "code": code(),
        "versions": versions(),
        "machine": machine(),
        "python": platform.python_version(),
        "outer_steps": outer_steps,
        "inputs": inputs,
    }


def digest(parts: Iterable[bytes | np.ndarray[Any, Any]]) -> str:
    """16 hexadecimal digits of SHA-256 over bytes and arrays, of these with their types and shapes."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            total.update(part)
        else:
            total.update(f"{part.dtype} {list(part.shape)}".encode())
            total.update(np.ascontiguousarray(part).data.cast("B"))
    return total.hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """`digest` of what a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def code() -> str:
    """`digest` of the library's own source, as it was when first asked for."""
    paths = sorted(_FOLDER.rglob("*.py"))
    return digest(part for path in paths for part in (str(path.relative_to(_FOLDER)).encode(), path.read_bytes()))


def machine() -> str:
    """The processor with the cores this process may use, or the accelerators."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    cores = usable_cores()
    return f"{processor()}, {cores} core{'s' * (cores != 1)}"


def usable_cores() -> int:
    """Cores that this process may use; all there are where the operating system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, as well as it can be told."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """The commit of the checkout that this library was imported from, marked where its code has changed since. Where it is
    none, what $DDJAX_COMMIT says, for a copy that was taken without git's own files; else empty. As it was when first asked
    for, since a checkout may move on meanwhile."""
    said = os.environ.get("DDJAX_COMMIT", "")

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=_FOLDER, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", "__init__.py"):  # an installed copy that happens to lie inside some checkout
            return said
        return git("rev-parse", "--short=12", "HEAD") + (
            " with changes" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return said


def versions() -> dict[str, str]:
    """Versions of this library and of what its results depend on, as far as they are installed: this library may be run from
    a checkout as it is, and its code is told by `commit` and `code` then."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
