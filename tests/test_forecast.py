"""What `--dry-run` says: operations as counted by hand, sizes as they are, and nothing written."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import in_process

from ddjax.experiment import forecast as forecasting
from ddjax.experiment.forecast import forecast, operations
from ddjax.experiment.setup import set_up
from ddjax.models.ops.product import product
from ddjax.recipes import get_recipe
from ddjax.show.tables import forecast_lines

A, B = jnp.zeros((3, 5)), jnp.zeros((5, 7))


def twice(a, b):
    return jax.lax.scan(lambda carry, _: (carry + a @ b, None), jnp.zeros((3, 7)), length=4)[0]


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (jnp.matmul, (A, B), 2 * 3 * 5 * 7),
        (product, (A, B), 2 * 3 * 5 * 7),
        (lambda a, b: product(a, b, 0, 1), (A, jnp.zeros((7, 3))), 2 * 3 * 5 * 7),
        (product, (jnp.zeros((2, 3, 5)), jnp.zeros((2, 5, 7))), 2 * 2 * 3 * 5 * 7),
        (jax.vmap(jnp.matmul), (jnp.zeros((2, 3, 5)), jnp.zeros((2, 5, 7))), 2 * 2 * 3 * 5 * 7),
        (twice, (A, B), 4 * 2 * 3 * 5 * 7),
        (jax.jit(twice), (A, B), 4 * 2 * 3 * 5 * 7),
        (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: 2 * (a @ b) @ b.T @ b), (A, B), 3 * 210),
        (lambda a, b: jnp.sin(a).sum() + b.max(), (A, B), 0),
    ],
)
def test_products_are_counted(function, arguments, expected):
    assert operations(jax.make_jaxpr(function)(*arguments).jaxpr) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_counted(groups):
    inputs, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4 // groups, 6))

    def convolved(inputs, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            inputs, kernel, (1, 1), "VALID", dimension_numbers=names, feature_group_count=groups
        )

    assert operations(jax.make_jaxpr(convolved)(inputs, kernel).jaxpr) == 2 * (2 * 6 * 6 * 6) * (9 * 4 // groups)


LINEAR = get_recipe("digits").replace(
    **{"model": "linear", "gate_width": 0.0, "batch_size": 64, "outer_steps": 50, "steps": 3, "epochs": 2}
)


@pytest.fixture
def stopped_clock(monkeypatch):
    """A gradient on ten images takes 2 ms, and one on more takes 5."""
    measured = forecasting._gradient

    def known(experiment, nets, examples):
        return measured(experiment, nets, examples)[0], 0.002 if examples == 10 else 0.005

    monkeypatch.setattr(forecasting, "_gradient", known)


def test_a_linear_network_is_told_as_it_is(stopped_clock):
    told = forecast(set_up(LINEAR))
    assert (told.images, told.inner_steps, told.outer_steps, told.num_nets) == (30, 6, 50, 1)
    weights = 28 * 28 * 10 + 10
    assert (told.weights, told.copies) == (weights, 6)
    one = 2 * 784 * 10  # an example through the network, or back to its weights or itself
    # A step as traced: forward, back to weights and images; pulled back: the same again, and four along the tangent.
    assert told.operations == (64 * 2 + 6 * 10 * (3 + 7)) * one
    parts = told.operations - 64 * 2 * one
    assert told.seconds * told.devices == pytest.approx(0.005 + 0.002 * parts / (10 * 2 * one))


def test_a_window_is_told_with_the_mean_of_the_steps_before_it(stopped_clock):
    told, one = forecast(set_up(LINEAR.replace(window=2))), 2 * 784 * 10
    # Of six steps none to four go before, two on average, each forward and back to the weights.
    assert told.copies == 2 and told.operations == (64 * 2 + 2 * 10 * (3 + 7) + 2 * 10 * 2) * one
    first = forecast(set_up(LINEAR.replace(window=2, window_early=50.0)))  # which is nearly always at the beginning
    assert first.operations == pytest.approx(told.operations - 2 * 10 * 2 * one, rel=1e-5)
    assert forecast(set_up(LINEAR.replace(window=2, remat=True))).copies == 3 + 1


def test_narrower_networks_are_told_by_their_share_of_the_steps(stopped_clock):
    wide = LINEAR.replace(model="convnet", width=4, depth=2, init="random", outer_steps=10)
    told, early, own = (
        forecast(set_up(wide.replace(**changes))) for changes in ({"narrow": 2, "narrow_steps": 7}, {"width": 2}, {})
    )
    for name in ("operations", "seconds"):
        few, many = getattr(early, name), getattr(own, name)
        assert few != many and getattr(told, name) == pytest.approx(0.7 * few + 0.3 * many)
    assert told._replace(operations=own.operations, seconds=own.seconds) == own


def test_steps_that_see_some_of_their_images_are_told_by_those(stopped_clock):
    whole, part = (
        forecast(set_up(LINEAR.replace(**changes))) for changes in ({}, {"per_class": 4, "subset_images": 1})
    )
    assert part.images == 4 * whole.images and part.operations == whole.operations


@pytest.mark.parametrize(
    ("changes", "operations", "copies"),
    [({"num_nets": 3}, 3, 6), ({"remat": True}, None, 5), ({"steps": 6, "epochs": 1}, 1, 6), ({}, 1, 6)],
)
def test_what_settings_change(stopped_clock, changes, operations, copies):
    before, after = forecast(set_up(LINEAR)), forecast(set_up(LINEAR.replace(**changes)))
    assert after.copies == copies
    if operations:
        assert after.operations == pytest.approx(operations * before.operations)
    more = 4 * (copies - 6 + after.num_nets - 1) * before.weights + 6 * 4 * (784 + 10) * (after.images - before.images)
    assert after.memory - before.memory == more


def test_the_data_and_the_copies_are_in_the_memory(stopped_clock):
    many, few = (forecast(set_up(LINEAR.replace(epochs=epochs))) for epochs in (20, 2))
    assert many.memory - few.memory == pytest.approx(4 * (60 - 6) * few.weights, rel=0.01)
    assert few.memory > set_up(LINEAR).train.inputs.nbytes


def test_lines_say_what_a_person_asks():
    told = forecasting.Forecast(100, 30, 4000, 2, 61706, 30, 6.77e9, 8.78e7, 0.125, 2)
    lines = forecast_lines(told).splitlines()
    assert lines == [
        "  distilled      100 images in 30 inner steps",
        "  weights        61,706 in one network; its unroll keeps 30 copies of them",
        "  an outer step  2 networks, 6.77 GFLOP, about 125 ms on 2 devices",
        "  memory         about 87.8 MB a device",
        "  in all         4000 outer steps, about 8.33 minutes; validations and tests come on top",
    ]
    lines = forecast_lines(told._replace(copies=1, seconds=2.5, devices=1, memory=2e9, outer_steps=9000)).splitlines()
    assert "1 copy of them" in lines[1] and "2.5 s on 1 device" in lines[2] and lines[3].endswith("2 GB")
    assert "6.25 hours" in lines[4]


def test_the_command_tells_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["distill", "digits", "--model", "linear", "--gate-width", "0", "--steps", "2", "--outer-steps", "7"]
    printed = in_process(*words, "--dry-run").out
    assert printed.startswith("digits, on this machine:\n") and "7 outer steps" in printed and "20 images" in printed
    assert list(tmp_path.iterdir()) == []


def test_what_is_told_is_of_the_recipe():
    """Every field but those that time alone decides."""
    told = forecast(set_up(LINEAR))
    again = forecast(set_up(dataclasses.replace(LINEAR)))
    assert told._replace(seconds=0.0) == again._replace(seconds=0.0)
    assert np.isfinite(told.seconds) and told.seconds > 0
