"""ddjax.evaluate and ddjax.baselines: scores against NumPy, points, chunks; real images with the same budget; all the data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import baselines
from ddjax.core import inits, losses
from ddjax.core.distilled import DistilledData
from ddjax.core.outer import Problem
from ddjax.data import Split
from ddjax.evaluate import evaluate, score

D, K, S, E, M = 6, 3, 2, 3, 3
MEAN, STD = np.float32(0.4), np.float32(0.3)


def apply(params, inputs):
    return inputs @ params


def init(key):
    return jax.random.normal(key, (D, K))


def make_problem(init=init):
    loss = losses.of_network(apply)
    return Problem(apply, loss, loss, init)


def make_split(size, seed=0):
    """Three overlapping clouds as uint8, every value all but unique, so that a row identifies its example."""
    rng = np.random.RandomState(seed)
    labels = rng.permutation(np.arange(size) % K)
    centres = np.array([[60, 120, 120, 60, 120, 120], [120, 60, 120, 120, 60, 120], [120, 120, 60, 120, 120, 60]])
    inputs = np.clip(centres[labels] + rng.normal(0, 40, (size, D)), 0, 255).astype(np.uint8)
    return Split(jnp.asarray(inputs), jnp.asarray(labels, jnp.int32), jnp.full(1, MEAN), jnp.full(1, STD))


def make_distilled(count=None, seed=1):
    rng = np.random.RandomState(seed)
    lead = () if count is None else (count,)
    images = rng.normal(size=(*lead, S, M, D))
    labels = np.broadcast_to(np.eye(K), (*lead, S, M, K))
    lrs = rng.uniform(0.1, 0.9, (*lead, E, S))
    return DistilledData(*(jnp.asarray(part, jnp.float32) for part in (images, labels, np.log(lrs))))


def normalised(split):
    return (np.asarray(split.inputs, np.float64) / 255 - MEAN) / STD


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


def numpy_score(params, split):
    """Percent, and nats."""
    labels = np.asarray(split.labels)
    logs = log_softmax(normalised(split) @ np.asarray(params, np.float64))
    return 100 * np.mean(logs.argmax(axis=1) == labels), -np.mean(logs[np.arange(len(labels)), labels])


def numpy_points(params, distilled, split):
    """Scores before and after each epoch of gradient descent on the distilled data."""
    theta = np.asarray(params, np.float64)
    images, labels, lrs = (np.asarray(part, np.float64) for part in distilled)
    points = [numpy_score(theta, split)]
    for e in range(E):
        for s in range(S):
            error = np.exp(log_softmax(images[s] @ theta)) - labels[s]
            theta = theta - np.exp(lrs[e, s]) * images[s].T @ error / M
        points.append(numpy_score(theta, split))
    return np.array(points).T


@pytest.mark.parametrize("size", [37, 40, 3])
@pytest.mark.parametrize("batch_size", [10, 1000])
def test_score_is_that_of_numpy(size, batch_size):
    """Sizes that fill their last batch and sizes that do not."""
    split, params = make_split(size), init(jax.random.key(0))
    scored = jax.jit(partial(score, apply, batch_size=batch_size))
    for turn in range(K):  # so that the last example is a hit in one of them and a miss in the others
        turned = jnp.roll(params, turn, axis=1)
        accuracy, loss = scored(turned, split)
        np.testing.assert_allclose([100 * accuracy, loss], numpy_score(turned, split), rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_evaluation_is_that_of_numpy_whatever_the_chunk(chunk):
    split, distilled, key = make_split(50), make_distilled(), jax.random.key(4)
    found = evaluate(key, make_problem(), distilled, split, num_nets=5, chunk=chunk)
    expected = np.stack([numpy_points(init(jax.random.fold_in(key, j)), distilled, split) for j in range(5)])
    assert found.steps == (0, 2, 4, 6)
    np.testing.assert_allclose(found.accuracy, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.loss, expected[:, 1], rtol=1e-4)
    assert len(np.unique(found.loss)) == 20
    summary = found.summary()
    assert summary == {
        "accuracy_mean": pytest.approx(expected[:, 0, -1].mean()),
        "accuracy_std": pytest.approx(expected[:, 0, -1].std(), rel=1e-4),
        "accuracy_before_mean": pytest.approx(expected[:, 0, 0].mean()),
        "loss_mean": pytest.approx(expected[:, 1, -1].mean(), rel=1e-4),
        "num_nets": 5,
    }
    assert summary["accuracy_std"] > 0


def test_each_network_may_have_data_of_its_own():
    split, distilled, key = make_split(50), make_distilled(3), jax.random.key(4)
    found = evaluate(key, make_problem(), distilled, split, num_nets=3, chunk=2)
    for j in range(3):
        own = jax.tree.map(lambda leaf, j=j: leaf[j], distilled)
        expected = numpy_points(init(jax.random.fold_in(key, j)), own, split)
        np.testing.assert_allclose(found.accuracy[j], expected[0], rtol=1e-5)
        np.testing.assert_allclose(found.loss[j], expected[1], rtol=1e-4)


def test_a_fixed_network_is_the_one_that_is_trained():
    split, distilled, params = make_split(50), make_distilled(), init(jax.random.key(9))
    problem = make_problem(inits.fixed(params))
    found = evaluate(jax.random.key(0), problem, distilled, split, num_nets=2)
    expected = numpy_points(params, distilled, split)
    for row in (0, 1):
        np.testing.assert_allclose(found.accuracy[row], expected[0], rtol=1e-5)
    assert found.summary()["accuracy_std"] == 0


# Baselines


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every evaluation that a baseline asks for."""
    noted = []

    def spy(key, problem, distilled, split, **options):
        result = evaluate(key, problem, distilled, split, **options)
        noted.append((distilled, split, result))
        return result

    monkeypatch.setattr(baselines, "evaluate", spy)
    return noted


