"""The race in benchmarks/throughput.py is fair: PyTorch's side computes the same meta-gradient as ours, in float64."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.core import losses
from ddjax.core.distilled import DistilledData
from ddjax.core.meta import Layout, Problem, meta_gradient
from ddjax.models import build_model

torch = pytest.importorskip("torch", reason="PyTorch comes with the extra `bench`")
torch_reference = import_module("torch_reference")

pytestmark = pytest.mark.usefixtures("x64")

STEPS, EPOCHS, NETS, BATCH = 3, 2, 2, 6


@pytest.mark.parametrize(
    ("name", "shape", "rate"),
    [("lenet", (28, 28, 1), 0.1), ("alexcifar", (32, 32, 3), 0.02), ("convnet", (16, 16, 3), 0.02)],
)
def test_meta_gradients_are_equal(name, shape, rate):
    random = np.random.RandomState(0)
    classes = np.tile(np.arange(10), (STEPS, 1))
    images = random.normal(size=(STEPS, 10, *shape))
    log_lrs = np.log(random.uniform(0.5 * rate, rate, (EPOCHS, STEPS)))
    inputs, targets = random.normal(size=(BATCH, *shape)), random.randint(0, 10, BATCH)
    model = build_model(name, shape, 10)
    params_N = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(1), NETS))
    params_N = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params_N)
    loss = losses.of_network(model.apply)
    problem = Problem(model.apply, loss, loss, model.init)
    distilled = DistilledData(jnp.asarray(images), jnp.eye(10)[classes], jnp.asarray(log_lrs))
    batch = jnp.asarray(inputs), jnp.eye(10)[targets]
    ours, grads = jax.jit(lambda *a: meta_gradient(problem, *a, layout=Layout(together=1)))(params_N, distilled, batch)

    channels, size = shape[-1], shape[0]
    reference = torch_reference.Reference(torch_reference.NETWORKS[name](channels, size), dtype=torch.float64)
    weights = [reference.from_ddjax(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), params_N)) for i in range(NETS)]
    theirs, by_images, by_log_lrs = reference.meta_gradient(
        weights,
        torch.tensor(images.transpose(0, 1, 4, 2, 3)),
        torch.tensor(classes),
        torch.tensor(log_lrs),
        torch.tensor(inputs.transpose(0, 3, 1, 2)),
        torch.tensor(targets),
    )

    def relative_error(found, expected):
        assert np.linalg.norm(expected) > 1e-6
        return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)

    assert abs(float(ours) - float(theirs)) < 1e-9
    assert relative_error(grads.images, by_images.numpy().transpose(0, 1, 3, 4, 2)) < 1e-9
    assert relative_error(grads.log_lrs, by_log_lrs.numpy()) < 1e-9
