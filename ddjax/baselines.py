"""What distilled data are measured against: real images with the same budget, and training on all the data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.core.distilled import DistilledData
from ddjax.core.outer import Problem
from ddjax.data import Split, draw_batch, normalise
from ddjax.evaluate import Evaluation, evaluate, score

# Fixed learning rates tried for a baseline; the best on held-out training data is used (paper, sec. 4).
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Baseline(NamedTuple):
    """A baseline's scores on the test set, and the learning rate chosen for it on held-out training data."""

    evaluation: Evaluation
    learning_rate: float


def random_real(
    key: jax.Array,
    problem: Problem,
    like: DistilledData,
    train: Split,
    valid: Split,
    test: Split,
    *,
    num_sets: int = 20,
) -> Baseline:
    """The same number of gradient-descent steps on random real images, as many a class as the distilled data have.

    Args:
      key: draws the images and the networks; each set trains a network of its own.
      problem: its `init` and `direction` are used; its targets must be fixed, i.e. probabilities.
      like: gives S, M, E and the labels [S, M, K]; M must hold each class equally often, class by class.
      train, valid, test: images are drawn from `train`, the learning rate is chosen on `valid`, scores are from `test`.
      num_sets: random sets of images.
    """
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    classes = np.argmax(like.labels, axis=-1)  # [S, M]
    labels = np.asarray(train.labels)
    members = [np.flatnonzero(labels == c) for c in range(like.labels.shape[-1])]
    rows = np.stack([[[rng.choice(members[c]) for c in step] for step in classes] for _ in range(num_sets)])
    images_RSM = normalise(train.inputs[rows.reshape(-1)], train.mean, train.std).reshape(num_sets, *like.images.shape)

    def sets(lr: float, count: int) -> DistilledData:
        return DistilledData(
            images_RSM[:count],
            jnp.broadcast_to(jax.nn.one_hot(classes, like.labels.shape[-1]), (count, *like.labels.shape)),
            jnp.full((count, *like.log_lrs.shape), jnp.log(lr)),
        )

    few = min(4, num_sets)
    grid = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(sets(lr, few) for lr in LEARNING_RATES))
    tried = evaluate(key, problem, grid, valid, num_nets=few * len(LEARNING_RATES), chunk=2 * few)
    best = int(np.argmax(tried.accuracy[:, -1].reshape(len(LEARNING_RATES), few).mean(axis=1)))
    lr = LEARNING_RATES[best]
    return Baseline(evaluate(key, problem, sets(lr, num_sets), test, num_nets=num_sets), lr)


def all_data(
    key: jax.Array,
    problem: Problem,
    train: Split,
    test: Split,
    *,
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 2e-3,
) -> tuple[float, int]:
    """Ordinary training on all the training data: Adam with cosine decay from `problem.init`.

    Returns the accuracy on `test` in percent and the number of steps taken.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, steps))
    num_classes = int(jax.eval_shape(problem.apply, problem.init(key), train.inputs[:1].astype(jnp.float32)).shape[-1])

    @jax.jit
    def fit(key, train, test):
        def step(carry, step_key):
            params, opt_state = carry
            inputs, labels = draw_batch(step_key, train, batch_size)
            grads = jax.grad(problem.inner_loss)(params, inputs, jax.nn.one_hot(labels, num_classes))
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        params = problem.init(key)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
        return score(problem.apply, params, test)[0]

    return 100.0 * float(fit(key, train, test)), steps
