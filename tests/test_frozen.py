"""Networks of which a part alone is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_arrays
from safetensors.numpy import save_file

import ddjax
from ddjax import InputError, freeze, load_weights, trained_part
from ddjax.core.distilled import DistilledData
from ddjax.core.inner import unroll
from ddjax.core.losses import of_network
from ddjax.models import build_model
from ddjax.storage.tensorfile import named

SHAPE = (12, 12, 1)


def backbone():
    model = build_model("lenet", SHAPE, 3)
    return model, model.init(jax.random.key(0))


def test_the_whole_is_the_network_that_it_was():
    model, params = backbone()
    frozen = freeze(model, params, ["dense3", "dense2/bias"])
    part = trained_part(frozen, params)
    assert jax.tree.map(jnp.shape, part) == {"dense3": {"kernel": (84, 3), "bias": (3,)}, "dense2": {"bias": (84,)}}
    (inputs,) = random_arrays((4, *SHAPE), dtype=np.float32)
    np.testing.assert_allclose(frozen.apply(part, inputs), model.apply(params, inputs), rtol=1e-6)
    fresh, drawn = frozen.init(jax.random.key(7)), model.init(jax.random.key(7))
    np.testing.assert_array_equal(fresh["dense3"]["kernel"], drawn["dense3"]["kernel"])
    changed = jax.tree.map(lambda leaf: leaf + 1, part)
    assert np.abs(frozen.apply(changed, inputs) - frozen.apply(part, inputs)).max() > 0.1


@pytest.mark.parametrize(
    ("name", "shape", "last"), [("lenet", SHAPE, "dense3"), ("convnet", (8, 8, 3), "dense"), ("mlp", (6,), None)]
)
def test_by_default_the_last_layer_is_trained(name, shape, last):
    model = build_model(name, shape, 3)
    params = model.init(jax.random.key(0))
    part = jax.eval_shape(freeze(model, params, input_shape=shape).init, jax.random.key(0))
    assert [leaf.shape[-1] for leaf in jax.tree.leaves(part)] == [3, 3]
    assert last is None or [*part] == [last]


def test_the_unroll_moves_the_trained_part_alone(x64):
    """As gradient descent on all weights does, its steps put to nothing elsewhere; images get their gradient through all."""
    model = build_model("mlp", (6,), 3)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init(jax.random.key(0)))
    frozen = freeze(model, params, input_shape=(6,))
    images, labels = random_arrays((2, 3, 6), (2, 3, 3))
    distilled = DistilledData(images, jax.nn.softmax(labels), jnp.log(jnp.full((2, 2), 0.1)))

    def end(distilled):
        part = trained_part(frozen, params)
        trained = unroll(of_network(frozen.apply), part, distilled, targets=lambda labels: labels)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(trained))

    def by_hand(distilled):
        part, weights = trained_part(frozen, params), params
        for e in range(2):
            for s in range(2):
                grads = jax.grad(of_network(model.apply))(weights, distilled.images[s], distilled.labels[s])
                mask = {layer: jax.tree.map(lambda _, layer=layer: layer in part, weights[layer]) for layer in weights}
                lr = jnp.exp(distilled.log_lrs[e, s])
                weights = jax.tree.map(lambda w, g, m, lr=lr: w - lr * g * m, weights, grads, mask)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(trained_part(frozen, weights)))

    found, expected = (jax.value_and_grad(f)(distilled) for f in (end, by_hand))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_memory_of_the_frozen_part_does_not_grow_with_the_steps():
    model = build_model("mlp", (2000,), 3)  # 2000 x 128 weights and more, of which 128 x 3 are trained
    params = model.init(jax.random.key(0))
    frozen = freeze(model, params, input_shape=(2000,))

    def bytes_of(network, weights, steps):
        distilled = DistilledData(jnp.zeros((steps, 3, 2000)), jnp.zeros((steps, 3, 3)), jnp.zeros((1, steps)))

        def end(weights, distilled):
            trained = unroll(of_network(network.apply), weights, distilled)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(trained))

        compiled = jax.jit(jax.grad(end, argnums=1)).lower(weights, distilled).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def added(network, weights):
        return (bytes_of(network, weights, 12) - bytes_of(network, weights, 2)) / 10

    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert added(model, params) > 0.9 * whole > 0.9e6
    assert added(frozen, trained_part(frozen, params)) < 0.1 * whole


def test_a_head_is_distilled_and_evaluated_again(tmp_path):
    """scikit-learn's digits through a frozen network: the artefact has the head alone."""
    model = build_model("mlp", (28, 28, 1), 10)
    frozen = freeze(model, model.init(jax.random.key(1)), input_shape=(28, 28, 1))
    recipe = ddjax.get_recipe("digits").replace(outer_steps=100, eval_every=50, batch_size=128, gate_width=0.0)
    done = ddjax.distill(recipe, tmp_path / "run", model=frozen, compare=False, progress=False)
    assert jax.tree.structure(done.artifact.params) == jax.tree.structure(frozen.init(jax.random.key(0)))
    assert done.summary.distilled["accuracy_mean"] > 60 > 30 > done.summary.distilled["accuracy_before_mean"]
    again, _ = ddjax.evaluate_artifact(tmp_path / "run", model=frozen)
    assert again.accuracy[0, -1] == pytest.approx(done.summary.distilled["accuracy_mean"], abs=0.26)


# Weights by name


@pytest.mark.parametrize(("prefix", "separator"), [("params/", "/"), ("", "."), ("params.", ".")])
def test_weights_are_loaded_by_their_names(tmp_path, prefix, separator):
    model, params = backbone()
    tensors = {prefix + name.replace("/", separator): np.asarray(leaf) for name, leaf in flat(params).items()}
    save_file({**tensors, "other": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "weights.safetensors", model), params)


def flat(params):
    return {name.removeprefix("params/"): leaf for name, leaf in named("params", params).items()}


def test_what_does_not_fit_is_one_line(tmp_path):
    model, params = backbone()
    other = build_model("lenet", SHAPE, 4)
    tensors = {name: np.asarray(leaf) for name, leaf in flat(params).items()}
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    with pytest.raises(
        InputError, match=r"dense3/bias is \[3\], but the network's is \[4\]: give weights of this network"
    ):
        load_weights(path, other)
    save_file({name: leaf for name, leaf in tensors.items() if name != "conv1/bias"}, path)
    with pytest.raises(InputError, match=r"lacks the weights conv1/bias: it has "):
        load_weights(path, model)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot be read as safetensors"):
        load_weights(path, model)
    with pytest.raises(InputError, match=r"none of the network's weights would be trained: choose some of conv1/bias"):
        freeze(model, params, ["dense9"])
    with pytest.raises(InputError, match=r"all of the network's weights would be trained"):
        freeze(model, params, lambda name: True)
    with pytest.raises(InputError, match=r"to find it takes input_shape="):
        freeze(model, params)
    with pytest.raises(InputError, match=r"dense3/bias is \[3\], but the network's is \[4\]"):
        freeze(other, params, ["dense3"])
