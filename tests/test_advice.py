"""What is known to fail is said, and no recipe of ours does it."""

import pytest
from test_cli import in_process

from ddjax import InputError, distill
from ddjax.recipes import RECIPES, get_recipe, known_trouble


@pytest.mark.parametrize("name", RECIPES)
def test_no_named_recipe_is_in_trouble(name):
    assert known_trouble(get_recipe(name)) == []


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("mnist-random", {"gate_width": 0.2}, "--gate-width 0"),
        ("mnist-fixed", {"gate_width": 0.03}, "--gate-width 0.2"),
        ("cifar10-fixed", {"lr_log_lrs": 0.02}, "--lr-log-lrs at a fifth"),
        ("cifar10-fixed", {"lr": 0.05}, "--lr 0.02"),
        ("cifar10-fixed", {"basis": "components"}, "--basis values"),
    ],
)
def test_what_failed_is_said(name, changes, says):
    (line,) = known_trouble(get_recipe(name).replace(**changes))
    assert says in line


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mnist-fixed-1step", {"gate_width": 0.03}),  # one step
        ("mnist-usps-random", {"gate_width": 0.2}),  # trained networks
        ("mnist-fixed", {"lr": 0.05}),  # another network
        ("cifar10-random", {"lr": 0.05}),
        ("cifar10-random", {"basis": "components"}),
        ("mnist-random", {"basis": "components", "start": "noise"}),
    ],
)
def test_what_did_not_fail_is_not(name, changes):
    assert known_trouble(get_recipe(name).replace(**changes)) == []


def test_it_is_said_before_a_run_and_by_a_dry_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["distill", "digits", "--model", "mlp", "--init", "random", "--outer-steps", "2", "--eval-every", "2"]
    more = ["--valid-nets", "2", "--test-nets", "2", "--gate-width", "0.2", "--no-compare"]
    for extra in (["--dry-run"], []):
        assert "note: surrogate gates did worse" in in_process(*words, *more, *extra).out
    assert "note:" not in in_process(*words, *more, "--model", "linear", "--dry-run").out  # which has no gates


def test_a_setting_of_no_sense_is_said_before_all_advice(tmp_path):
    with pytest.raises(InputError, match="--gate-width is 'wide': give a value of type float"):
        distill(get_recipe("mnist-random").replace(gate_width="wide"), tmp_path / "run", progress=False)
