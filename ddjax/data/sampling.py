"""Real minibatches, drawn, transformed and augmented on the device: one function for the outer loop and for training."""

import jax
import jax.numpy as jnp

from ddjax.core.outer import DrawBatch
from ddjax.data.augment import Augment
from ddjax.data.dataset import Split


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

    def draw_batch(key: jax.Array, split: Split) -> tuple[jax.Array, jax.Array]:
        changes, keys = [augment for augment in augments if augment is not None], []
        for _ in changes:
            key, own = jax.random.split(key)
            keys.append(own)
        index = jax.random.randint(key, (batch_size,), 0, split.labels.shape[0], dtype=jnp.int32)
        inputs = split.transform(split.inputs.at[index].get(mode="promise_in_bounds"))
        labels = split.labels.at[index].get(mode="promise_in_bounds")
        for augment, own in zip(changes, keys, strict=True):
            inputs = augment(own, inputs)
        return inputs, jax.nn.one_hot(labels, num_classes)

    return draw_batch
