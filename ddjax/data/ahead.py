"""Real batches of examples on the host, each fetched while the outer step before it runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ddjax.data.dataset import Split
from ddjax.data.host import Ahead


@contextmanager
def fetching(split: Split, rows_of: Callable[[int], jax.Array], mesh: Mesh | None) -> Iterator[Callable[[int], Ahead]]:
    """The number of an outer step -> the real batch that it draws.

    Args:
      split: whose inputs are on the host, its other parts where the step wants them.
      rows_of: the rows int32 [b] that the step of a number draws, as an array on the devices that need not be computed yet;
        a function of the number alone.
      mesh: devices with an axis "batch", over which a batch is shared out where it divides, so that each process fetches
        the rows of its own devices and no others; None: one device.
    """
    inputs = split.inputs

    def fetch(rows: jax.Array) -> Ahead:
        numbers = np.asarray(rows)
        sharding: Any = SingleDeviceSharding(jax.local_devices()[0])
        if mesh is not None:
            axis = "batch" if len(numbers) % mesh.shape["batch"] == 0 else None
            sharding = NamedSharding(mesh, PartitionSpec(axis))
        shape = (len(numbers), *inputs.shape[1:])

        def rows_in(part: Any) -> np.ndarray:
            return np.asarray(inputs[numbers[part[0]]])

        fetched = jax.make_array_from_callback(shape, sharding, rows_in)
        return Ahead(fetched, rows, split.labels, split.transform)

    pending: dict[int, Future[Ahead]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="fetching") as thread:

        def feed(step: int) -> Ahead:
            ready = pending.pop(step, None)
            pending.clear()
            batch = fetch(rows_of(step)) if ready is None else ready.result()
            # Asked for before this step is sent, so that the device computes the rows first and they are fetched as it runs.
            pending[step + 1] = thread.submit(fetch, rows_of(step + 1))
            return batch

        yield feed
