"""The distilled data: the one thing that is learned, and how it starts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class DistilledData(NamedTuple):
    """S gradient-descent steps of M synthetic examples, used for E epochs (Dataset Distillation, sec. 3.1).

    Attributes:
      images: float [S, M, ...], the examples of each step in the space the network reads (normalised). Any feature shape.
      labels: float [S, M, K], parameters of the targets: probabilities themselves with `fixed_labels`, logits with
        `learned_labels`.
      log_lrs: float [E, S], natural logarithm of the learning rate of each step of each epoch. Optimising the logarithm
        keeps every learning rate positive.
    """

    images: jax.Array
    labels: jax.Array
    log_lrs: jax.Array


# How `labels` become targets, and whether they are learned, is one function: [..., K] -> probabilities [..., K].
Targets = Callable[[jax.Array], jax.Array]
fixed_labels: Targets = jax.lax.stop_gradient
learned_labels: Targets = jax.nn.softmax


def init_distilled(
    key: jax.Array,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    steps: int,
    epochs: int,
    per_class: int,
    learning_rate: float,
    targets: Targets = fixed_labels,
    sharpness: float = 4.0,
) -> DistilledData:
    """Distilled data before any learning: images from N(0, 1), one-hot labels, one learning rate (paper, sec. 4).

    Args:
      key: PRNG key of the images.
      input_shape: shape of one example.
      num_classes: K; each step holds `per_class` examples of each class, so M = K * per_class, class by class.
      steps, epochs: S and E.
      per_class: examples of each class in each step.
      learning_rate: value every learning rate starts from, > 0.
      targets: `fixed_labels`, or `learned_labels`, whose logits start at `sharpness` for the class and 0 elsewhere.
      sharpness: initial logit of an example's own class when labels are learned.
    """
    classes = jnp.tile(jnp.repeat(jnp.arange(num_classes), per_class), (steps, 1))
    labels_SMK = jax.nn.one_hot(classes, num_classes)
    if targets is not fixed_labels:
        labels_SMK = sharpness * labels_SMK
    return DistilledData(
        images=jax.random.normal(key, (steps, num_classes * per_class, *input_shape)),
        labels=labels_SMK,
        log_lrs=jnp.full((epochs, steps), jnp.log(learning_rate)),
    )
