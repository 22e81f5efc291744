"""The outer optimiser of a recipe: its schedule, what bounds the meta-gradient, and which learning rates are one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.core.distilled import DistilledData
from ddjax.errors import InputError
from ddjax.recipes import Recipe

_DECAY = 0.9  # of the running mean of norms, as RaT-BPTT has it (arXiv 2311.07025)


def make_optimizer(recipe: Recipe, axes: jax.Array | None = None) -> optax.GradientTransformation:
    """The update of the distilled data from their meta-gradient; images, labels and log learning rates at their own rates.

    `axes` [D, D] are those that images move along, where the recipe has a basis for them (see `along`).
    """
    inner, outer = recipe.inner, recipe.outer

    def at(rate: float) -> optax.GradientTransformation:
        return _BY_NAME[outer.optimizer](_schedule(rate, recipe), outer.b1, outer.b2)

    images = at(outer.lr)
    names: Any = DistilledData._make(DistilledData._fields)
    # Matched gradients do not depend on the rate, and Adam would make steps of what rounding leaves.
    still = outer.objective == "gradient" or inner.learn_rates == "none"
    rates = {
        "images": along(axes, images) if outer.basis == "components" else images,
        "labels": at(outer.lr if outer.lr_labels is None else outer.lr_labels),
        "log_lrs": optax.set_to_zero() if still else at(outer.lr_log_lrs),
    }
    return optax.chain(
        optax.identity() if outer.clip_relative is None else clip_by_running_norm(outer.clip_relative),
        optax.identity() if outer.clip is None else optax.clip_by_global_norm(outer.clip),
        tie_rates(inner.learn_rates),  # after the bounds: the sum over all steps would leave little of the images' part
        optax.partition(rates, names),
    )


_BY_NAME: dict[str, Any] = {
    "adam": lambda rate, b1, b2: optax.adam(rate, b1=b1, b2=b2),
    "adabelief": lambda rate, b1, b2: optax.adabelief(rate, b1=b1, b2=b2),
    "lion": lambda rate, b1, b2: optax.lion(rate, b1=b1, b2=b2, weight_decay=0.0),
    "nadam": lambda rate, b1, b2: optax.nadam(rate, b1=b1, b2=b2),
    "radam": lambda rate, b1, b2: optax.radam(rate, b1=b1, b2=b2),
    "sgd": lambda rate, b1, b2: optax.sgd(rate, momentum=b1),
}


def _schedule(rate: float, recipe: Recipe) -> optax.Schedule:
    outer = recipe.outer
    after = outer.outer_steps - outer.warmup
    held = optax.constant_schedule(rate) if outer.schedule == "constant" else optax.cosine_decay_schedule(rate, after)
    if outer.warmup == 0:
        return held
    # The first update has a rate already, and the last of the warm-up the peak.
    rise = optax.linear_schedule(rate / outer.warmup, rate, max(outer.warmup - 1, 1))
    return optax.join_schedules([rise, held], [outer.warmup])


def tie_rates(learned: str) -> optax.GradientTransformation:
    """The meta-gradient of learning rates [E, S] that are one: of the same step in every epoch ("step"), or of all ("one").

    Each of them has the gradient of the one that they are, which is their sum; so they stay equal, if they start so.
    """
    axes = {"step": (0,), "one": (0, 1)}.get(learned)
    if axes is None:
        return optax.identity()

    def tied(updates: DistilledData, params: Any = None) -> DistilledData:
        total = jnp.sum(updates.log_lrs, axis=axes, keepdims=True)
        return updates._replace(log_lrs=jnp.broadcast_to(total, updates.log_lrs.shape))

    return optax.stateless(tied)


def along(axes: jax.Array | None, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` in other coordinates: values = axes @ coordinates, of each image [..., D values in all].

    What is the same for one image whichever way it is written is so for gradient descent in orthonormal axes alone; Adam,
    which divides each coordinate by its own gradients' size, moves otherwise along each basis.

    Args:
      axes: float [D, D]; None will do for `init` alone, whose state does not depend on them.
    """

    def turned(matrix: jax.Array, images: Any) -> Any:
        def flat(x: jax.Array) -> jax.Array:
            rows = x.reshape(-1, len(matrix))
            return jnp.matmul(rows, matrix.astype(x.dtype), precision="highest").reshape(x.shape)

        return jax.tree.map(flat, images)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if axes is None:
            raise InputError("--basis components moves images along axes: give make_optimizer those of the data")
        moves, state = optimizer.update(turned(axes, updates), state, params)
        return turned(axes.T, moves), state

    return optax.GradientTransformation(optimizer.init, update)


class RunningNorm(NamedTuple):
    """The running sum of norms, float32 [], and how many there were, int32 []."""

    total: jax.Array
    norms: jax.Array


def clip_by_running_norm(multiple: float) -> optax.GradientTransformation:
    """Scales updates down to `multiple` times the running mean of their global norms before, as RaT-BPTT does (arXiv
    2311.07025; twice, decay 0.9). One that was scaled counts as scaled, and the first is left as it is."""

    def init(params: Any) -> RunningNorm:
        return RunningNorm(jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: RunningNorm, params: Any = None) -> tuple[Any, RunningNorm]:
        norm = optax.tree.norm(updates)
        mean = state.total / (1 - _DECAY ** jnp.maximum(state.norms, 1))  # as if it had not started from zero
        bound = jnp.where(state.norms == 0, norm, multiple * mean)
        scale = jnp.where(norm > bound, bound / norm, 1.0)
        total = _DECAY * state.total + (1 - _DECAY) * jnp.minimum(norm, bound)
        return jax.tree.map(lambda x: scale.astype(x.dtype) * x, updates), RunningNorm(total, state.norms + 1)

    return optax.GradientTransformation(init, update)
