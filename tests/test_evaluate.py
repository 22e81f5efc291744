"""ddjax.evaluate: scores against NumPy, points, chunks, data of one's own, a fixed network."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.core import inits, losses
from ddjax.core.distilled import DistilledData
from ddjax.core.meta import Problem
from ddjax.core.spread import for_each_net, over_nets
from ddjax.data import Split, Standardise
from ddjax.errors import InputError
from ddjax.evaluation import scoring
from ddjax.evaluation.measure import evaluate, measure_trained
from ddjax.evaluation.scoring import confusion, score
from ddjax.experiment.outer import first_iterate, make_validation
from ddjax.experiment.setup import set_up
from ddjax.recipes import Network, Recipe
from ddjax.training.fit import full_data

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
    return Split(jnp.asarray(inputs), jnp.asarray(labels, jnp.int32), Standardise(jnp.full(1, MEAN), jnp.full(1, STD)))


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
def test_score_is_that_of_numpy(monkeypatch, size, batch_size):
    """Sizes that fill their last batch and sizes that do not."""
    split, params = make_split(size), init(jax.random.key(0))
    monkeypatch.setattr(scoring, "batch_that_fits", lambda *_: batch_size)
    scored = jax.jit(partial(score, apply))
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
        "accuracy_before_std": pytest.approx(expected[:, 0, 0].std()),
        "loss_mean": pytest.approx(expected[:, 1, -1].mean(), rel=1e-4),
        "num_nets": 5,
    }
    assert summary["accuracy_std"] > 0


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_only_eight_networks_are_measured_on_their_way(chunk):
    split, distilled, key = make_split(50), make_distilled(), jax.random.key(4)
    found = evaluate(key, make_problem(), distilled, split, num_nets=11, chunk=chunk)
    expected = np.stack([numpy_points(init(jax.random.fold_in(key, j)), distilled, split) for j in range(11)])
    expected[8:, :, 1:-1] = np.nan
    np.testing.assert_allclose(found.accuracy, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.loss, expected[:, 1], rtol=1e-4)
    steps, accuracy, loss = zip(*found.points(), strict=True)
    assert (steps, [len(at) for at in accuracy]) == ((0, 2, 4, 6), [11, 8, 8, 11])
    for i in range(4):
        np.testing.assert_array_equal(accuracy[i], found.accuracy[: len(accuracy[i]), i])
        np.testing.assert_array_equal(loss[i], found.loss[: len(loss[i]), i])
    asked = evaluate(key, make_problem(), distilled, split, num_nets=11, after=(0, 2, 3))
    assert not np.isnan(asked.accuracy).any()


@pytest.mark.parametrize(
    ("epochs", "points"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (10, [*range(1, 11)]),
        (13, [3, 5, 8, 10, 13]),
        (60, [*range(12, 61, 12)]),
    ],
)
def test_of_many_epochs_five_are_measured(epochs, points):
    split, distilled = make_split(20), make_distilled()
    lrs = jnp.log(jnp.linspace(0.1, 0.5, epochs * S).reshape(epochs, S))
    found = evaluate(jax.random.key(4), make_problem(), distilled._replace(log_lrs=lrs), split, num_nets=2)
    assert found.steps == (0, *(S * epoch for epoch in points)) and found.accuracy.shape == (2, len(points) + 1)
    for point, epoch in enumerate(points, 1):
        until = evaluate(jax.random.key(4), make_problem(), distilled._replace(log_lrs=lrs[:epoch]), split, num_nets=2)
        np.testing.assert_allclose(found.loss[:, point], until.loss[:, -1], rtol=1e-5)


@pytest.mark.parametrize("after", [(0,), (3,), (3, 1), (0, 2)])
def test_networks_are_measured_after_the_epochs_that_are_asked_for(after):
    split, distilled, key = make_split(50), make_distilled(), jax.random.key(4)
    found = evaluate(key, make_problem(), distilled, split, num_nets=2, after=after)
    expected = np.stack([numpy_points(init(jax.random.fold_in(key, j)), distilled, split) for j in range(2)])
    assert found.steps == tuple(S * epoch for epoch in after)
    np.testing.assert_allclose(found.accuracy, expected[:, 0, list(after)], rtol=1e-5)
    np.testing.assert_allclose(found.loss, expected[:, 1, list(after)], rtol=1e-4)


@pytest.mark.parametrize("after", [(), (4,), (-1,), (0, 4)])
def test_epochs_that_there_are_not_are_refused(after):
    with pytest.raises(InputError, match=r"of 3 epochs: give some of 0 to 3"):
        evaluate(jax.random.key(4), make_problem(), make_distilled(), make_split(50), num_nets=2, after=after)


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
    problem = make_problem(inits.fixed_init(params))
    found = evaluate(jax.random.key(0), problem, distilled, split, num_nets=2)
    expected = numpy_points(params, distilled, split)
    for row in (0, 1):
        np.testing.assert_allclose(found.accuracy[row], expected[0], rtol=1e-5)
    assert found.summary()["accuracy_std"] == 0


# Precision


def evaluated(problem, split):
    return lambda: evaluate(jax.random.key(0), problem, make_distilled(), split, num_nets=2)


def confused(problem, split):
    measure = partial(confusion, problem.apply, num_classes=K)
    return lambda: measure_trained(measure, jax.random.key(0), problem, make_distilled(), split, num_nets=2)


def fitted(problem, split):
    return lambda: full_data(jax.random.key(0), problem, split, split, steps=3)


def validated(problem, split):
    setting = set_up(Recipe(network=Network(model="linear")))
    return partial(make_validation(setting), first_iterate(setting))


@pytest.mark.parametrize("compute", [evaluated, confused, fitted, validated])
def test_products_are_of_float32_whatever_the_default(compute, tmp_path):
    """Read off the programs that are compiled; a CPU would not show it in the figures."""
    with jax.default_matmul_precision("bfloat16"):
        run = compute(make_problem(), make_split(50))
        jax.config.update("jax_dump_ir_to", str(tmp_path))
        try:
            run()
        finally:
            jax.config.update("jax_dump_ir_to", None)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert len(products) >= 3
    assert [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == []


def test_scikit_learn_is_imported_where_it_is_used():
    script = """
