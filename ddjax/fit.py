"""Ordinary training on real data: what distilled data are measured against, and how pools of networks are made."""

from typing import Any

import jax
import optax

from ddjax.core.losses import Loss, Params
from ddjax.data import Split, draw_batch


def fit(
    key: jax.Array,
    loss: Loss,
    params: Params,
    split: Split,
    num_classes: int,
    *,
    steps: int,
    batch_size: int,
    lr: float,
) -> Params:
    """Adam with cosine decay to zero, on batches drawn with replacement; jittable, and `vmap` trains networks side by side.

    Args:
      key: draws the batches.
      loss: mean loss of a batch, (params, inputs [b, ...], targets [b, K]).
      params: weights to start from.
      split: real data; num_classes: K.
      steps, batch_size, lr: length, examples a step, peak rate.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, steps))

    def step(carry: Any, step_key: jax.Array) -> tuple[Any, None]:
        params, opt_state = carry
        inputs, labels = draw_batch(step_key, split, batch_size)
        grads = jax.grad(loss)(params, inputs, jax.nn.one_hot(labels, num_classes))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params
