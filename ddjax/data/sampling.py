"""Real minibatches, drawn, transformed and augmented on the device: one function for the outer loop and for training.

Which rows a batch has is a function of its key alone (`drawn_rows`), so that they can be fetched from the host ahead.
"""

import jax
import jax.numpy as jnp

from ddjax.core.outer import DrawBatch
from ddjax.data.augment import Augment
from ddjax.data.dataset import Split
from ddjax.data.host import Ahead


def make_draw_batch(batch_size: int, num_classes: int, *augments: Augment | None) -> DrawBatch:
    """How real examples are drawn: uniformly, with replacement.

    Args:
      batch_size: b.
      num_classes: K.
      augments: change the drawn inputs, in the space that the network reads, at random (see `make_augment`), one after the
        other, each with a key of its own.

    Returns:
      A jittable `(key, split) -> (inputs [b, ...] float32 as a network reads them, one-hot targets [b, K] float32)`.
    """

    changes = [augment for augment in augments if augment is not None]

    def draw_batch(key: jax.Array, split: Split | Ahead) -> tuple[jax.Array, jax.Array]:
        rows, keys = drawn_rows(key, batch_size, split.labels.shape[0], len(changes))
        inputs = split.read(rows)
        labels = split.labels.at[rows].get(mode="promise_in_bounds")
        for augment, own in zip(changes, keys, strict=True):
            inputs = augment(own, inputs)
        return inputs, jax.nn.one_hot(labels, num_classes)

    return draw_batch


def drawn_rows(key: jax.Array, batch_size: int, examples: int, changes: int) -> tuple[jax.Array, list[jax.Array]]:
    """What a batch is drawn as, from its key alone: rows int32 [b] of so many examples, and a key for each change to them."""
    keys = []
    for _ in range(changes):
        key, own = jax.random.split(key)
        keys.append(own)
    return jax.random.randint(key, (batch_size,), 0, examples, dtype=jnp.int32), keys