import sys
import ddjax.evaluation.baselines, ddjax.evaluation.neighbours, ddjax.evaluation.poisoning, ddjax.experiment.distill
print("sklearn" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_memory_of_scoring_follows_the_network(monkeypatch):
    """What one example takes is read off the network's trace, of functions within it too; larger ones go in fewer at a time."""

    def apply(params, inputs):
        hidden = jax.jit(lambda x: jnp.maximum(x @ params, 0))(inputs)
        return jax.nn.relu(hidden)[:, :3]

    params, example = jnp.ones((5, 100)), jnp.ones(5)
    counted = scoring.activation_bytes(apply, params, example)
    assert counted == 4 * (100 + 100 + 100 + 3)
    split = Split(jnp.ones((7, 5)), jnp.zeros(7, jnp.int32), lambda x: x)
    wide = jnp.ones((5, 10**6))
    for backend, room, most in (("gpu", 2**32 // 8, 1000), ("cpu", 2**27, 128)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert scoring.batch_that_fits(apply, params, split) == most
        assert scoring.batch_that_fits(apply, wide, split) == room // (3 * 4 * 10**6 + 12) < most
    accuracy, loss = scoring.score(apply, wide, split)
    assert accuracy == 1 and loss == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize(("side_by_side", "shape"), [(1, (5,)), (3, (3, 5))])
def test_so_many_networks_are_computed_side_by_side(side_by_side, shape):
    """A network's own values, in the program, are as they are or stand beside those of others."""
    count = 3 * jax.device_count()
    over = over_nets(lambda own, known: jnp.sin(own) + known, count, side_by_side=side_by_side)
    program = str(jax.make_jaxpr(over)(jnp.ones((count, 5)), jnp.ones(5)))
    assert f":f32[{','.join(map(str, shape))}] = sin " in program


@pytest.mark.parametrize(("count", "side_by_side"), [(1, 1), (11, 1), (11, 3), (2, 4)])
def test_each_network_is_computed_once_and_in_its_place(count, side_by_side):
    keys, numbers, known = (
        jax.random.split(jax.random.key(0), count),
        np.arange(count),
        np.arange(3.0, dtype=np.float32),
    )

    def one(own, known, more):
        key, number = own
        return {"drawn": jax.random.normal(key, (2,)), "found": number * known + more}

    found = for_each_net(one, count, side_by_side=side_by_side)((keys, numbers), known, 5)
    assert isinstance(found["drawn"], np.ndarray) and found["drawn"].shape == (count, 2)
    np.testing.assert_array_equal(found["drawn"], jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys))
    np.testing.assert_array_equal(found["found"], numbers[:, None] * known + 5)
