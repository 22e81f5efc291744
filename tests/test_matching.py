"""Gradient matching: the objective by hand and in every layout, what a recipe makes of it, and that a head learns by it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_outer import LAYOUTS, apply, learned_labels, make_arguments, make_problem, relative_error

import ddjax
from ddjax import InputError, freeze
from ddjax.core.matching import cosine_distance
from ddjax.core.meta import meta_gradient, meta_loss
from ddjax.evaluation.real_sets import random_sets
from ddjax.experiment.setup import set_up
from ddjax.models import build_model
from ddjax.storage.metrics import read_metrics


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_distance_is_one_less_the_cosine_of_all_weights_as_one_vector(x64):
    random = np.random.RandomState(0)
    a, b = ({"w": random.normal(size=(3, 4)), "b": random.normal(size=4)} for _ in range(2))
    cosine = flat(a) @ flat(b) / np.linalg.norm(flat(a)) / np.linalg.norm(flat(b))
    assert float(cosine_distance(a, b)) == pytest.approx(1 - cosine, rel=1e-12)
    assert float(cosine_distance(a, jax.tree.map(lambda leaf: 3 * leaf, a))) == pytest.approx(0, abs=1e-12)
    assert float(cosine_distance(a, jax.tree.map(lambda leaf: -leaf, a))) == pytest.approx(2, rel=1e-12)


def gradient_by_hand(params, inputs, targets):
    """Of the mean cross-entropy of tanh(x a) b, written out."""
    hidden = np.tanh(inputs @ params["a"])
    logits = hidden @ params["b"]
    wrong = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) * targets.sum(axis=1, keepdims=True) - targets
    wrong /= len(inputs)
    return {"a": inputs.T @ (wrong @ params["b"].T * (1 - hidden**2)), "b": hidden.T @ wrong}


def test_one_step_matches_the_gradients_and_does_not_see_its_rate(x64):
    params_N, distilled, batch = make_arguments(2)
    distilled = distilled._replace(
        images=distilled.images[:1], labels=distilled.labels[:1], log_lrs=distilled.log_lrs[:1, :1]
    )
    problem = make_problem(match=cosine_distance, targets=lambda labels: labels)
    expected = []
    for network in range(2):
        params = {name: np.asarray(leaf[network]) for name, leaf in params_N.items()}
        real = gradient_by_hand(params, *map(np.asarray, batch))
        fake = gradient_by_hand(params, np.asarray(distilled.images[0]), np.asarray(distilled.labels[0]))
        cosine = flat(real) @ flat(fake) / np.linalg.norm(flat(real)) / np.linalg.norm(flat(fake))
        expected.append(1 - cosine)
    loss, grads = meta_gradient(problem, params_N, distilled, batch)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-10)
    assert np.linalg.norm(grads.images) > 1e-3 and abs(float(grads.log_lrs[0, 0])) < 1e-12


@pytest.fixture(scope="module")
def by_definition():
    """Of `meta_loss`, automatically differentiated; made within the first test, in double precision as that is."""
    found = []

    def of():
        if not found:
            problem = make_problem(match=cosine_distance, targets=learned_labels)
            found.append(jax.jit(jax.value_and_grad(partial(meta_loss, problem), argnums=1))(*make_arguments()))
        return found[0]

    return of


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_meta_gradient_is_that_of_the_meta_loss_in_every_layout(x64, by_definition, layout):
    problem = make_problem(match=cosine_distance, targets=learned_labels)
    found = jax.jit(partial(meta_gradient, problem, layout=LAYOUTS[layout]))(*make_arguments())
    assert all(np.linalg.norm(np.ravel(part)) > 1e-4 for part in jax.tree.leaves(by_definition()))
    assert relative_error(found, by_definition()) < 1e-12


def test_the_meta_gradient_is_that_of_finite_differences(x64):
    params_N, distilled, batch = make_arguments(2)
    problem = make_problem(match=cosine_distance, targets=learned_labels)
    loss = jax.jit(partial(meta_loss, problem))
    _, grads = meta_gradient(problem, params_N, distilled, batch)
    random = np.random.RandomState(3)
    along = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), distilled)
    ahead, behind = (
        loss(params_N, jax.tree.map(lambda leaf, by, s=s: leaf + s * 1e-5 * by, distilled, along), batch)
        for s in (1, -1)
    )
    assert float(ahead - behind) / 2e-5 == pytest.approx(flat(grads) @ flat(along), rel=1e-6)


def test_heads_are_moved_as_by_all_the_data_and_the_rate_stays(tmp_path):
    """scikit-learn's digits through a frozen network: nearer to the gradient on test data than as many real images are."""
    model = build_model("mlp", (28, 28, 1), 10)
    frozen = freeze(model, model.init(jax.random.key(1)), input_shape=(28, 28, 1))
    recipe = ddjax.get_recipe("digits").replace(
        **{
            "objective": "gradient",
            "init": "random",
            "num_nets": 4,
            "inner_lr": 0.5,
            "gate_width": 0.0,
            "start": "real",
        },
        **{"outer_steps": 100, "eval_every": 50, "batch_size": 128, "test_nets": 10, "lr": 0.02},
    )
    done = ddjax.distill(recipe, tmp_path / "run", model=frozen, compare=False, progress=False)
    np.testing.assert_allclose(np.exp(done.artifact.distilled.log_lrs), 0.5, rtol=1e-6)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"] < 1  # a distance, and not a cross-entropy
    made = set_up(recipe, model=frozen)
    heads = jax.vmap(frozen.init)(jax.random.split(jax.random.key(7), 8))
    test = made.test.transform(made.test.inputs), jax.nn.one_hot(made.test.labels, 10)
    real = random_sets(jax.random.key(8), done.artifact.distilled, made.train, 5)
    data = [done.artifact.distilled, *(done.artifact.distilled._replace(images=images) for images in real)]
    ours, *others = (float(meta_loss(made.problem, heads, one, test)) for one in data)
    assert ours < 0.5 * min(others)


@pytest.mark.parametrize("changes", [{"steps": 2}, {"epochs": 2}, {"direction": "momentum"}])
def test_more_than_one_step_is_refused(changes):
    with pytest.raises(InputError, match="--objective gradient matches the gradient of one step: give --steps 1"):
        ddjax.get_recipe("digits").replace(objective="gradient", **changes).validate()


def test_apply_of_the_problem_is_the_network_by_hand(x64):
    """Or the gradient above would be another network's."""
    params_N, _, (inputs, targets) = make_arguments(1)
    params = jax.tree.map(lambda leaf: leaf[0], params_N)
    found = jax.grad(lambda p: -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(apply(p, inputs)), axis=1)))(params)
    expected = gradient_by_hand({k: np.asarray(v) for k, v in params.items()}, np.asarray(inputs), np.asarray(targets))
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-10)
