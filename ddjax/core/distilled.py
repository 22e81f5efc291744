"""The distilled data: the one thing that is learned, and how it starts."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ddjax.errors import InputError


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


def check_distilled(distilled: DistilledData) -> None:
    """Raises InputError where shapes and dtypes are not those above; they are static, so nothing is added to a program."""
    told = {
        "exception_type": InputError,
        "custom_message": "distilled data are images [S, M, ...], labels [S, M, K] and log_lrs [E, S], all of them float",
    }
    images, labels, log_lrs = distilled
    chex.assert_rank(labels, 3, **told)
    steps, examples = labels.shape[:2]
    chex.assert_shape(images, (steps, examples, ...), **told)
    chex.assert_shape(log_lrs, (None, steps), **told)
    chex.assert_type(list(distilled), float, **told)


def init_distilled(
    key: jax.Array,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    steps: int,
    epochs: int,
    per_class: int,
    learning_rate: float,
    sharpness: float = 1.0,
    examples: int | None = None,
) -> DistilledData:
    """Distilled data before any learning: images from N(0, 1), one-hot labels, one learning rate (paper, sec. 4).

    Args:
      key: PRNG key of the images.
      input_shape: shape of one example.
      num_classes: K; each step holds `per_class` examples of each class, so M = K * per_class, class by class.
      steps, epochs: S and E.
      per_class: examples of each class in each step.
      learning_rate: value every learning rate starts from, > 0.
      sharpness: entry of `labels` for an example's own class; the others are 0. One for targets that are the labels themselves
        (`fixed_labels`), more for logits (`learned_labels`), as 4, which leaves ten classes 86 % on their own.
      examples: M, where it is not K * per_class: classes take turns at the examples, or, of fewer examples than classes,
        examples at the classes, so that each has several.
    """
    if examples is None:
        owners = jax.nn.one_hot(jnp.repeat(jnp.arange(num_classes), per_class), num_classes)
    else:
        rows, columns = jnp.arange(examples)[:, None], jnp.arange(num_classes)[None]
        owners = ((rows - columns) % min(examples, num_classes) == 0).astype(float)
    return DistilledData(
        images=jax.random.normal(key, (steps, len(owners), *input_shape)),
        labels=jnp.tile(sharpness * owners, (steps, 1, 1)),
        log_lrs=jnp.full((epochs, steps), jnp.log(learning_rate)),
    )
