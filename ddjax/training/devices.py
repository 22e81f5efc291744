"""Which devices a run uses, of one process or of several, and how its work is laid out on them."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from ddjax.core.meta import Layout
from ddjax.errors import InputError, one_line
from ddjax.storage.provenance import usable_cores

_SILENCE = 30  # seconds after which JAX takes a process that it hears nothing of for dead
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def use_devices(distributed: bool = False) -> None:
    """Makes every CPU core a device of its own, and this process one of several where it is; call before JAX is first used.

    It is where `distributed` says so, or where $JAX_COORDINATOR_ADDRESS (host:port of the first) is set, with
    $JAX_NUM_PROCESSES and $JAX_PROCESS_ID. What is not set is found out by JAX, as under SLURM, Open MPI, Kubernetes and on
    Cloud TPU (`jax.distributed.initialize`).

    Raises:
      InputError: there is to be more than one, and JAX does not find the others.
    """
    use_all_cores()
    address, count, number = (os.environ.get(name) for name in _VARIABLES)
    if not (distributed or address) or jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # which would keep SIGTERM for itself
    try:
        jax.distributed.initialize(
            address,
            None if count is None else int(count),
            None if number is None else int(number),
            heartbeat_timeout_seconds=_SILENCE,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"no other processes of this run are found ({one_line(error)}): set {', '.join(_VARIABLES)} in each, start "
            "them under SLURM, Open MPI, Kubernetes or on Cloud TPU, or leave --distributed out"
        ) from error


def use_all_cores(most: int = 8) -> None:
    """Makes every CPU core a device of its own, one thread each; call before JAX is first used.

    The operations of one outer step are too small to share among threads; networks, examples of a step and parts of the
    real batch are not. Without effect where the flags are set already or there is an accelerator.
    """
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        jax.config.update("jax_num_cpu_devices", min(most, usable_cores()))


def make_mesh(num_nets: int, batch_size: int, *, smallest_share: int = 64) -> Mesh | None:
    """Devices as ("nets", "batch"): networks over as many as divide them, the real batch over the rest; None for one.

    A device that would get fewer than `smallest_share` real examples is left out: its share would not pay for the exchange.
    Of several processes each has as many devices in it, and one at least, whatever its share.

    Raises:
      InputError: the networks and the batch cannot be shared out over the processes.
    """
    processes = jax.process_count()
    own = [[device for device in jax.devices() if device.process_index == number] for number in range(processes)]
    for each in range(min(map(len, own)), 0, -1):
        devices = [device for of_one in own for device in of_one[:each]]
        nets = int(np.gcd(len(devices), num_nets))
        rest = len(devices) // nets
        if len(devices) == 1:
            return None
        if batch_size % rest == 0 and (rest == 1 or batch_size // rest >= smallest_share or each == 1):
            return Mesh(np.array(devices).reshape(nets, rest), ("nets", "batch"))
    raise InputError(
        f"{processes} processes cannot share out {num_nets} networks a step (--num-nets) and batches of {batch_size} "
        f"(--batch-size): choose one that {processes} divides"
    )


def _in_one_process(devices: Sequence[jax.Device]) -> bool:
    return len({device.process_index for device in devices}) == 1


def make_layout(num_nets: int, batch_size: int, *, example_size: int = 784, remat: bool = False) -> Layout:
    """The layout that was measured fastest on this backend (benchmarks/): all of it chosen here and nowhere else.

    A CPU core has a cache to stay in and no use for batching: it takes one network at a time, and 64 real examples at a time
    of MNIST's `example_size`, the numbers in one, but of larger ones as few as 16. Accelerators train all their networks side
    by side and take the batch whole. The examples of an inner step are not shared between processes, which are too far apart
    for an exchange at every one.
    """
    mesh = make_mesh(num_nets, batch_size)
    if jax.default_backend() == "cpu":
        fit = 2 ** int(np.log2(2**16 / example_size))  # a power of two, which divides what batches usually are
        near = mesh is None or all(map(_in_one_process, mesh.devices))
        return Layout(mesh, share_steps=near, together=1, chunk=min(64, max(16, fit)), remat=remat)
    return Layout(mesh, remat=remat)
