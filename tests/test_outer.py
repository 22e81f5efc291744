"""ddjax.core.outer: one step against one written by hand, its keys, failures, compilations and devices."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddjax.core import losses
from ddjax.core.distilled import DistilledData, fixed_labels, learned_labels
from ddjax.core.outer import DistillState, Problem, make_distiller

ROOT = Path(__file__).parents[1]
S, E, M, D, K, BATCH, NETS = 2, 2, 3, 4, 3, 8, 2
DECAY = 0.9


def apply(params, inputs):
    return jnp.tanh(inputs @ params["a"]) @ params["b"]


def init(key):
    a, b = jax.random.split(key)
    return {"a": jax.random.normal(a, (D, 5)), "b": jax.random.normal(b, (5, K))}


def draw(key, dataset):
    inputs, targets = dataset
    rows = jax.random.randint(key, (BATCH,), 0, len(inputs))
    return inputs[rows], targets[rows]


def make_problem(**options):
    loss = losses.of_network(apply)
    return Problem(**{"apply": apply, "inner_loss": loss, "outer_loss": loss, "init": init, **options})


def make_start(dtype=jnp.float64):
    rng = np.random.RandomState(0)
    distilled = rng.normal(size=(S, M, D)), rng.dirichlet(np.ones(K), (S, M)), rng.uniform(-2, -1, (E, S))
    return DistilledData(*(jnp.asarray(part, dtype) for part in distilled))


def make_dataset(dtype=jnp.float64):
    rng = np.random.RandomState(1)
    return jnp.asarray(rng.normal(size=(40, D)), dtype), jnp.asarray(np.eye(K)[rng.randint(0, K, 40)], dtype)


def optimizer():
    return optax.chain(optax.clip_by_global_norm(0.05), optax.adam(0.1, b1=0.5))


def distiller(problem=None, **options):
    return make_distiller(
        make_problem() if problem is None else problem,
        **{"optimizer": optimizer(), "draw_batch": draw, "num_nets": NETS, "ema_decay": DECAY, **options},
    )


def loss_by_hand(distilled, key, dataset, targets):
    """The mean over networks drawn from `key` of the loss after S * E steps of gradient descent, in loops."""
    batch_key, nets_key = jax.random.split(key)
    inputs, labels = draw(batch_key, dataset)

    def cross_entropy(params, inputs, labels):
        logits = apply(params, inputs)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) * jnp.sum(labels, axis=1) - jnp.sum(labels * logits, axis=1))

    total = 0.0
    for net_key in jax.random.split(nets_key, NETS):
        params = init(net_key)
        for e in range(E):
            for s in range(S):
                grads = jax.grad(cross_entropy)(params, distilled.images[s], targets(distilled.labels[s]))
                params = jax.tree.map(lambda p, g, e=e, s=s: p - jnp.exp(distilled.log_lrs[e, s]) * g, params, grads)
        total += cross_entropy(params, inputs, labels)
    return total / NETS


@pytest.mark.parametrize("targets", [fixed_labels, learned_labels], ids=["fixed", "learned"])
def test_steps_equal_steps_by_hand(x64, targets):
    """Three of them, so that the state of Adam, the average and the keys of later steps count, and clipping has work to do."""
    dataset, key = make_dataset(), jax.random.key(7)
    outer = distiller(make_problem(targets=targets))
    state = outer.init(make_start())
    step = jax.jit(outer.step)
    by_hand = jax.jit(jax.value_and_grad(lambda d, k: loss_by_hand(d, k, dataset, targets)))
    distilled = average = make_start()
    transformation = optimizer()
    opt_state = transformation.init(distilled)
    norms = []
    for t in range(3):
        loss, grads = by_hand(distilled, jax.random.fold_in(key, t))
        updates, opt_state = transformation.update(grads, opt_state)
        distilled = jax.tree.map(jnp.add, distilled, updates)
        average = jax.tree.map(lambda a, d: DECAY * a + (1 - DECAY) * d, average, distilled)
        norms.append(np.linalg.norm([np.linalg.norm(part) for part in grads]))
        state, info = step(key, state, dataset)
        np.testing.assert_allclose(info.loss, loss, rtol=1e-12)
        for norm, part in zip(info.grad_norms, grads, strict=True):
            np.testing.assert_allclose(norm, np.sqrt(np.sum(np.square(part))), rtol=1e-9)
        assert info.finite and int(state.step) == t + 1
        for ours, expected in ((state.distilled, distilled), (state.average, average), (state.opt_state, opt_state)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), ours, expected)
    assert max(norms) > 0.05  # clipping had something to do
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.distilled, make_start())
    assert tuple(moved) == (True, targets is learned_labels, True)


def test_a_step_depends_on_its_key_and_number_alone(x64):
    """So that a resumed run repeats what an uninterrupted one does."""
    outer, dataset = distiller(), make_dataset()
    step, start = jax.jit(outer.step), outer.init(make_start())

    def loss(seed, number):
        return float(step(jax.random.key(seed), start._replace(step=jnp.int32(number)), dataset)[1].loss)

    first = step(jax.random.key(0), start, dataset)
    again = step(jax.random.key(0), start, dataset)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert len({loss(0, 0), loss(0, 1), loss(0, 2), loss(1, 0)}) == 4


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_leaves_the_state_untouched(bad):
    """Bit for bit, whether the loss is NaN (a damaged example) or only its gradient is (a square root at zero)."""

    def outer_loss(params, inputs, targets):
        loss = losses.of_network(apply)(params, inputs, targets)
        return loss + jnp.sqrt(jnp.where(jnp.max(inputs) > 100, 0.0, 1.0) * loss) if bad == "gradient" else loss

    outer = distiller(make_problem(outer_loss=outer_loss))
    step, dataset = jax.jit(outer.step), make_dataset(jnp.float32)
    damaged = dataset[0].at[:].set(jnp.nan if bad == "loss" else 1e3), dataset[1]
    state, info = step(jax.random.key(0), outer.init(make_start(jnp.float32)), dataset)
    assert info.finite and int(state.step) == 1
    before = jax.device_get(state)
    after, info = step(jax.random.key(0), state, damaged)
    assert not info.finite
    assert np.isfinite(info.loss) == (bad == "gradient")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)


def test_many_steps_compile_once_and_donate_their_state():
    traces = []

    def outer_loss(params, inputs, targets):
        traces.append(1)
        return losses.of_network(apply)(params, inputs, targets)

    outer, dataset = distiller(make_problem(outer_loss=outer_loss)), make_dataset(jnp.float32)
    start = make_start(jnp.float32)
    step, state, key = jax.jit(outer.step, donate_argnums=1), outer.init(start), jax.random.key(0)
    compiled = []

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        compiled.append(event)

    state, _ = step(key, state, dataset)
    traced = len(traces)
    assert traced > 0
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(5):
            previous = state
            state, _ = step(key, state, dataset)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(traces) == traced and compiled == []
    assert int(state.step) == 6
    assert not any(leaf.is_deleted() for leaf in start)  # the caller's own arrays are left alone


# Several devices: one process with eight of them, which prints what the tests below read.

DEVICES = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
import numpy as np
from jax.sharding import Mesh
from ddjax.core.outer import replicated
from ddjax.devices import make_mesh
import test_outer as t

report = {"choices": {}, "results": {}}
for case in json.loads(sys.argv[1]):
    mesh = make_mesh(*case)
    report["choices"][str(case)] = mesh and [list(mesh.axis_names), list(mesh.devices.shape)]
for nets in (4, 1):
    for count in (0, 1, 2, 4, 8):
        share = min(nets, count)
        mesh = count and Mesh(np.array(jax.devices()[:count]).reshape(share, count // share), ("nets", "batch"))
        mesh = mesh or None
        seen = []
        def outer_loss(params, inputs, targets):
            jax.debug.inspect_array_sharding(inputs, callback=seen.append)
            return t.losses.of_network(t.apply)(params, inputs, targets)
        outer = t.distiller(t.make_problem(outer_loss=outer_loss), num_nets=nets, mesh=mesh)
        step, state = jax.jit(outer.step, donate_argnums=1), outer.init(t.make_start())
        key, dataset = jax.device_put((jax.random.key(3), t.make_dataset()), replicated(mesh))
        for _ in range(2):
            state, info = step(key, state, dataset)
        assert state.distilled.images.sharding.is_fully_replicated
        values = [float(info.loss), *(np.asarray(leaf).ravel().tolist() for leaf in state.distilled)]
        shards = sorted({s.shard_shape((t.BATCH, t.D))[0] for s in seen})
        report["results"][f"{nets} on {count}"] = {"values": np.hstack(values).tolist(), "shards": shards}
print(json.dumps(report))
"""

