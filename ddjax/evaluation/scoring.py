"""How one network does on real data: accuracy, loss, predicted classes and confusions, over all of a split, whatever its size.

All of it computes in float32 throughout, whatever precision of matrix products JAX has as its default: on GPUs and TPUs that is
a lower one, and figures would depend on the machine.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.losses import Apply, Params
from ddjax.data import Split

# The setting in which everything here computes; as a context it reaches what is traced within it.
float32 = functools.partial(jax.default_matmul_precision, "float32")

# Bytes; the greater part of what `activation_bytes` counts is forgotten on the way. A CPU's were measured: a LeNet is scored
# fastest by a hundred examples, a ConvNet of width 128 by five, a third to nearly three times as fast as by a thousand.
_ROOM, _CPU_ROOM = 2**32, 2**27


def activation_bytes(apply: Apply, params: Params, example: jax.Array) -> int:
    """Bytes of all that a network computes on its way from one example [...] to its logits, were nothing of it forgotten.

    Read off its trace: nothing is computed.
    """

    def total(jaxpr: Any) -> int:
        size = 0
        for equation in jaxpr.eqns:
            parts = [getattr(part, "jaxpr", part) for part in jax.tree.leaves(list(equation.params.values()))]
            inner = [part for part in parts if hasattr(part, "eqns")]  # of a function within, which counts for it
            size += (
                sum(map(total, inner)) if inner else sum(o.aval.size * o.aval.dtype.itemsize for o in equation.outvars)
            )
        return size

    return total(jax.make_jaxpr(apply)(params, example[None]).jaxpr)


def batch_that_fits(apply: Apply, params: Params, split: Split) -> int:
    """Examples that `score` takes at a time: as many as eight networks side by side have room for, at most a thousand; on a
    CPU, which computes one network at a time (`spread.side_by_side`), as many as its caches like."""
    example_bytes = activation_bytes(apply, params, split.transform(split.inputs[:1])[0])
    if jax.default_backend() == "cpu":
        return int(np.clip(_CPU_ROOM // example_bytes, 1, 128))
    return int(np.clip(_ROOM // (8 * example_bytes), 1, 1000))


def score(apply: Apply, params: Params, split: Split) -> tuple[jax.Array, jax.Array]:
    """Accuracy (fraction) and mean cross-entropy of one network over all of `split`, in batches that fit; jittable."""
    size, batch_size = split.labels.shape[0], batch_that_fits(apply, params, split)
    batches = -(-size // batch_size)
    index = jnp.arange(batches * batch_size)
    counts = (index < size).reshape(batches, batch_size)  # the last batch is filled up with examples that do not count
    index = jnp.minimum(index, size - 1).reshape(batches, batch_size)

    def batch_score(totals: Any, batch: Any) -> tuple[Any, None]:
        rows, counted = batch
        labels = split.labels[rows]
        logits = apply(params, split.read(rows))
        hits = jnp.argmax(logits, axis=-1) == labels
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
        return (totals[0] + jnp.sum(hits & counted), totals[1] + jnp.sum(jnp.where(counted, losses, 0.0))), None

    zero = (jnp.zeros((), jnp.int32), jnp.zeros(()))
    with float32():
        (hits, loss), _ = jax.lax.scan(batch_score, zero, (index, counts))
    return hits / size, loss / size


def predictions(apply: Apply, params: Params, split: Split) -> jax.Array:
    """The class that one network predicts for each example of `split`, int32 [n], in batches that fit; jittable."""
    batch_size = batch_that_fits(apply, params, split)

    def predict(row: jax.Array) -> jax.Array:
        return jnp.argmax(apply(params, split.read(row[None]))[0]).astype(jnp.int32)

    rows = jnp.arange(split.labels.shape[0], dtype=jnp.int32)
    with float32():
        classes: jax.Array = jax.lax.map(predict, rows, batch_size=min(batch_size, len(rows)))
    return classes


def confusion(apply: Apply, params: Params, split: Split, num_classes: int) -> jax.Array:
    """int32 [K, K]: how many examples of `split` of each class (row) one network takes for each class (column); jittable."""
    pairs = split.labels * num_classes + predictions(apply, params, split)
    return jnp.bincount(pairs, length=num_classes**2).reshape(num_classes, num_classes).astype(jnp.int32)
