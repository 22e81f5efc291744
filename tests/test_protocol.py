"""`ddjax evaluate --protocol`: fresh networks trained by minibatches, at a rate that held-out training images choose."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import in_process

import ddjax
from ddjax import InputError
from ddjax.core import losses
from ddjax.experiment import protocol
from ddjax.experiment.protocol import by_protocol, make_optimizer
from ddjax.models import build_model
from ddjax.training.minibatches import by_minibatches

SMALL = {"epochs": 6, "batch_size": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run on the built-in digits: two steps of one fixed network, images augmented in the unroll."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    small = {"model": "mlp", "steps": 2, "epochs": 1, "outer_steps": 20, "eval_every": 20, "batch_size": 32}
    recipe = ddjax.get_recipe("digits").replace(**small, lr=0.2, siamese="flip", gate_width=0.0)
    ddjax.distill(recipe, folder, compare=False, progress=False)
    return folder


@pytest.mark.parametrize("way", ["sgd", "adam"])
def test_the_optimiser_is_that_of_the_benchmarks(x64, way):
    """Momentum 0.9, weight decay 5e-4 in the gradient, and a tenth of the rate from half-way on; Adam along a cosine."""
    steps, rate = 6, 0.1
    optimizer = make_optimizer(way, rate, steps)
    p, state, grads = jnp.asarray(2.0), optimizer.init(jnp.asarray(2.0)), [0.3, -0.5, 0.2, 0.4, 0.1, -0.2]
    q, v, m, n = 2.0, 0.0, 0.0, 0.0
    for t, g in enumerate(grads):
        update, state = optimizer.update(jnp.asarray(g), state, p)
        p = p + update
        if way == "sgd":
            v = 0.9 * v + g + 5e-4 * q
            q -= (rate if t < steps // 2 else rate / 10) * v
        else:
            m, n = 0.9 * m + 0.1 * g, 0.999 * n + 0.001 * g * g
            cosine = (1 + np.cos(np.pi * t / steps)) / 2
            q -= rate * cosine * m / (1 - 0.9 ** (t + 1)) / (np.sqrt(n / (1 - 0.999 ** (t + 1))) + 1e-8)
    np.testing.assert_allclose(p, q, rtol=1e-6)


def test_held_out_images_choose_the_rate_and_test_images_are_scored(run, monkeypatch):
    """Every rate is tried by the same two networks, and five others are tested at the best."""
    seen = []

    def score(apply, params, split):
        seen.append(len(split.labels))
        return jnp.where(len(split.labels) == 400, 0.5, 0.25), jnp.zeros(())

    monkeypatch.setattr(protocol, "score", score)
    found = by_protocol(run, **SMALL)
    train, valid = 1397 - round(1397 / 12), round(1397 / 12)
    assert set(seen) == {valid, 400} and train not in seen
    assert list(found["mlp"].accuracy) == [50.0] * 5 and found["mlp"].chosen == "rate 0.1"  # the first of equals


def test_networks_are_trained_on_all_examples_from_fresh_weights(run, monkeypatch):
    """Their accuracy by hand: the examples of both steps, shuffled and augmented, from weights that are drawn anew."""
    monkeypatch.setitem(protocol.RATES, "sgd", (0.03,))
    calls = []

    def noted(loss, key, params, inputs, targets, **options):
        trained = by_minibatches(loss, key, params, inputs, targets, **options)
        jax.debug.callback(lambda *arrays: calls.append((arrays, options)), params, inputs, targets, trained)
        return trained

    monkeypatch.setattr(protocol, "by_minibatches", noted)
    found = by_protocol(run, num_nets=3, **SMALL)["mlp"]
    artifact, digits = ddjax.load_artifact(run), ddjax.load_dataset("digits")
    model = build_model("mlp", (28, 28, 1), 10)
    assert len(calls) == 2 + 3 and calls[0][1]["augment"] is not None
    starts = {np.asarray(jax.tree.leaves(arrays[0])[-1]).tobytes() for arrays, _ in calls}
    assert len(starts) == 5  # two that choose, and three others
    for (start, inputs, targets, trained), _ in calls:
        np.testing.assert_array_equal(inputs, artifact.distilled.images.reshape(20, 28, 28, 1))
        np.testing.assert_array_equal(targets, artifact.distilled.labels.reshape(20, 10))
        assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape and np.any(a != b), start, trained))
    accuracies = [
        100 * float(np.mean(np.argmax(model.apply(trained, digits.transform(digits.x_test)), axis=1) == digits.y_test))
        for (_, _, _, trained), _ in calls
    ]
    assert len(set(accuracies)) > 1 and all(round(a, 2) in np.round(accuracies, 2) for a in found.accuracy)


def test_minibatches_take_every_example_once_an_epoch_and_augment_it_anew():
    inputs, targets = jnp.arange(7.0)[:, None], jnp.ones((7, 1))
    seen = []

    def loss(params, inputs, targets):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)[:, 0]), inputs, ordered=True)
        return losses.half_squared_error(inputs * params, targets)

    optimizer = make_optimizer("sgd", 1e-3, 9)
    options = {"optimizer": optimizer, "epochs": 4, "batch_size": 3}
    by_minibatches(loss, jax.random.key(0), jnp.ones(()), inputs, targets, **options)
    assert len(seen) == 8 and all(len({*seen[2 * e], *seen[2 * e + 1]}) == 6 for e in range(4))
    assert len({tuple(batch) for batch in seen}) == 8
    plain = list(seen)
    seen.clear()

    def moved(key, x):
        return x + jax.random.uniform(key, (len(x), 1), minval=0.1, maxval=0.9)

    by_minibatches(loss, jax.random.key(0), jnp.ones(()), inputs, targets, augment=moved, **options)
    np.testing.assert_array_equal(np.floor(seen), plain)
    assert len(np.unique(np.round(np.concatenate(seen) % 1, 4))) == 24


def test_the_command_has_a_line_for_each_network(run):
    few = ["--num-nets", "2", "--epochs", "4", "--batch-size", "20", "--protocol"]
    printed = in_process("evaluate", run, *few, "--models", "linear", "resnet", "--augment", "none").out.splitlines()
    assert printed[-3] == "2 fresh networks each, by minibatches"
    assert (
        printed[-2].startswith("  linear  ") and printed[-1].startswith("  resnet  ") and " %, rate 0." in printed[-1]
    )
    found = json.loads(in_process("evaluate", run, *few, "--json").out)
    assert list(found) == ["mlp"] and found["mlp"]["num_nets"] == 2


@pytest.mark.parametrize(
    "options, says",
    [
        ({"num_nets": 0}, "--num-nets is 0"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"augment": "turn"}, "--augment is 'turn'"),
        ({"models": ["lennet"]}, "unknown model 'lennet'"),
    ],
)
def test_what_makes_no_sense_is_said(run, options, says):
    with pytest.raises(InputError, match=says):
        by_protocol(run, **options)
