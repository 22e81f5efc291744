"""A user's own networks: Flax modules, pure functions and files, and what is said where they are none."""

import ast
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ddjax
from ddjax.core import losses
from ddjax.errors import InputError
from ddjax.models import Model, build_model, check_model, from_linen, from_nnx, load_model


class OwnLinen(nn.Module):
    norm: Any = None
    drop: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
        if self.norm is not None:
            x = self.norm(x)
        if self.drop:
            x = nn.Dropout(0.5, deterministic=False)(x)
        return nn.Dense(3)(x)


class OwnNNX(nnx.Module):
    def __init__(self, rngs, *, batch_norm=False, dropout=False):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(8, rngs=rngs) if batch_norm else None
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if dropout else None

    def __call__(self, x):
        x = nnx.relu(self.first(x.reshape(len(x), -1)))
        x = self.batch_norm(x) if self.batch_norm else x
        x = self.dropout(x) if self.dropout else x
        return self.second(x)


def test_linen_module_gives_its_own_logits():
    module, inputs = OwnLinen(norm=nn.LayerNorm()), jax.random.normal(jax.random.key(0), (5, 2, 3))
    model, key = from_linen(module, (2, 3)), jax.random.key(1)
    params = jax.jit(model.init)(key)
    expected = jax.jit(lambda key, inputs: module.apply(module.init(key, inputs), inputs))(key, inputs)
    np.testing.assert_allclose(jax.jit(model.apply)(params, inputs), expected, rtol=1e-5, atol=1e-6)
    assert set(params) == {"Dense_0", "Dense_1", "norm"}


def test_nnx_module_gives_its_own_logits():
    inputs, key = jax.random.normal(jax.random.key(0), (5, 2, 3)), jax.random.key(1)
    model = from_nnx(OwnNNX)
    params = model.init(key)
    np.testing.assert_allclose(model.apply(params, inputs), OwnNNX(nnx.Rngs(key))(inputs), rtol=1e-5, atol=1e-6)
    assert np.any(params["first"]["kernel"] != model.init(jax.random.key(2))["first"]["kernel"])
    loss = losses.of_network(model.apply)
    grads = jax.jit(jax.grad(loss))(params, inputs, jnp.eye(3)[jnp.arange(5) % 3])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: from_linen(OwnLinen(norm=nn.BatchNorm(use_running_average=False)), (6,)), "batch_stats"),
        (lambda: from_linen(OwnLinen(norm=nn.BatchNorm(use_running_average=True)), (6,)), "batch_stats"),
        (lambda: from_linen(OwnLinen(drop=True), (6,)), "random numbers"),
        (lambda: from_nnx(lambda rngs: OwnNNX(rngs, batch_norm=True)), "BatchStat"),
        (lambda: from_nnx(lambda rngs: OwnNNX(rngs, dropout=True)), "Rng"),
    ],
    ids=["linen-batchnorm", "linen-batchnorm-frozen", "linen-dropout", "nnx-batchnorm", "nnx-dropout"],
)
def test_running_state_and_dropout_are_refused(make, what):
    with pytest.raises(InputError, match=what) as excinfo:
        make()
    message = str(excinfo.value)
    assert "GroupNorm" in message and "\n" not in message


@pytest.mark.parametrize(
    "make", [lambda: from_linen(OwnLinen(), (2, 3)), lambda: from_nnx(OwnNNX)], ids=["linen", "nnx"]
)
def test_own_network_distils(tmp_path, make):
    rng = np.random.RandomState(0)
    labels = np.arange(60) % 3
    inputs = (rng.normal(size=(60, 2, 3)) + labels[:, None, None]).astype(np.float32)
    dataset = ddjax.Dataset(
        name="own",
        x_train=inputs[:45],
        y_train=labels[:45].astype(np.int32),
        x_test=inputs[45:],
        y_test=labels[45:].astype(np.int32),
        transform=ddjax.Standardise.by([1], [1]),
        class_names=("a", "b", "c"),
        source="test",
    )
    recipe = ddjax.Recipe().replace(data="own", outer_steps=2, eval_every=1, batch_size=16, lr=0.1)
    model = make()
    summary = ddjax.distill(recipe, tmp_path / "run", dataset=dataset, model=model, progress=False).summary
    distilled, metadata, params = ddjax.load_artifact(tmp_path / "run")
    assert distilled.images.shape == (1, 3, 2, 3) and metadata["model"]["name"] == "custom"
    expected = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, expected)
    # The summary's accuracy is that of this network after one step on what was saved.
    trained = ddjax.unroll(losses.of_network(model.apply), params, jax.tree.map(jnp.asarray, distilled))
    hits = np.asarray(jnp.argmax(model.apply(trained, jnp.asarray(inputs[45:] - 1)), axis=1)) == labels[45:]
    assert summary.distilled["accuracy_mean"] == pytest.approx(100 * hits.mean(), abs=1e-3)


