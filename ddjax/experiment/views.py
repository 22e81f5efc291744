"""What an inner step of the unroll sees of its images: some of them, drawn at random, and those augmented."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddjax.core.order import View
from ddjax.data import Augment
from ddjax.errors import InputError
from ddjax.recipes import Inner

Choose = Callable[[jax.Array], jax.Array]


def make_view(inner: Inner, num_classes: int, siamese: Augment | None) -> View | None:
    """The view of a recipe; None where every step sees all of its images as they are.

    Args:
      inner: `subset_classes` and `subset_images` of `per_class`.
      num_classes: K, class by class in each step.
      siamese: what images go through; the draw of a step's images does not depend on it.

    Raises:
      InputError: more classes or images than there are.
    """
    choose = _subset(inner, num_classes)
    if choose is None and siamese is None:
        return None

    def view(key: jax.Array, example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        images, targets = example
        subset_key, siamese_key = jax.random.split(key)
        if choose is not None:
            rows = choose(subset_key)
            images, targets = images[rows], targets[rows]
        return (images if siamese is None else siamese(siamese_key, images)), targets

    return view


def _subset(inner: Inner, num_classes: int) -> Choose | None:
    if inner.subset_classes is None and inner.subset_images is None:
        return None
    if inner.images is not None:
        raise InputError("--subset-classes and --subset-images are of --per-class images: leave --images out")
    classes, each = inner.subset_classes or num_classes, inner.subset_images or inner.per_class
    if classes > num_classes:
        raise InputError(
            f"--subset-classes is {classes}, but there are {num_classes} classes: lower it, or leave it out"
        )
    if each > inner.per_class:
        raise InputError(f"--subset-images is {each}, but --per-class {inner.per_class}: lower it, or leave it out")

    def choose(key: jax.Array) -> jax.Array:
        """Rows int32 [classes * each], without repetition; each class by itself."""
        class_key, image_key = jax.random.split(key)
        chosen = jax.random.permutation(class_key, num_classes)[:classes]
        keys = jax.random.split(image_key, classes)
        within = jax.vmap(lambda k: jax.random.permutation(k, inner.per_class)[:each])(keys)
        return (chosen[:, None] * inner.per_class + within).reshape(-1).astype(jnp.int32)

    return choose
