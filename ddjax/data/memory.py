"""How much memory there is, and whether examples go there whole or stay where they are."""

import os
from pathlib import Path

import jax

from ddjax.errors import InputError

SHARE = "DDJAX_DATA_SHARE"
_SHARE = 1 / 4
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def share() -> float:
    """The share of a memory that one part of a data set may fill: $DDJAX_DATA_SHARE, else a quarter.

    Where examples lie changes no result, so this is no setting of a recipe.

    Raises:
      InputError: it is no number from 0 to 1.
    """
    said = os.environ.get(SHARE, str(_SHARE))
    try:
        value = float(said)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(
            f"{SHARE} is {said!r}: give the share of a device's memory that examples may fill, from 0 to 1, or none"
        )
    return value


def fits_device(nbytes: int) -> bool:
    """Whether so many bytes of examples may lie on each device. CPU devices have the machine's memory in common."""
    device, *_ = devices = jax.local_devices()
    memory: float = (device.memory_stats() or {}).get("bytes_limit", available() // len(devices))
    return nbytes <= share() * memory


def fits_host(nbytes: int) -> bool:
    """Whether so many bytes of a file may be read whole into the machine's memory."""
    return nbytes <= share() * available()


def available() -> int:
    """Bytes that this process may still take without pushing others out, as far as the system says; else all it has."""
    known = [2**63]
    if hasattr(os, "sysconf"):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            known.append(1024 * int(line.split()[1]))
    if _CGROUP.exists() and (limit := _CGROUP.read_text().strip()).isdigit():
        known.append(int(limit))
    return min(known)