# What is no network, in one line


def dense(features=3, change=lambda x: x):
    """A `Model` on examples of 4 numbers, its logits changed by a function."""
    module = nn.Dense(features)
    return Model(
        lambda key: module.init(key, jnp.zeros((1, 4)))["params"],
        lambda params, x: change(module.apply({"params": params}, x)),
    )


def stateful(module, whole):
    """A module with state or dropout that was made a `Model` by hand."""
    example = jnp.zeros((1, 4))
    if whole:
        return Model(lambda key: module.init(key, example), module.apply)
    return Model(lambda key: module.init(key, example)["params"], lambda p, x: module.apply({"params": p}, x))


WRONG = {
    "one class too many": (dense(4), "returns float32 [4, 4] for 4 examples: let it return float32 logits [4, 3]"),
    "transposed": (dense(change=jnp.transpose), "returns float32 [3, 4] for 4 examples"),
    "a score for the batch": (dense(change=lambda x: x.sum(0)), "returns float32 [3] for 4 examples"),
    "a scalar": (dense(change=jnp.sum), "returns float32 [] for 4 examples"),
    "pictures": (dense(change=lambda x: x[:, :, None]), "returns float32 [4, 3, 1] for 4 examples"),
    "one example at a time": (dense(change=lambda x: x[:1]), "returns float32 [1, 3] for 4 examples"),
    "half precision": (dense(change=lambda x: x.astype(jnp.bfloat16)), "returns bfloat16 [4, 3] for 4 examples"),
    "two outputs": (dense(change=lambda x: (x, x)), "returns a tuple for 4 examples"),
    "no weights": (Model(lambda key: {}, lambda p, x: x[:, :3]), "has no weights, but gradient descent needs float"),
    "whole numbers": (
        Model(lambda key: {"w": jnp.ones((4, 3)), "steps": jnp.zeros((), jnp.int32)}, lambda p, x: x @ p["w"]),
        "has weights of type int32, but gradient descent needs float arrays",
    ),
    "other inputs": (
        Model(lambda key: jnp.ones((5, 3)), lambda p, x: x @ p),
        "cannot read examples of shape [4]: TypeError: dot_general requires contracting dimensions",
    ),
    "a mistake": (Model(lambda key: {}["w"], lambda p, x: x), "cannot read examples of shape [4]: KeyError: 'w'"),
    "dropout": (stateful(OwnLinen(drop=True), False), "random numbers or updates state when applied, but the inner"),
    "batchnorm": (
        stateful(OwnLinen(norm=nn.BatchNorm(use_running_average=False)), False),
        "random numbers or updates state when applied, but the inner",
    ),
    "batchnorm whole": (
        stateful(OwnLinen(norm=nn.BatchNorm(use_running_average=False)), True),
        "random numbers or updates state when applied, but the inner",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_network_is_told_so_in_one_line(what):
    model, message = WRONG[what]
    with pytest.raises(InputError) as excinfo:
        check_model(model, (4,), 3, name="mine")
    assert message in str(excinfo.value) and str(excinfo.value).startswith("mine ") and "\n" not in str(excinfo.value)


def test_networks_pass_with_and_without_a_number_of_classes():
    for model in (dense(), build_model("linear", (4,), 3)):
        check_model(model, (4,), 3)
        check_model(model, (4,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_linen(OwnLinen(), (6,), 4), r"OwnLinen returns float32 \[5, 3\] for 5 examples"),
        (lambda: from_linen(nn.Conv(3, (3, 3)), (6,)), r"Conv returns float32 \[2, 6, 3\]|Conv cannot read examples"),
        (lambda: from_linen(nn.Dense(3, dtype=jnp.float16), (6,)), r"Dense returns float16 \[2, 3\] for 2 examples"),
        (
            lambda: from_linen(nn.Embed(5, 3), (6,)),
            r"Embed cannot read examples of shape \[6\]: ValueError: Input type",
        ),
        (lambda: from_nnx(OwnNNX, (2, 3), 4), r"the NNX module returns float32 \[5, 3\] for 5 examples"),
        (lambda: from_nnx(OwnNNX, (7,)), r"the NNX module cannot read examples of shape \[7\]: TypeError: dot_general"),
    ],
)
def test_adapters_tell_wrong_shapes_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as excinfo:
        make()
    assert "\n" not in str(excinfo.value) and len(str(excinfo.value)) < 400


# Networks from files

FILE = """
from __future__ import annotations

import ddjax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from beside import HIDDEN


class Net(nn.Module):
    num_classes: int
    hidden: int = HIDDEN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(x)


class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


class Nnx(nnx.Module):
    def __init__(self, input_shape, num_classes, *, rngs):
        self.dense = nnx.Linear(input_shape[0] * input_shape[1], num_classes, rngs=rngs)

    def __call__(self, x):
        return self.dense(x.reshape(len(x), -1))


module = Net(3)
model = ddjax.from_linen(module, (2, 3))


def function(input_shape, num_classes):
    return Net(num_classes, hidden=input_shape[-1])


def nothing(input_shape, num_classes):
    pass


def broken(input_shape, num_classes):
    return 1 / 0


class Needy(nn.Module):
    depth: int


class Plain:
    pass


number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("HIDDEN = 7\n")
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "hidden"), [("Net", 7), ("Fixed", None), ("Nnx", None), ("module", 7), ("model", 7), ("function", 3)]
)
def test_a_network_from_a_file(file, name, hidden):
    model = build_model(f"{file}:{name}", (2, 3), 3, gate_width=0.5)
    assert not model.gated
    params = model.init(jax.random.key(0))
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    assert kernels == ([(6, 3)] if hidden is None else [(6, hidden), (hidden, 3)])
    inputs = jax.random.normal(jax.random.key(1), (5, 2, 3))
    expected = inputs.reshape(5, -1)
    for i, layer in enumerate(params.values()):
        expected = (jnp.tanh(expected) if i else expected) @ layer["kernel"] + layer["bias"].reshape(1, -1)
    np.testing.assert_allclose(model.apply(params, inputs), expected, rtol=1e-5, atol=1e-6)
    assert str(file.parent) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Missing", "net.py has no 'Missing': name a network in it as"),
        ("number", "net.py:number is of type int, not a network: name a Linen module or its class, an NNX class"),
        ("Plain", "net.py:Plain is of type type, not a network"),
        ("nothing", "net.py:nothing is of type function, not a network"),
        ("broken", "net.py, line 49: ZeroDivisionError: division by zero"),
        ("Needy", "net.py: TypeError: "),
        ("Fixed", "net.py:Fixed returns float32 [5, 3] for 5 examples: let it return float32 logits [5, 4]"),
        ("model", "net.py:model returns float32 [5, 3] for 5 examples"),
    ],
)
def test_what_is_no_network_in_a_file_is_told_so_in_one_line(file, name, message):
    with pytest.raises(InputError) as excinfo:
        load_model(f"{file}:{name}", (2, 3), 4)
    assert message in str(excinfo.value) and "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import jax\n\nimport no_such_package\n", "net.py, line 3: ModuleNotFoundError: No module named 'no_such"),
        ("def f(:\n", "net.py, line 1: SyntaxError: "),
        ("x = 1\nraise SystemExit('done')\n", "net.py, line 2: SystemExit: done"),
        ("def f():\n    assert False, 'two\\nlines'\n\n\nf()\n", "net.py, line 2: AssertionError: two lines"),
    ],
)
def test_a_file_that_fails_names_the_exception_and_the_line(tmp_path, text, message):
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(InputError) as excinfo:
        load_model(f"{tmp_path}/net.py:Net", (2, 3), 3)
    assert message in str(excinfo.value) and "\n" not in str(excinfo.value)


@pytest.mark.parametrize("spec", ["absent.py:Net", "~/absent.py:Net", "net.py", "folder.py:Net"])
def test_no_such_file(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match="name a network as path/to/file.py:Name"):
        load_model(spec, (2, 3), 3)


def test_a_network_from_a_file_distils_and_is_evaluated(file, tmp_path):
    recipe = ddjax.get_recipe("digits").replace(model=f"{file}:Net", outer_steps=2, eval_every=1, batch_size=16)
    summary = ddjax.distill(recipe, tmp_path / "run", progress=False, compare=False).summary
    evaluation, _ = ddjax.evaluate_artifact(tmp_path / "run")
    assert evaluation.summary()["accuracy_mean"] == pytest.approx(summary.distilled["accuracy_mean"], abs=1e-3)
    assert evaluation.summary()["accuracy_mean"] != evaluation.summary()["accuracy_before_mean"]


def test_nothing_heavy_is_imported_before_it_is_used():
    """flax.nnx takes almost a second, PyTorch longer; who distils with Linen's networks needs neither."""
    code = (
        "import sys, ddjax.models\n"
        "ddjax.models.build_model('lenet', (28, 28, 1), 10)\n"
        "print([name for name in ('flax.nnx', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []
