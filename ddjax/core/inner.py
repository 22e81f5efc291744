"""The inner loop: a network trained on the distilled data, differentiable with respect to that data.

    theta_{t+1} = theta_t - eta_t * direction(grad_theta l(x~_t, y~_t, theta_t))        t = (epoch e, step s)

(Dataset Distillation, arXiv 1811.10959, sec. 3.1 and 3.4; `direction` is the identity there.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ddjax.core.distilled import DistilledData, Targets, fixed_labels
from ddjax.core.losses import Loss, Params

Gradient = Callable[[Params, jax.Array, jax.Array], Params]


def mixed_mode_gradient(loss: Loss) -> Gradient:
    """grad_theta of `loss`, whose own pull-back is one forward-over-reverse product.

    The pull-back of g(theta, x, y) = grad_theta l(theta, x, y) along v is grad_{theta, x, y} <g, v>. As second
    derivatives commute, that is the directional derivative of grad_{theta, x, y} l along (v, 0, 0): one `jax.jvp` of one
    reverse pass gives the products for the weights and the data together. Only (theta, x, y) are kept; activations are
    computed again, so memory does not grow with the depth of the network (MixFlow-MG, arXiv 2505.00793).
    """

    @jax.custom_vjp
    def gradient(params: Params, inputs: jax.Array, targets: jax.Array) -> Params:
        return jax.grad(loss)(params, inputs, targets)

    def forward(params: Params, inputs: jax.Array, targets: jax.Array):
        return gradient(params, inputs, targets), (params, inputs, targets)

    def backward(residuals, cotangent: Params):
        params, inputs, targets = residuals
        all_gradients = jax.grad(loss, argnums=(0, 1, 2))
        return jax.jvp(lambda p: all_gradients(p, inputs, targets), (params,), (cotangent,))[1]

    gradient.defvjp(forward, backward)
    return gradient


def inner_update(
    gradient: Gradient,
    params: Params,
    opt_state: optax.OptState,
    batch: tuple[jax.Array, jax.Array],
    lr: jax.Array,
    direction: optax.GradientTransformation,
) -> tuple[Params, optax.OptState]:
    """One step of the inner loop: theta - eta * direction(grad l). `batch` is (inputs [M, ...], targets [M, K])."""
    updates, opt_state = direction.update(gradient(params, *batch), opt_state, params)
    return jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, params, updates), opt_state


def trajectory(
    loss: Loss,
    params: Params,
    distilled: DistilledData,
    *,
    direction: optax.GradientTransformation | None = None,
    targets: Targets = fixed_labels,
    gradient: Callable[[Loss], Gradient] = mixed_mode_gradient,
) -> Params:
    """Trains on the distilled data and returns the weights after every epoch, stacked: leaves [E, ...].

    Differentiable with respect to `params` and all of `distilled`, exactly. Memory: the weights and the state of
    `direction` after each epoch (E copies) plus those of each step of one epoch (S copies): epochs are rematerialised
    around steps, so S * E steps cost S + E copies and no activations.

    Args:
      loss: inner loss l(params, inputs, targets).
      params: theta_0, a pytree of float arrays.
      distilled: see `DistilledData`; S and E are read off `log_lrs` [E, S].
      direction: optax transformation applied to the gradient, its state carried through the steps: `optax.identity()`
        (the default) is gradient descent, `optax.trace(0.9)` momentum, `optax.scale_by_adam()` Adam.
      targets: how `distilled.labels` become targets: `fixed_labels` or `learned_labels`.
      gradient: differentiation rule of the inner gradient; `jax.grad` gives plain reverse-over-reverse.
    """
    direction = optax.identity() if direction is None else direction
    targets_SMK = targets(distilled.labels)
    inner_gradient = gradient(loss)

    def step(carry, x):
        params, opt_state = carry
        inputs, step_targets, log_lr = x
        lr = jnp.exp(log_lr)
        return inner_update(inner_gradient, params, opt_state, (inputs, step_targets), lr, direction), None

    @jax.checkpoint
    def epoch(carry, log_lrs_S):
        carry, _ = jax.lax.scan(step, carry, (distilled.images, targets_SMK, log_lrs_S))
        return carry, carry[0]

    return jax.lax.scan(epoch, (params, direction.init(params)), distilled.log_lrs)[1]


def unroll(loss: Loss, params: Params, distilled: DistilledData, **options) -> Params:
    """The weights theta_{S*E} at the end of the inner loop; arguments as for `trajectory`."""
    return jax.tree.map(lambda leaf: leaf[-1], trajectory(loss, params, distilled, **options))
