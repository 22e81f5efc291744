"""Sets of real images in the places of distilled ones: drawn at random, k-means centres, class averages."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.data import Split, memory
from ddjax.errors import InputError


def random_sets(key: jax.Array, like: DistilledData, train: Split, num_sets: int) -> np.ndarray:
    """Sets of random training images, each image of the class that `like` has in its place.

    A set repeats an image only where its class has fewer than are wanted.

    Args:
      key: draws the images.
      like: its labels [S, M, K] give the class of every place, by their maximum; in any arrangement.
      train: training examples.
      num_sets: R.

    Returns:
      float32 [R, S, M, ...], normalised.

    Raises:
      InputError: a class has no training example.
    """
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    rows = np.empty((num_sets, *np.shape(like.labels)[:2]), np.int64)
    for members, places in _classes(like, train):
        for own_rows in rows:
            own_rows[places] = rng.choice(members, places.sum(), replace=places.sum() > len(members))
    return normalised(train, rows.reshape(-1)).reshape(num_sets, *like.images.shape)


def kmeans_sets(
    key: jax.Array, like: DistilledData, train: Split, num_sets: int = 1, *, most: int = 2000
) -> np.ndarray:
    """Sets of k-means centres: a class has as many centres as `like` has places for it, and each fills one.

    A class that has no more distinct images than places gives those images, repeated. Arguments, returns and errors as for
    `random_sets`, and `most`: training images of a class that are clustered, drawn afresh for each set.
    """
    from sklearn.cluster import KMeans  # here, as it takes two seconds to import

    images = np.empty((num_sets, *like.images.shape), np.float32)
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    for members, places in _classes(like, train):
        for own_images in images:
            rows = rng.permutation(members)[:most]
            points, count = normalised(train, rows).reshape(len(rows), -1), int(places.sum())
            centres = np.unique(points, axis=0)
            if len(centres) > count:
                seed = int(rng.integers(2**32))
                centres = KMeans(count, n_init=1, random_state=seed).fit(points).cluster_centers_
            own_images[places] = np.resize(centres, (count, *images.shape[3:]))
    return images


def mean_sets(like: DistilledData, train: Split) -> np.ndarray:
    """One set with the mean training image of its class in every place. Returns and errors as for `random_sets`, R = 1."""
    images = np.empty((1, *like.images.shape), np.float32)
    for members, places in _classes(like, train):
        images[0][places] = normalised(train, members).mean(axis=0)
    return images


def class_of_place(like: DistilledData) -> np.ndarray:
    """The class of every place of distilled data, int [S, M]: where its label [K] is largest."""
    classes: np.ndarray = np.argmax(np.asarray(like.labels), axis=-1)
    return classes


def _classes(like: DistilledData, train: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each class of `like`: the rows of `train` that are of it, [n] integers, and its places in a set, [S, M] booleans."""
    if like.images.shape[2:] != train.inputs.shape[1:]:
        raise InputError(
            f"the distilled data have inputs of shape {list(like.images.shape[2:])} and the training data of "
            f"{list(train.inputs.shape[1:])}: give the data set that they were distilled from"
        )
    classes_SM, labels = class_of_place(like), np.asarray(train.labels)
    for label in np.unique(classes_SM):
        members = np.flatnonzero(labels == label)
        if not len(members):
            raise InputError(
                f"the distilled data have class {label}, of which there is no training example: add some, or give the "
                "data set that they were distilled from"
            )
        yield members, classes_SM == label


def normalised(split: Split, rows: Any = slice(None)) -> np.ndarray:
    """Examples of a split as a network reads them, float32 [n, ...].

    Raises:
      InputError: there is no memory for all of them at once.
    """
    nbytes, free = 4 * np.arange(len(split.labels))[rows].size * math.prod(split.inputs.shape[1:]), memory.available()
    if nbytes > free:
        raise InputError(
            f"k-means, class averages and nearest neighbours read examples as float32 all at once, {nbytes / 1e9:.1f} GB here, "
            f"and {free / 1e9:.1f} GB of memory are free: leave them out, or take fewer or smaller examples"
        )
    examples: np.ndarray = jax.tree.map(np.asarray, split.transform)(np.asarray(split.inputs[rows]))
    return examples
