"""The linear case, where distillation can be solved by hand (Dataset Distillation, arXiv 1811.10959, sec. 3.3).

A linear model theta [D, K] on inputs d [M, D] with targets t [M, K], under the loss ||d theta - t||^2 / (2 M), takes one
gradient-descent step to

    theta_1 = theta_0 - eta/M d^T (d theta_0 - t) = (I - eta/M d^T d) theta_0 + eta/M d^T t .

Everything below follows from that map; targets are free, real-valued and of any sign.
"""

import jax
import jax.numpy as jnp

from ddjax.core.distilled import DistilledData


def one_step(theta: jax.Array, inputs: jax.Array, targets: jax.Array, lr: jax.Array | float) -> jax.Array:
    """The map above: theta [D, K], inputs [M, D], targets [M, K] -> theta_1 [D, K]."""
    return theta - lr / inputs.shape[0] * inputs.T @ (inputs @ theta - targets)


def optimum(inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """theta* [D, K], the least-squares solution of smallest norm on real data [N, D], [N, K]: d^T d theta* = d^T t."""
    return jnp.linalg.lstsq(inputs, targets)[0]


def for_one_initialisation(theta_0: jax.Array, theta_star: jax.Array, lr: float) -> DistilledData:
    """The smallest data that take this theta_0 to theta* in one step: M = rank(theta* - theta_0) samples.

    The step moves theta by eta/M d^T r with the residuals r = t - d theta_0 [M, K], a matrix of rank M at most, so that
    M >= rank(theta* - theta_0) is needed. It is enough: with the singular value decomposition theta* - theta_0 = U S V^T,
    cut at the rank, take d = U^T and r = M/eta S V^T, that is t = U^T theta_0 + M/eta S V^T.

    Args:
      theta_0, theta_star: [D, K] float, not equal; the rank is read off concrete values, so this is not jittable.
      lr: eta > 0.

    Returns:
      S = E = 1; images [1, M, D], labels [1, M, K] (targets), log_lrs [1, 1].

    Raises:
      ValueError: the two are equal, so that there is nothing to move, or lr is not positive.
    """
    _require_positive(lr)
    U, scales, Vt = jnp.linalg.svd(theta_star - theta_0, full_matrices=False)
    rank = int(jnp.linalg.matrix_rank(theta_star - theta_0))
    if rank == 0:
        raise ValueError("theta_0 is theta* already: no step is needed")
    inputs = U[:, :rank].T
    targets = inputs @ theta_0 + rank / lr * scales[:rank, None] * Vt[:rank]
    return DistilledData(inputs[None], targets[None], jnp.full((1, 1), jnp.log(lr), inputs.dtype))


def for_all_initialisations(theta_star: jax.Array, lr: float, *, steps: int = 1) -> DistilledData:
    """Data that take EVERY theta_0 to theta*, in `steps` steps of M = ceil(D / steps) samples.

    In one step, theta_1 must not depend on theta_0, so that d^T d = M/eta I, whose rank D needs M >= D. With the rows of
    sqrt(M/eta) Q^T for an orthogonal Q and t = d theta*, the constant term is eta/M d^T d theta* = theta*. In several steps
    each takes its own share of the D directions: I - eta/M d_s^T d_s is the projection that forgets the share of step s,
    and the product of projections along orthogonal shares is zero. Fewer than D samples in all can never do:
    see `untouched`. More epochs do not help.

    Args:
      theta_star: [D, K] float.
      lr: eta > 0, the same at every step.
      steps: S >= 1; where S does not divide D, the last samples repeat nothing and are zero.

    Returns:
      E = 1; images [S, M, D], labels [S, M, K] (targets), log_lrs [1, S].

    Raises:
      ValueError: lr is not positive or steps is less than one.
    """
    _require_positive(lr)
    if steps < 1:
        raise ValueError(f"steps is {steps}: give one at least")
    D = theta_star.shape[0]
    M = -(-D // steps)
    directions = jnp.eye(steps * M, D, dtype=theta_star.dtype)
    inputs = jnp.sqrt(M / lr) * directions.reshape(steps, M, D)
    return DistilledData(inputs, inputs @ theta_star, jnp.full((1, steps), jnp.log(lr), inputs.dtype))


def untouched(inputs: jax.Array) -> jax.Array:
    """Orthonormal directions [D, D - rank] that no sample of inputs [..., D] touches; concrete values, not jittable.

    Every step moves theta within the span of its own samples, so v^T theta_T = v^T theta_0 for each such direction v,
    whatever the targets, the learning rates, the number of steps and of epochs. Where there is one, not every theta_0 can
    reach theta*: S steps of M samples need S * M >= D.
    """
    samples = inputs.reshape(-1, inputs.shape[-1])
    rank = int(jnp.linalg.matrix_rank(samples))
    return jnp.linalg.svd(samples, full_matrices=True)[2][rank:].T


def _require_positive(lr: float) -> None:
    if not lr > 0:
        raise ValueError(f"the learning rate is {lr}: give one above zero")
