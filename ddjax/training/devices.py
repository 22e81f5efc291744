"""Which devices a run uses, and how its work is laid out on them."""

import os

import jax
import numpy as np
from jax.sharding import Mesh

from ddjax.core.meta import Layout
from ddjax.storage.provenance import usable_cores


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
    """
    devices = jax.devices()
    for count in range(len(devices), 1, -1):
        nets = np.gcd(count, num_nets)
        rest = count // nets
        if batch_size % rest == 0 and (rest == 1 or batch_size // rest >= smallest_share):
            return Mesh(np.array(devices[:count]).reshape(nets, rest), ("nets", "batch"))
    return None


def make_layout(num_nets: int, batch_size: int, *, example_size: int = 784, remat: bool = False) -> Layout:
    """The layout that was measured fastest on this backend (benchmarks/): all of it chosen here and nowhere else.

    A CPU core has a cache to stay in and no use for batching: it takes one network at a time, and 64 real examples at a time
    of MNIST's `example_size`, the numbers in one, but of larger ones as few as 16. Accelerators train all their networks side
    by side and take the batch whole.
    """
    mesh = make_mesh(num_nets, batch_size)
    if jax.default_backend() == "cpu":
        fit = 2 ** int(np.log2(2**16 / example_size))  # a power of two, which divides what batches usually are
        return Layout(mesh, share_steps=True, together=1, chunk=min(64, max(16, fit)), remat=remat)
    return Layout(mesh, remat=remat)
