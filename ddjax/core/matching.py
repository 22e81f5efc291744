"""Gradient matching: an outer objective that asks distilled data to move a network as real data would.

    1 - cos(grad_theta L(real batch, theta_0), theta_0 - theta_T)

With one step of gradient descent theta_0 - theta_T is the gradient on the distilled data times a positive rate, and this the
objective of Linear Gradient Matching (arXiv 2511.16674, sec. 3), whose networks are linear heads, drawn at random, on a frozen
backbone. It does not depend on the rate, which therefore is not learned.
"""

from collections.abc import Callable

import jax
import optax

from ddjax.core.losses import Params

# (the real gradient, the inner loop's theta_0 - theta_T) -> scalar
Match = Callable[[Params, Params], jax.Array]


def cosine_distance(real: Params, moved: Params) -> jax.Array:
    """1 - cos of the angle between two trees of weights, each taken as one vector; NaN where one of them is zero."""
    cosine: jax.Array = optax.tree.vdot(real, moved) / (optax.tree.norm(real) * optax.tree.norm(moved))
    return 1 - cosine
