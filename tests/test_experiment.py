"""ddjax.experiment: what a run starts from, and what it does as a whole to the compiler and to the arithmetic."""

import logging

import jax
import numpy as np
import pytest

from ddjax.core.meta import Layout
from ddjax.errors import InputError
from ddjax.experiment import distill as distilling, outcome
from ddjax.experiment.outer import build_distiller, first_iterate
from ddjax.experiment.setup import set_up
from ddjax.recipes import Recipe
from ddjax.training.pretrain import Training, pretrain_for

pytestmark = pytest.mark.usefixtures("in_haste")

SMALL = Recipe().replace(
    data="digits", model="mlp", outer_steps=7, eval_every=2, batch_size=32, init="random", valid_nets=2, test_nets=2
)


def test_a_run_compiles_its_outer_step_once(tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        distilling.distill(SMALL, tmp_path / "run", compare=False, progress=False)
    compiled = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling ")]
    assert [message.split()[1] for message in compiled].count("jit(step)") == 1


# The initial weights p(theta_0): `key -> params`, whichever of the four

P, V, Q = 5, 2, 3  # to distil with, V of them for choosing the iterate; held out
KEYS = [jax.random.key(number) for number in range(40)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A recipe whose pool has a few linear networks."""
    path = tmp_path_factory.mktemp("pools") / "pool.safetensors"
    recipe = SMALL.replace(model="linear", source="digits", pool=str(path), test_nets=9)
    pretrain_for(recipe, num_nets=P, test_nets=Q, training=Training(5, 32), progress=False)
    return recipe


def draws(recipe):
    """The networks [len(KEYS), ...] that a distillation starts from, told apart by all their weights in one row each."""
    nets = jax.vmap(set_up(recipe).problem.init)(jax.numpy.stack(KEYS))
    return rows(nets)


def rows(nets):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(nets)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def kinds(nets):
    return {net.tobytes() for net in nets}


def drawn_from(starts):
    """The networks of a pool that the outer steps draw from: what p(theta_0) carries as a pytree."""
    return jax.tree.leaves(starts.draw)


def test_fixed_is_one_network_whatever_the_key():
    recipe = SMALL.replace(init="fixed")
    (only,) = kinds(draws(recipe))
    (other,) = kinds(draws(recipe.replace(seed=1)))
    assert only != other


def test_random_is_another_network_for_every_key():
    found = draws(SMALL)
    assert len(kinds(found)) == len(KEYS)
    # Fresh from the model, so the keys alone decide, and not the seed.
    np.testing.assert_array_equal(found, draws(SMALL.replace(seed=1)))


def test_fixed_pretrained_is_one_network_to_distil_with(pretrained):
    pool = set_up(pretrained).starts.pool
    assert pool is not None
    members = rows(pool.train)
    for seed in (0, 1, P + 1):
        recipe = pretrained.replace(init="fixed", seed=seed)
        starts, member = set_up(recipe).starts, members[[seed % P]]
        assert kinds(draws(recipe)) == kinds(member) and starts.test.num_nets == 1
        for nets in (starts.valid, starts.test.params_N, jax.tree.map(lambda leaf: leaf[None], starts.params)):
            np.testing.assert_array_equal(rows(nets), member)


def test_random_pretrained_keeps_apart_what_it_draws_what_it_chooses_by_and_what_it_reports(pretrained):
    starts = set_up(pretrained).starts
    assert starts.pool is not None and starts.params is None
    drawn, valid, held_out = (rows(nets) for nets in (drawn_from(starts), starts.valid, starts.test.params_N))
    assert (len(drawn), len(valid), len(held_out)) == (P - V, V, Q)
    assert len(kinds(drawn) | kinds(valid) | kinds(held_out)) == P + Q
    assert kinds(draws(pretrained)) == kinds(drawn)  # all of them, and nothing else, in so many draws
    assert kinds(drawn) | kinds(valid) == kinds(rows(starts.pool.train))
    assert starts.test.num_nets == Q < pretrained.report.test_nets


@pytest.mark.parametrize("valid_nets", [P, P + 1])
def test_a_pool_with_no_network_left_to_draw_is_refused(pretrained, valid_nets):
    with pytest.raises(InputError, match=rf"has 5 networks to distil with, of which --valid-nets {valid_nets} choose"):
        set_up(pretrained.replace(valid_nets=valid_nets))
    # One fixed network is validated by itself.
    assert set_up(pretrained.replace(valid_nets=valid_nets, init="fixed")).starts.params is not None


def test_the_report_is_of_the_networks_held_out(pretrained, tmp_path, monkeypatch):
    """What evaluation is given, and what the summary tells of the pool."""
    seen, evaluate = [], outcome.evaluate

    def evaluated(*args, params_N=None, **others):
        seen.append(params_N)
        return evaluate(*args, params_N=params_N, **others)

    monkeypatch.setattr(outcome, "evaluate", evaluated)
    starts = set_up(pretrained).starts
    assert starts.pool is not None
    summary = distilling.distill(pretrained, tmp_path / "run", progress=False, compare=False).summary
    assert summary.distilled["num_nets"] == Q
    accuracy = starts.pool.metadata["accuracy"]
    assert {name: part["accuracy_mean"] for name, part in summary.pool.items()} == {
        "train": pytest.approx(np.mean(accuracy[Q:])),
        "test": pytest.approx(np.mean(accuracy[:Q])),
    }
    assert [rows(nets).tolist() for nets in seen] == [rows(starts.test.params_N).tolist()]


def outer_step(recipe):
    """The traced outer step of a recipe, and the number of weights in its pool."""
    setting = set_up(recipe)
    distiller = build_distiller(setting, Layout())
    start = distiller.init(first_iterate(setting))
    traced = jax.jit(distiller.step).trace(setting.key, start, setting.data)
    return traced, sum(leaf.size for leaf in drawn_from(setting.starts))


def test_the_pool_is_an_argument_of_the_outer_step_and_no_constant_in_it(pretrained):
    """A constant would be written into the program, text and all."""
    traced, weights = outer_step(pretrained)
    plain, none = outer_step(pretrained.replace(pool=None, source=None))
    assert weights == (P - V) * (784 * 10 + 10) and none == 0
    shape = (P - V, 784, 10)
    assert [[aval.shape for aval in step.jaxpr.in_avals].count(shape) for step in (traced, plain)] == [1, 0]
    text = traced.lower().as_text()
    assert "tensor<3x784x10xf32>" in text
    # Eight letters a weight, were it there in full.
    assert len(text) < len(plain.lower().as_text()) + 20_000 < 8 * weights
    assert not any("constant dense" in line and "tensor<3x784x10xf32>" in line for line in text.splitlines())


def test_real_images_to_start_from_are_training_images_of_their_class():
    setting = set_up(SMALL.replace(start="real", steps=8, per_class=2))
    start = first_iterate(setting)
    train = setting.train
    known = setting.dataset.transform(np.asarray(train.inputs)).reshape(len(train.labels), -1)
    found = []
    for image, label in zip(start.images.reshape(160, -1), start.labels.reshape(160, 10), strict=True):
        same = np.flatnonzero(np.all(known == np.asarray(image), axis=1))
        assert len(same) >= 1 and set(np.asarray(train.labels)[same]) == {int(label.argmax())}
        found.append(same[0])
    assert len(set(found)) == 160  # no image twice
    noise = first_iterate(set_up(SMALL.replace(steps=8, per_class=2)))
    np.testing.assert_array_equal(start.labels, noise.labels)
    np.testing.assert_array_equal(start.log_lrs, noise.log_lrs)
    assert np.abs(np.std(noise.images) - 1) < 0.02 and np.abs(np.mean(noise.images)) < 0.02
    other = first_iterate(set_up(setting.recipe.replace(seed=1)))
    assert not np.array_equal(start.images, other.images)
