"""Where a figure comes from: the machine, the commit and the versions it was measured with."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax

PACKAGES = ("ddjax", "jax", "jaxlib", "flax", "optax")


def machine() -> str:
    """The processor with the cores this process may use, or the accelerators."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} core{'s' * (cores != 1)}"


def processor() -> str:
    """The name of the processor, as well as it can be told."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the checkout that this library was imported from, marked where its code has changed since; empty where
    it is no checkout."""
    folder = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", Path(__file__).name):  # an installed copy that happens to lie inside some checkout
            return ""
        return git("rev-parse", "--short=12", "HEAD") + (
            " with changes" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of this library and of what its results depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}
