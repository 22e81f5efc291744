"""One step of the inner loop, many in a row, and how they are differentiated.

    theta_{t+1} = theta_t - eta_t * direction(grad_theta l(x~_t, y~_t, theta_t))

(Dataset Distillation, arXiv 1811.10959, sec. 3.1; `direction` is the identity there.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ddjax.core.kept import Steps
from ddjax.core.losses import Loss, Params
from ddjax.core.order import Data, Example, Place, View, example_of, numbers, seen


class Weights(NamedTuple):
    """What the inner loop carries from step to step: the weights and the state of `direction`."""

    params: Params
    opt_state: optax.OptState


Step = Callable[[Weights, Example], Weights]
Run = Callable[[Weights, Data, jax.Array, Place], Weights]
Kept = list[jax.Array]
PullBack = Callable[[Weights, Kept, Example, Weights], tuple[Weights, Example]]


class Rule(NamedTuple):
    """The inner loop with a way of differentiating it.

    Attributes:
      step: (weights, example) -> weights, one step.
      run: (weights, data, log_lrs [T], place) -> weights, T steps in a row from `place` on, differentiable; each trains on
        what the view sees.
    """

    step: Step
    run: Run


# (loss, direction, axis, view), all as for `unroll`.
MakeRule = Callable[[Loss, optax.GradientTransformation | None, str | None, View | None], Rule]

_LARGE = 2**18  # elements


def _mean_over(axis: str | None, tree: Any) -> Any:
    if axis is None:
        return tree
    # Small arrays travel together, for every exchange waits; large ones alone, for joining them copies them.
    leaves, structure = jax.tree.flatten(tree)
    flat, restore = ravel_pytree([leaf for leaf in leaves if leaf.size < _LARGE])
    flat, large = jax.lax.pmean((flat, [leaf for leaf in leaves if leaf.size >= _LARGE]), axis)
    small, large = iter(restore(flat)), iter(large)
    return jax.tree.unflatten(structure, [next(small if leaf.size < _LARGE else large) for leaf in leaves])


def inner_update(
    grads: Params, weights: Weights, log_lr: jax.Array, direction: optax.GradientTransformation | None
) -> Weights:
    """The equation above, given the gradient: theta - eta * direction(grads), and the new state of `direction`."""
    params, state = weights
    updates, state = (grads, state) if direction is None else direction.update(grads, state, params)
    lr = jnp.exp(log_lr)
    return Weights(jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, params, updates), state)


def reverse_over_reverse(
    loss: Loss, direction: optax.GradientTransformation | None, axis: str | None = None, view: View | None = None
) -> Rule:
    """The steps left to automatic differentiation: what `mixed_mode` is compared with. It keeps every activation.

    Raises:
      ValueError: when it runs, where `axis` is given.
    """

    def step(weights: Weights, example: Example) -> Weights:
        grads = _mean_over(axis, jax.grad(loss)(weights.params, example.inputs, example.targets))
        return inner_update(grads, weights, example.log_lr, direction)

    def run(weights: Weights, data: Data, log_lrs_T: jax.Array, place: Place) -> Weights:
        if axis is not None:
            raise ValueError(
                "reverse_over_reverse takes no axis: share the examples of a step under the rule mixed_mode"
            )

        def one(weights: Weights, x: tuple[jax.Array, jax.Array]) -> tuple[Weights, None]:
            return step(weights, seen(view, place, x[0], example_of(data, *x))), None

        return jax.lax.scan(one, weights, (numbers(log_lrs_T, place), log_lrs_T))[0]

    return Rule(step, run)


def mixed_mode(
    loss: Loss, direction: optax.GradientTransformation | None, axis: str | None = None, view: View | None = None
) -> Rule:
    """The steps with their own differentiation rule, `pull_back_of`. What goes into a step is kept, and the few values that
    layers mark (see `kept`); other activations are computed again (MixFlow-MG, arXiv 2505.00793)."""
    step = reverse_over_reverse(loss, direction, axis).step
    gradients = Steps(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    pull_back = pull_back_of(gradients, direction, axis)

    @jax.custom_vjp
    def run(weights: Weights, data: Data, log_lrs_T: jax.Array, place: Place) -> Weights:
        return forward(weights, data, log_lrs_T, place)[0]

    def forward(weights: Weights, data: Data, log_lrs_T: jax.Array, place: Place) -> tuple[Weights, Any]:
        def one(weights: Weights, x: tuple[jax.Array, jax.Array]) -> tuple[Weights, tuple[Weights, Kept]]:
            inputs, targets, log_lr = seen(view, place, x[0], example_of(data, *x))
            (_, (grads, _, _)), kept = gradients.first(weights.params, inputs, targets)
            return inner_update(_mean_over(axis, grads), weights, log_lr, direction), (weights, kept)

        end, kept_T = jax.lax.scan(one, weights, (numbers(log_lrs_T, place), log_lrs_T))
        return end, (kept_T, data, log_lrs_T, place)

    def backward(kept: Any, cotangent: Weights) -> tuple[Weights, Data, jax.Array, None]:
        kept_T, data, log_lrs_T, place = kept

        def one(carry: tuple[Weights, Data], x: Any) -> tuple[tuple[Weights, Data], jax.Array]:
            cotangent, by_data = carry
            (weights, kept), t, log_lr = x
            example, pull = jax.vjp(partial(seen, view, place, t), example_of(data, t, log_lr))
            cotangent, by = pull_back(weights, kept, example, cotangent)
            (by,), s = pull(by), t % len(data.inputs)
            by_data = jax.tree.map(lambda total, part: total.at[s].add(part), by_data, Data(by.inputs, by.targets))
            return (cotangent, by_data), by.log_lr

        start = (cotangent, jax.tree.map(jnp.zeros_like, data))
        t_T = numbers(log_lrs_T, place)
        (cotangent, by_data), by_log_lrs_T = jax.lax.scan(one, start, (kept_T, t_T, log_lrs_T), reverse=True)
        return cotangent, by_data, by_log_lrs_T, None

    run.defvjp(forward, backward)
    return Rule(step, run)


def pull_back_of(gradients: Steps, direction: optax.GradientTransformation | None, axis: str | None) -> PullBack:
    """The pull-back of a step, (weights, what of it was kept, example, cotangent of the next weights) -> cotangents of weights
    and example, in one product; `gradients` are the loss's value and derivatives for weights, inputs and targets.

    The pull-back of g(theta, x, y) = grad_theta l(theta, x, y) along v is grad_{theta, x, y} <g, v>. As second
    derivatives commute, that is the directional derivative of grad_{theta, x, y} l along (v, 0, 0): pushing v forward
    through one reverse pass gives the products for the weights and the data together.

    In gradient descent v = -eta * (cotangent of theta_{t+1}), and the derivative for log eta, <g, v>, is that of the loss
    itself along v, which the same product yields: g itself is never needed. The product being linear, -eta is left to its
    results, which saves large networks one pass over all weights.
    """

    def pull_back(weights: Weights, kept: Kept, example: Example, cotangent: Weights) -> tuple[Weights, Example]:
        inputs, targets, log_lr = example
        (_, (grads, _, _)), push = jax.linearize(lambda p: gradients.again(kept, p, inputs, targets), weights.params)
        if direction is None:
            direct = cotangent
            v = cotangent.params
        else:  # differentiated as it stands, since only optax knows it; it is cheap
            update = partial(inner_update, direction=direction)
            v, direct, by_log_lr = jax.vjp(update, _mean_over(axis, grads), weights, log_lr)[1](cotangent)
        slope, (by_params, by_inputs, by_targets) = push(v)
        if direction is None:
            scale = -jnp.exp(log_lr)
            slope, by_params, by_inputs, by_targets = jax.tree.map(
                lambda x: scale.astype(x.dtype) * x, (slope, by_params, by_inputs, by_targets)
            )
        slope, by_params = _mean_over(axis, (slope, by_params))
        if direction is None:
            by_log_lr = slope.astype(log_lr.dtype)
        if axis is not None:  # the mean over all examples gives each a smaller share than the mean over those here
            by_inputs, by_targets = jax.tree.map(lambda x: x / jax.lax.axis_size(axis), (by_inputs, by_targets))
        by_weights = Weights(jax.tree.map(jnp.add, direct.params, by_params), direct.opt_state)
        return by_weights, Example(by_inputs, by_targets, by_log_lr)

    return pull_back
