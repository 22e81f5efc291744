"""ddjax.experiment: what a run as a whole does to the compiler and to the arithmetic."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from ddjax import distilling, experiment
from ddjax.core.outer import Layout
from ddjax.data import load_dataset
from ddjax.errors import InputError
from ddjax.recipes import Recipe, get_recipe

SMALL = Recipe(
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
        recipe = dataclasses.replace(SMALL, model=model, precision=precision)
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
        dataclasses.replace(get_recipe("digits"), precision="float8").validate()
