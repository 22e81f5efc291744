"""Distilled data as an ordinary training set: minibatches in another order every epoch."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddjax.core.distilled import DistilledData
from ddjax.core.losses import Loss, Params
from ddjax.data import Augment


def rows_of(distilled: DistilledData) -> tuple[jax.Array, jax.Array]:
    """All examples of all steps in one row: inputs [n, ...] and targets [n, K]."""
    inputs, targets = (jnp.asarray(leaf).reshape(-1, *leaf.shape[2:]) for leaf in (distilled.images, distilled.labels))
    return inputs, targets


def by_minibatches(
    loss: Loss,
    key: jax.Array,
    params: Params,
    inputs: jax.Array,
    targets: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    augment: Augment | None = None,
) -> Params:
    """The weights after so many epochs; jittable. A last smaller batch is left out of each.

    Args:
      loss: mean loss of a batch, (params, inputs [b, ...], targets [b, K]).
      key: draws the orders, and what batches go through.
      params: weights to start from.
      inputs, targets: [n, ...] and [n, K].
      optimizer: any of optax; epochs: passes over all examples; batch_size: examples a step, all of them if there are fewer.
      augment: what batches go through; None: nothing.
    """
    size = min(batch_size, len(inputs))
    whole = len(inputs) // size * size
    augment_key = jax.random.fold_in(key, epochs)
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(inputs))[:whole])(jax.random.split(key, epochs))
    batches = orders.reshape(-1, size)

    def step(carry: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        (params, state), (number, rows) = carry, x
        seen = inputs[rows]
        if augment is not None:
            seen = augment(jax.random.fold_in(augment_key, number), seen)
        updates, state = optimizer.update(jax.grad(loss)(params, seen, targets[rows]), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (trained, _), _ = jax.lax.scan(step, start, (jnp.arange(len(batches), dtype=jnp.int32), batches))
    return trained
