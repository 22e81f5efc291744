"""ddjax.experiment: what a run starts from, and what it does as a whole to the compiler and to the arithmetic."""

import logging

import jax
import numpy as np
import pytest

from ddjax.core import inits
from ddjax.core.meta import Layout
from ddjax.data import load_dataset
from ddjax.errors import InputError
from ddjax.experiment import distill as distilling, setup as experiment
from ddjax.recipes import Recipe, get_recipe
from ddjax.training.pretrain import Training, pretrain_for

SMALL = Recipe().replace(
    data="digits", model="mlp", outer_steps=7, eval_every=2, batch_size=32, init="random", valid_nets=2, test_nets=2
)


def test_a_run_compiles_its_outer_step_once(tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        distilling.distill(SMALL, tmp_path / "run", progress=False)
    compiled = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling ")]
    assert [message.split()[1] for message in compiled].count("jit(step)") == 1


@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_precision_rounds_the_products_of_a_step_and_nothing_that_is_kept(model):
    def one_step(precision):
        recipe = SMALL.replace(model=model, precision=precision)
        setting = experiment.set_up(recipe, dataset=load_dataset("digits"))
        distiller = experiment.build_distiller(setting, Layout())
        start = distiller.init(experiment.first_iterate(setting))
        return jax.jit(distiller.step)(setting.key, start, setting.data)

    (_, info), (rounded, rounded_info) = one_step("float32"), one_step("bfloat16")
    assert all(leaf.dtype == np.float32 for leaf in rounded.distilled)
    difference = abs(float(rounded_info.loss) - float(info.loss))
    assert 1e-6 < difference < 0.05 * float(info.loss)


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match=r"--precision is 'float8': choose one of float32, tensorfloat32, bfloat16"):
        get_recipe("digits").replace(precision="float8").validate()


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
    nets = jax.vmap(experiment.set_up(recipe).problem.init)(jax.numpy.stack(KEYS))
    return rows(nets)


def rows(nets):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(nets)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def kinds(nets):
    return {net.tobytes() for net in nets}


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
    pool = experiment.set_up(pretrained).pool
    assert pool is not None
    members = rows(pool.train)
    for seed in (0, 1, P + 1):
        recipe = pretrained.replace(init="fixed", seed=seed)
        setting = experiment.set_up(recipe)
        assert kinds(draws(recipe)) == kinds(members[[seed % P]])
        assert setting.pool is setting.train_pool is setting.test_params is None and setting.test_nets == 1
        np.testing.assert_array_equal(rows(setting.valid_params), members[[seed % P]])
        np.testing.assert_array_equal(rows(jax.tree.map(lambda leaf: leaf[None], setting.params)), members[[seed % P]])


def test_random_pretrained_keeps_apart_what_it_draws_what_it_chooses_by_and_what_it_reports(pretrained):
    setting = experiment.set_up(pretrained)
    assert setting.pool is not None
    drawn, valid, held_out = (rows(p) for p in (setting.train_pool, setting.valid_params, setting.test_params))
    assert (len(drawn), len(valid), len(held_out), setting.params) == (P - V, V, Q, None)
    assert len(kinds(drawn) | kinds(valid) | kinds(held_out)) == P + Q
    assert kinds(draws(pretrained)) == kinds(drawn)  # all of them, and nothing else, in so many draws
    assert kinds(drawn) | kinds(valid) == kinds(rows(setting.pool.train))
    assert setting.test_nets == Q < pretrained.test_nets


@pytest.mark.parametrize("valid_nets", [P, P + 1])
def test_a_pool_with_no_network_left_to_draw_is_refused(pretrained, valid_nets):
    with pytest.raises(InputError, match=rf"has 5 networks to distil with, of which --valid-nets {valid_nets} choose"):
        experiment.set_up(pretrained.replace(valid_nets=valid_nets))
    # One fixed network is validated by itself.
    assert experiment.set_up(pretrained.replace(valid_nets=valid_nets, init="fixed")).params is not None


def test_the_report_and_the_steps_use_the_parts_they_should(pretrained, tmp_path, monkeypatch):
    """What evaluation is given, and what a step of the outer loop draws."""
    seen, drawn = [], []
    evaluate, pool_init = distilling.evaluate, inits.pool_init

    def evaluated(*args, params_N=None, **others):
        seen.append(params_N)
        return evaluate(*args, params_N=params_N, **others)

    def drawing(stacked):
        drawn.append(stacked)
        return pool_init(stacked)

    monkeypatch.setattr(distilling, "evaluate", evaluated)
    monkeypatch.setattr(inits, "pool_init", drawing)
    setting = experiment.set_up(pretrained)
    assert setting.pool is not None
    summary = distilling.distill(pretrained, tmp_path / "run", progress=False, compare=False)
    assert summary["distilled"]["num_nets"] == Q
    accuracy = setting.pool.metadata["accuracy"]
    assert {name: part["accuracy_mean"] for name, part in summary["pool"].items()} == {
        "train": pytest.approx(np.mean(accuracy[Q:])),
        "test": pytest.approx(np.mean(accuracy[:Q])),
    }
    assert [rows(nets).tolist() for nets in seen] == [rows(setting.test_params).tolist()]
    assert len(drawn) > 1 and {len(leaf) for nets in drawn for leaf in jax.tree.leaves(nets)} == {P - V}


def outer_step(recipe):
    """The traced outer step of a recipe, and the number of weights in its pool."""
    setting = experiment.set_up(recipe)
    distiller = experiment.build_distiller(setting, Layout())
    start = distiller.init(experiment.first_iterate(setting))
    traced = jax.jit(distiller.step).trace(setting.key, start, setting.data)
    return traced, sum(leaf.size for leaf in jax.tree.leaves(setting.train_pool))


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
    setting = experiment.set_up(SMALL.replace(start="real", steps=2, per_class=2))
    start = experiment.first_iterate(setting)
    train = setting.train
    known = setting.dataset.transform(np.asarray(train.inputs)).reshape(len(train.labels), -1)
    found = []
    for image, label in zip(start.images.reshape(40, -1), start.labels.reshape(40, 10), strict=True):
        same = np.flatnonzero(np.all(known == np.asarray(image), axis=1))
        assert len(same) >= 1 and set(np.asarray(train.labels)[same]) == {int(label.argmax())}
        found.append(same[0])
    assert len(set(found)) == 40  # no image twice
    noise = experiment.first_iterate(experiment.set_up(SMALL.replace(steps=2, per_class=2)))
    np.testing.assert_array_equal(start.labels, noise.labels)
    np.testing.assert_array_equal(start.log_lrs, noise.log_lrs)
    assert np.abs(np.std(noise.images) - 1) < 0.02 and np.abs(np.mean(noise.images)) < 0.02
    other = experiment.first_iterate(experiment.set_up(setting.recipe.replace(seed=1)))
    assert not np.array_equal(start.images, other.images)