# (networks, real batch) -> axes of the mesh on eight devices.
CHOICES = {
    (4, 1024): (4, 2),
    (8, 1024): (8, 1),
    (1, 1024): (1, 8),
    (1, 256): (1, 4),  # 64 real examples a device, no fewer
    (1, 64): None,
    (4, 100): (4, 1),
    (3, 64): (3, 1),
    (3, 128): (3, 2),
    (1, 129): None,  # does not divide
}


@pytest.fixture(scope="module")
def eight_devices():
    code, cases = DEVICES, json.dumps([list(case) for case in CHOICES])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, cases],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("nets", [4, 1])
def test_results_do_not_depend_on_the_devices(eight_devices, nets, count):
    results = eight_devices["results"]
    alone, spread = results[f"{nets} on 0"], results[f"{nets} on {count}"]
    np.testing.assert_allclose(spread["values"], alone["values"], rtol=1e-9, atol=1e-12)


def test_the_real_batch_is_shared_out(eight_devices):
    shards = {count: eight_devices["results"][f"1 on {count}"]["shards"] for count in (1, 2, 4, 8)}
    assert shards == {1: [8], 2: [4], 4: [2], 8: [1]}


def test_mesh_uses_the_devices_that_divide_networks_and_batch(eight_devices):
    expected = {str(list(case)): shape and [["nets", "batch"], list(shape)] for case, shape in CHOICES.items()}
    assert eight_devices["choices"] == expected


def test_state_starts_at_zero_with_copies():
    start = make_start(jnp.float32)
    state = distiller().init(start)
    assert isinstance(state, DistillState) and int(state.step) == 0 and state.step.dtype == jnp.int32
    jax.tree.map(np.testing.assert_array_equal, state.distilled, start)
    jax.tree.map(np.testing.assert_array_equal, state.average, start)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in (*state.distilled, *state.average, *start)]
    assert len(set(pointers)) == 9
