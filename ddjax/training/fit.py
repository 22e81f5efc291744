"""Ordinary training on real data: what distilled data are measured against, and how pools of networks are made.

All of it computes in float32 throughout, whatever precision of matrix products JAX has as its default.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.core.losses import Loss, Params
from ddjax.core.meta import Problem
from ddjax.core.outer import DrawBatch
from ddjax.core.spread import for_each_net
from ddjax.data import Augment, Split, make_draw_batch
from ddjax.evaluation.measure import Scores
from ddjax.evaluation.scoring import float32, score
from ddjax.storage.processes import together


def fit(
    key: jax.Array,
    loss: Loss,
    params: Params,
    split: Split,
    draw_batch: DrawBatch,
    *,
    steps: int,
    lr: float,
) -> Params:
    """Adam with cosine decay to zero, on batches of real data; jittable, and `vmap` trains networks side by side.

    Args:
      key: draws the batches.
      loss: mean loss of a batch, (params, inputs [b, ...], targets [b, K]).
      params: weights to start from.
      split: real data; draw_batch: how batches are drawn from them, as for the outer loop.
      steps, lr: length, peak rate.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, steps))

    def step(carry: Any, step_key: jax.Array) -> tuple[Any, None]:
        params, opt_state = carry
        grads = jax.grad(loss)(params, *draw_batch(step_key, split))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    with float32():
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params


def full_data(
    key: jax.Array,
    problem: Problem,
    train: Split,
    test: Split,
    *,
    num_nets: int = 1,
    params_N: Params | None = None,
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 2e-3,
    augment: Augment | None = None,
) -> Scores:
    """Ordinary training on all the training data: Adam with cosine decay.

    Args:
      key: network j draws its start and its batches with fold_in(key, j).
      problem: its `apply`, `inner_loss` and `init` are used.
      num_nets, params_N: how many networks, and what they start from if not from `problem.init`, as for `evaluate`.
      steps, batch_size, lr: updates, examples an update, and the rate that decays to zero.
      augment: what the batches go through (see `make_draw_batch`).
    """
    num_classes = int(jax.eval_shape(problem.apply, problem.init(key), train.inputs[:1].astype(jnp.float32)).shape[-1])
    draw_batch = make_draw_batch(batch_size, num_classes, augment)

    def accuracy(j: jax.Array, params_N: Params | None, train: Split, test: Split) -> jax.Array:
        start_key, key_j = jax.random.split(jax.random.fold_in(key, j))
        start = problem.init(start_key) if params_N is None else jax.tree.map(lambda p: p[j % len(p)], params_N)
        params = fit(key_j, problem.inner_loss, start, train, draw_batch, steps=steps, lr=lr)
        return 100.0 * score(problem.apply, params, test)[0]

    with together():
        found = for_each_net(accuracy, num_nets)(np.arange(num_nets), params_N, train, test)
    return Scores(found.astype(np.float64), f"Adam, {steps} steps of {batch_size}")
