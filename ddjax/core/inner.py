"""The inner loop: a network trained on the distilled data, differentiable with respect to that data.

    theta_{t+1} = theta_t - eta_t * direction(grad_theta l(x~_t, y~_t, theta_t))        t = (epoch e, step s)

(Dataset Distillation, arXiv 1811.10959, sec. 3.1 and 3.4; `direction` is the identity there.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from ddjax.core.distilled import DistilledData, Targets, fixed_labels
from ddjax.core.losses import Loss, Params


class Weights(NamedTuple):
    """What the inner loop carries from step to step: the weights and the state of `direction`."""

    params: Params
    opt_state: optax.OptState


class Example(NamedTuple):
    """What one step trains on: inputs [M, ...], targets [M, K], and the logarithm of its learning rate []."""

    inputs: jax.Array
    targets: jax.Array
    log_lr: jax.Array


class Data(NamedTuple):
    """What the S steps of an epoch train on: inputs [S, M, ...] and targets [S, M, K]."""

    inputs: jax.Array
    targets: jax.Array


class Rule(NamedTuple):
    """The inner loop with a way of differentiating it.

    Attributes:
      step: (weights, example) -> weights, one step.
      run: (weights, data, log_lrs [T], first) -> weights, T steps in a row, differentiable; `first` is the number of the
        first of them, int32 [].
    """

    step: Callable[[Weights, Example], Weights]
    run: Callable[[Weights, Data, jax.Array, jax.Array], Weights]


# (loss, direction, axis); `axis` as for `unroll`.
MakeRule = Callable[[Loss, optax.GradientTransformation | None, str | None], Rule]


def _mean_over(axis: str | None, tree: Any) -> Any:
    if axis is None:
        return tree
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(flat, axis))


def inner_update(
    grads: Params, weights: Weights, log_lr: jax.Array, direction: optax.GradientTransformation | None
) -> Weights:
    """The equation above, given the gradient: theta - eta * direction(grads), and the new state of `direction`."""
    params, state = weights
    updates, state = (grads, state) if direction is None else direction.update(grads, state, params)
    lr = jnp.exp(log_lr)
    return Weights(jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, params, updates), state)


def reverse_over_reverse(loss: Loss, direction: optax.GradientTransformation | None, axis: str | None = None) -> Rule:
    """The steps left to automatic differentiation: what `mixed_mode` is compared with. It keeps every activation."""

    def step(weights: Weights, example: Example) -> Weights:
        grads = _mean_over(axis, jax.grad(loss)(weights.params, example.inputs, example.targets))
        return inner_update(grads, weights, example.log_lr, direction)

    def run(weights: Weights, data: Data, log_lrs_T: jax.Array, first: jax.Array) -> Weights:
        if axis is not None:
            raise ValueError(
                "reverse_over_reverse takes no axis: share the examples of a step under the rule mixed_mode"
            )
        order = _order(data, log_lrs_T, first)
        return jax.lax.scan(lambda w, x: (step(w, _example(data, *x)), None), weights, (order, log_lrs_T))[0]

    return Rule(step, run)


def mixed_mode(loss: Loss, direction: optax.GradientTransformation | None, axis: str | None = None) -> Rule:
    """The steps with their own differentiation rule: one forward-over-reverse product pulls a cotangent back through each.

    The pull-back of g(theta, x, y) = grad_theta l(theta, x, y) along v is grad_{theta, x, y} <g, v>. As second
    derivatives commute, that is the directional derivative of grad_{theta, x, y} l along (v, 0, 0): pushing v through one
    reverse pass gives the products for the weights and the data together. Only what goes into a step is kept; activations
    are computed again, so memory does not grow with the depth of the network (MixFlow-MG, arXiv 2505.00793).

    In gradient descent v = -eta * (cotangent of theta_{t+1}), and the derivative for log eta, <g, v>, is that of the loss
    itself along v, which the same product yields: g itself is never needed.
    """
    step = reverse_over_reverse(loss, direction, axis).step

    def gradients(params: Params, inputs: jax.Array, targets: jax.Array):
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(params, inputs, targets)

    def pull_back(weights: Weights, example: Example, cotangent: Weights) -> tuple[Weights, Example]:
        inputs, targets, log_lr = example
        (_, (grads, _, _)), push = jax.linearize(lambda p: gradients(p, inputs, targets), weights.params)
        if direction is None:
            direct = cotangent
            v = jax.tree.map(lambda c: -jnp.exp(log_lr).astype(c.dtype) * c, cotangent.params)
        else:  # differentiated as it stands, since only optax knows it; it is cheap
            update = partial(inner_update, direction=direction)
            v, direct, by_log_lr = jax.vjp(update, _mean_over(axis, grads), weights, log_lr)[1](cotangent)
        slope, (by_params, by_inputs, by_targets) = push(v)
        slope, by_params = _mean_over(axis, (slope, by_params))
        if direction is None:
            by_log_lr = slope.astype(log_lr.dtype)
        if axis is not None:  # the mean over all examples gives each a smaller share than the mean over those here
            by_inputs, by_targets = jax.tree.map(lambda x: x / jax.lax.axis_size(axis), (by_inputs, by_targets))
        by_weights = Weights(jax.tree.map(jnp.add, direct.params, by_params), direct.opt_state)
        return by_weights, Example(by_inputs, by_targets, by_log_lr)

    @jax.custom_vjp
    def run(weights: Weights, data: Data, log_lrs_T: jax.Array, first: jax.Array) -> Weights:
        return forward(weights, data, log_lrs_T, first)[0]

    def forward(weights: Weights, data: Data, log_lrs_T: jax.Array, first: jax.Array):
        def one(weights, x):
            s, log_lr = x
            return step(weights, _example(data, s, log_lr)), weights

        order = _order(data, log_lrs_T, first)
        end, weights_T = jax.lax.scan(one, weights, (order, log_lrs_T))
        return end, (weights_T, data, log_lrs_T, order)

    def backward(residuals, cotangent: Weights):
        weights_T, data, log_lrs_T, order = residuals

        def one(carry, x):
            cotangent, by_data = carry
            weights, s, log_lr = x
            cotangent, by = pull_back(weights, _example(data, s, log_lr), cotangent)
            by_data = jax.tree.map(lambda total, part: total.at[s].add(part), by_data, Data(by.inputs, by.targets))
            return (cotangent, by_data), by.log_lr

        start = (cotangent, jax.tree.map(jnp.zeros_like, data))
        (cotangent, by_data), by_log_lrs_T = jax.lax.scan(one, start, (weights_T, order, log_lrs_T), reverse=True)
        return cotangent, by_data, by_log_lrs_T, np.zeros((), jax.dtypes.float0)

    run.defvjp(forward, backward)
    return Rule(step, run)


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
    return _epochs(rule(loss, direction, None).run, params, distilled, direction, targets)[1]


def unroll(
    loss: Loss,
    params: Params,
    distilled: DistilledData,
    *,
    direction: optax.GradientTransformation | None = None,
    targets: Targets = fixed_labels,
    rule: MakeRule = mixed_mode,
    remat: bool = False,
    window: tuple[jax.Array | int, int] | None = None,
    axis: str | None = None,
) -> Params:
    """The weights theta_T at the end of the inner loop, T = S * E.

    Differentiable with respect to `params` and all of `distilled`, exactly. Memory: what each step starts from, i.e. T
    copies of the weights and of the state of `direction`, and no activations; with `remat` S + E copies.

    Args:
      loss: inner loss l(params, inputs, targets), the mean over its examples.
      params: theta_0, a pytree of float arrays.
      distilled: see `DistilledData`; S and E are read off `log_lrs` [E, S].
      direction: optax transformation applied to the gradient, its state carried through the steps: None is gradient
        descent, `optax.trace(0.9)` momentum, `optax.scale_by_adam()` Adam.
      targets: how `distilled.labels` become targets: `fixed_labels` or `learned_labels`.
      rule: differentiation rule of the steps: `mixed_mode`, or `reverse_over_reverse` as a reference.
      remat: also forget the weights within an epoch and compute them again: one more forward pass.
      window: (start, length), 0 <= start <= T - length: the loop ends after step start + length - 1, and the steps
        before `start`, which may be traced, run without gradients, and none reaches `params` (truncated backpropagation:
        RaT-BPTT, arXiv 2311.07025).
      axis: name of a mapped axis whose devices each hold a share of every step's examples (equal shares, M in all).
    """
    step, run = rule(loss, direction, axis)
    if remat and window is None:
        return _epochs(jax.checkpoint(run), params, distilled, direction, targets)[0].params
    start = Weights(params, None if direction is None else direction.init(params))
    data, log_lrs_T = Data(distilled.images, targets(distilled.labels)), distilled.log_lrs.reshape(-1)
    first, length = (0, len(log_lrs_T)) if window is None else window
    first = jnp.asarray(first, jnp.int32)
    if window is not None:
        start, still, still_lrs = jax.lax.stop_gradient((start, data, log_lrs_T))
        steps = len(distilled.images)
        start = jax.lax.fori_loop(0, first, lambda t, w: step(w, _example(still, t % steps, still_lrs[t])), start)
        log_lrs_T = jax.lax.dynamic_slice_in_dim(log_lrs_T, first, length)
    return run(start, data, log_lrs_T, first).params


def _example(data: Data, s: jax.Array, log_lr: jax.Array) -> Example:
    inputs, targets = (jax.lax.dynamic_index_in_dim(part, s, keepdims=False) for part in data)
    return Example(inputs, targets, log_lr)


def _order(data: Data, log_lrs_T: jax.Array, first: jax.Array) -> jax.Array:
    """Which step's data each of the next len(log_lrs_T) steps trains on, step `first` of the whole being the first."""
    return (first + jnp.arange(len(log_lrs_T), dtype=jnp.int32)) % len(data.inputs)


def _epochs(run: Callable, params: Params, distilled: DistilledData, direction, targets: Targets):
    """Epoch by epoch: the last weights, and the parameters after each epoch, stacked."""
    start = Weights(params, None if direction is None else direction.init(params))
    data, first = Data(distilled.images, targets(distilled.labels)), jnp.zeros((), jnp.int32)

    def epoch(weights: Weights, log_lrs_S: jax.Array):
        weights = run(weights, data, log_lrs_S, first)
        return weights, weights.params

    return jax.lax.scan(epoch, start, distilled.log_lrs)
