"""The outer loop: distilled data, updated by the meta-gradient of the real loss at the end of the inner loop.

    min over (x~, log eta, optionally y~)   E_{theta_0 ~ p}  L(real batch, theta_{S*E})

(Dataset Distillation, arXiv 1811.10959, Algorithm 1; the expectation is over a batch of sampled initialisations.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ddjax.core.distilled import DistilledData, check_distilled
from ddjax.core.meta import ONE_DEVICE, Batch, Layout, Problem, meta_gradient
from ddjax.core.spread import place, replicated

# (key, dataset) -> (inputs [b, ...], targets [b, K]): one real minibatch, in the space the network reads.
DrawBatch = Callable[[jax.Array, Any], Batch]


class DistillState(NamedTuple):
    """What a resumed run needs, and no more.

    Attributes:
      step: int32 [], outer steps done.
      distilled: the current iterate.
      average: exponential moving average of the iterates, of the same shapes.
      opt_state: state of the outer optimiser.
    """

    step: jax.Array
    distilled: DistilledData
    average: DistilledData
    opt_state: optax.OptState


class Info(NamedTuple):
    """What a person reads of one outer step.

    Attributes:
      loss: float [], mean outer loss over the sampled networks.
      grad_norms: global norm of the meta-gradient of each part of the distilled data, before any clipping.
      finite: bool [], whether loss and meta-gradient were finite; if not, the step left the state as it was.
    """

    loss: jax.Array
    grad_norms: DistilledData
    finite: jax.Array


class Distiller(NamedTuple):
    """`init: distilled -> DistillState` and `step: (key, state, dataset) -> (state, Info)`; the caller jits the step."""

    init: Callable[[DistilledData], DistillState]
    step: Callable[[jax.Array, DistillState, Any], tuple[DistillState, Info]]


def make_distiller(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    draw_batch: DrawBatch,
    *,
    num_nets: int,
    ema_decay: float,
    layout: Layout = ONE_DEVICE,
) -> Distiller:
    """The outer loop as a pair of pure functions.

    Args:
      problem: see `Problem`.
      optimizer: any optax optimiser; it sees the meta-gradient as a `DistilledData`.
      draw_batch: draws one real minibatch from the data set handed to `step`.
      num_nets: N, initialisations drawn at each step.
      ema_decay: decay of `DistillState.average`, in [0, 1).
      layout: of a step on the devices. Step t draws from `fold_in(key, t)` alone, so results do not depend on it but for
        rounding.
    """
    everywhere = replicated(layout.mesh)

    def shard(tree: Any, axis: str) -> Any:  # so that each device draws its own share and no other
        if layout.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(layout.mesh, PartitionSpec(axis)))

    def init(distilled: DistilledData) -> DistillState:
        check_distilled(distilled)
        # Weak types would come out of the first step strong, and the second be compiled again for that.
        distilled = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), distilled)
        state = DistillState(jnp.zeros((), jnp.int32), distilled, distilled, optimizer.init(distilled))
        # Copied, because the step donates its state: no buffer may stand in it twice, nor be the caller's.
        return cast(DistillState, place(jax.tree.map(jnp.copy, state), everywhere))

    def step(key: jax.Array, state: DistillState, dataset: Any) -> tuple[DistillState, Info]:
        batch_key, nets_key, view_key = keys_of_step(key, state.step)
        batch = shard(draw_batch(batch_key, dataset), "batch")
        params_N = shard(jax.vmap(problem.init)(jax.random.split(nets_key, num_nets)), "nets")
        loss, grads = meta_gradient(problem, params_N, state.distilled, batch, layout, view_key)
        moved = _moved(state, grads, optimizer, ema_decay)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
        # Chosen inside the step because the old state's buffers are donated: outside, there is no going back.
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        if everywhere is not None:
            state = jax.lax.with_sharding_constraint(state, everywhere)
        return state, Info(loss, DistilledData(*map(jnp.linalg.norm, map(jnp.ravel, grads))), finite)

    return Distiller(init, step)


def keys_of_step(key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a step of the run with this key draws its real batch, its networks, and its window and views from."""
    key = jax.random.fold_in(key, step)
    batch_key, nets_key = jax.random.split(key)
    return batch_key, nets_key, jax.random.fold_in(key, 0)


def _moved(
    state: DistillState, grads: DistilledData, optimizer: optax.GradientTransformation, ema_decay: float
) -> DistillState:
    """The state after the optimiser's update, and the average after that."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.distilled)
    distilled = cast(DistilledData, optax.apply_updates(state.distilled, updates))
    average = cast(DistilledData, optax.incremental_update(distilled, state.average, 1.0 - ema_decay))
    return DistillState(state.step + 1, distilled, average, opt_state)