def test_random_real_images_are_training_images_of_their_class(calls):
    train, valid, test = (make_split(size, seed) for seed, size in enumerate((90, 40, 50)))
    like = make_distilled()._replace(labels=jnp.broadcast_to(jnp.eye(K)[::-1], (S, M, K)))
    result = baselines.random_real(jax.random.key(0), make_problem(), like, train, valid, test, num_sets=5)
    known = {row.tobytes(): int(label) for row, label in zip(np.asarray(train.inputs), train.labels, strict=True)}
    sets, split, evaluation = calls[-1]
    assert split is test and evaluation is result.evaluation and result.evaluation.accuracy.shape == (5, E + 1)
    images = np.asarray(sets.images) * STD + MEAN
    assert images.shape == (5, S, M, D)
    pixels = np.rint(images * 255).astype(np.uint8)
    np.testing.assert_allclose(images * 255, pixels, atol=1e-3)
    for one_set in pixels:
        for step in one_set:
            assert [known[image.tobytes()] for image in step] == [2, 1, 0]
    assert len({one_set.tobytes() for one_set in pixels}) == 5
    np.testing.assert_array_equal(sets.labels, np.broadcast_to(like.labels, (5, S, M, K)))
    np.testing.assert_allclose(np.exp(sets.log_lrs), np.full((5, E, S), result.learning_rate), rtol=1e-6)
    assert len(calls) == 2 and calls[0][1] is valid


def test_random_real_learning_rate_is_the_best_on_held_out_data(calls):
    """On data where large rates are best, and with labels permuted so that any learning is harmful."""
    train, split = make_split(90), make_split(60, seed=1)
    wrong = split._replace(labels=(split.labels + 1) % K)
    good_start = inits.fixed(1e-3 * jnp.asarray(normalised(train).T @ np.eye(K)[(np.asarray(train.labels) + 1) % K]))
    problem = make_problem(good_start)
    chosen = {}
    for name, valid, test in (("right", split, wrong), ("wrong", wrong, split)):
        calls.clear()
        result = baselines.random_real(jax.random.key(0), problem, make_distilled(), train, valid, test, num_sets=4)
        tried = calls[0][2].accuracy[:, -1].reshape(len(baselines.LEARNING_RATES), 4).mean(axis=1)
        rates = np.exp(np.asarray(calls[0][0].log_lrs)).reshape(len(baselines.LEARNING_RATES), -1)
        np.testing.assert_allclose(
            rates, np.broadcast_to(np.array(baselines.LEARNING_RATES)[:, None], rates.shape), 1e-5
        )
        assert tried.max() > tried.min()
        assert tried[baselines.LEARNING_RATES.index(result.learning_rate)] == tried.max()
        chosen[name] = result.learning_rate
    assert chosen["right"] >= 0.1 > chosen["wrong"]


def test_all_data_learns_an_easy_set():
    train, test = make_split(200), make_split(100, seed=1)
    trained, steps = baselines.all_data(jax.random.key(0), make_problem(), train, test, steps=300, lr=0.05)
    assert steps == 300
    # The classes are closest to their centres: the best that a linear network can do, but for chance.
    centres = np.stack([normalised(train)[np.asarray(train.labels) == c].mean(axis=0) for c in range(K)])
    distances = np.sum((normalised(test)[:, None] - centres) ** 2, axis=-1)
    nearest = 100 * np.mean(distances.argmin(axis=1) == np.asarray(test.labels))
    assert nearest > 70 and trained > nearest - 8
    untrained, _ = baselines.all_data(jax.random.key(0), make_problem(), train, test, steps=1, lr=1e-9)
    assert untrained < 60
