"""The inner loop: a network trained on the distilled data, differentiable with respect to that data.

    theta_{t+1} = theta_t - eta_t * direction(grad_theta l(x~_t, y~_t, theta_t))        t = (epoch e, step s)

(Dataset Distillation, arXiv 1811.10959, sec. 3.1 and 3.4; `direction` is the identity there.)
"""

import jax
import jax.numpy as jnp
import optax

from ddjax.core.distilled import DistilledData, Targets, check_distilled, fixed_labels
from ddjax.core.losses import Loss, Params
from ddjax.core.order import Data, Place, View, Window, example_of, seen, within
from ddjax.core.rules import MakeRule, Run, Weights, mixed_mode
from ddjax.errors import InputError


def trajectory(
    loss: Loss,
    params: Params,
    distilled: DistilledData,
    *,
    direction: optax.GradientTransformation | None = None,
    targets: Targets = fixed_labels,
    rule: MakeRule = mixed_mode,
) -> Params:
    """Trains on the distilled data and returns the weights after every epoch, stacked: leaves [E, ...].

    Arguments as for `unroll`.
    """
    weights, data = _start(params, distilled, direction, targets)
    run, place = rule(loss, direction, None, None).run, Place(jnp.zeros((), jnp.int32))

    def epoch(weights: Weights, log_lrs_S: jax.Array) -> tuple[Weights, Params]:
        weights = run(weights, data, log_lrs_S, place)
        return weights, weights.params

    return jax.lax.scan(epoch, weights, distilled.log_lrs)[1]


def step_norms(
    loss: Loss,
    params: Params,
    distilled: DistilledData,
    *,
    direction: optax.GradientTransformation | None = None,
    targets: Targets = fixed_labels,
    view: View | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """How far each step of the inner loop moves the weights: global norms, float [T]. Arguments as for `unroll`."""
    step = mixed_mode(loss, direction, None, view).step
    weights, data = _start(params, distilled, direction, targets)
    log_lrs_T, place = distilled.log_lrs.reshape(-1), Place(jnp.zeros((), jnp.int32), key)

    def one(weights: Weights, t: jax.Array) -> tuple[Weights, jax.Array]:
        after = step(weights, seen(view, place, t, example_of(data, t, log_lrs_T[t])))
        return after, optax.tree.norm(jax.tree.map(jnp.subtract, after.params, weights.params))

    norms: jax.Array = jax.lax.scan(one, weights, jnp.arange(len(log_lrs_T), dtype=jnp.int32))[1]
    return norms


def unroll(
    loss: Loss,
    params: Params,
    distilled: DistilledData,
    *,
    direction: optax.GradientTransformation | None = None,
    targets: Targets = fixed_labels,
    rule: MakeRule = mixed_mode,
    remat: bool = False,
    window: Window | None = None,
    view: View | None = None,
    key: jax.Array | None = None,
    axis: str | None = None,
) -> Params:
    """The weights theta_T at the end of the inner loop, T = S * E.

    Differentiable with respect to `params` and all of `distilled`, exactly. Memory: what each step starts from, i.e. T
    copies of the weights and of the state of `direction`, and of activations only what layers mark (see `kept`); with
    `remat` S + E copies. Of a window of length W it is W copies, and S + W / S with `remat`.

    Args:
      loss: inner loss l(params, inputs, targets), the mean over its examples.
      params: theta_0, a pytree of float arrays.
      distilled: see `DistilledData`; S and E are read off `log_lrs` [E, S].
      direction: optax transformation applied to the gradient, its state carried through the steps: None is gradient
        descent, `optax.trace(0.9)` momentum, `optax.scale_by_adam()` Adam.
      targets: how `distilled.labels` become targets: `fixed_labels` or `learned_labels`.
      rule: differentiation rule of the steps: `mixed_mode`, or `reverse_over_reverse` as a reference.
      remat: also forget the weights within S steps and compute them again: one more forward pass.
      window: (start, length), 0 <= start <= T - length: the loop ends after step start + length - 1, and the steps
        before `start`, which may be traced, run without gradients, and none reaches `params` (truncated backpropagation:
        RaT-BPTT, arXiv 2311.07025). A traced start out of range gives weights of NaN.
      view: what each step sees of its examples, drawn from `key`: some of them, or all of them augmented (see `order.View`).
      key: step t draws from `fold_in(key, t)`.
      axis: name of a mapped axis whose devices each hold a share of every step's examples (equal shares, M in all).

    Raises:
      InputError: `distilled` is not of one shape, the window does not lie within the T steps, or a view has no key.
    """
    if view is not None and key is None:
        raise InputError("a view draws from a key: give key=jax.random.key(0), another one every time")
    step, run = rule(loss, direction, axis, view)
    weights, data = _start(params, distilled, direction, targets)
    log_lrs_T, place = distilled.log_lrs.reshape(-1), Place(jnp.zeros((), jnp.int32), key)
    if window is not None:
        weights, still, still_lrs = jax.lax.stop_gradient((weights, data, log_lrs_T))
        first, log_lrs_T = within(window, log_lrs_T)

        def before(t: jax.Array, weights: Weights) -> Weights:
            return step(weights, seen(view, place, t, example_of(still, t, still_lrs[t])))

        weights = jax.lax.fori_loop(0, first, before, weights)
        place = place._replace(first=first)
    if remat:
        return _turns(jax.checkpoint(run), weights, data, log_lrs_T, place).params
    return run(weights, data, log_lrs_T, place).params


def _start(
    params: Params, distilled: DistilledData, direction: optax.GradientTransformation | None, targets: Targets
) -> tuple[Weights, Data]:
    """What the loop starts from and what it trains on."""
    check_distilled(distilled)
    weights = Weights(params, None if direction is None else direction.init(params))
    return weights, Data(distilled.images, targets(distilled.labels))


def _turns(run: Run, weights: Weights, data: Data, log_lrs_T: jax.Array, place: Place) -> Weights:
    """`run`, S steps at a time: each turn ends where the next begins; then what is left."""
    steps = len(data.inputs)
    turns, rest = jnp.split(log_lrs_T, [len(log_lrs_T) // steps * steps])

    def turn(carry: tuple[Weights, jax.Array], log_lrs_S: jax.Array) -> tuple[tuple[Weights, jax.Array], None]:
        weights, first = carry
        return (run(weights, data, log_lrs_S, place._replace(first=first)), first + steps), None

    if len(turns):
        (weights, first), _ = jax.lax.scan(turn, (weights, place.first), turns.reshape(-1, steps))
        place = place._replace(first=first)
    return run(weights, data, rest, place) if len(rest) else weights
