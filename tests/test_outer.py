"""ddjax.core.outer: one step against one written by hand, its keys, failures, compilations and devices."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import relative_error

from ddjax.core import losses
from ddjax.core.distilled import DistilledData, learned_labels
from ddjax.core.meta import Layout, Problem, meta_gradient, meta_loss
from ddjax.core.outer import DistillState, make_distiller
from ddjax.errors import InputError
from ddjax.training.devices import make_layout

ROOT = Path(__file__).parents[1]
S, E, M, D, K, BATCH, NETS = 2, 2, 6, 4, 3, 8, 2  # M divides for two devices, and not for four or eight
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


def half_view(key, example):
    """A random half of the examples, each scaled at random and its target softened: chosen and changed at once."""
    rows_key, scale_key = jax.random.split(key)
    images, targets = example
    rows = jax.random.permutation(rows_key, len(images))[: len(images) // 2]
    scale = jax.random.uniform(scale_key, (len(rows), 1), images.dtype, 0.5, 2.0)
    return jnp.sin(scale * images[rows]), 0.9 * targets[rows] + 0.1 / targets.shape[-1]


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


# Layouts of NETWORKS on one device: what divides, what does not, and everything at once.
LAYOUTS = {
    "plain": Layout(),
    "one by one": Layout(together=1),
    "two by two": Layout(together=2),
    "not dividing networks": Layout(together=4),
    "chunks": Layout(chunk=4),
    "not dividing chunks": Layout(chunk=3),
    "remat": Layout(remat=True),
    "as on a core": Layout(together=1, chunk=2, remat=True),
}
NETWORKS = 6
DIRECTIONS = {"gd": None, "momentum": optax.trace(0.9)}


def make_arguments(networks=NETWORKS):
    dataset = make_dataset()
    params_N = jax.vmap(init)(jax.random.split(jax.random.key(1), networks))
    return params_N, make_start(), (dataset[0][:BATCH], dataset[1][:BATCH])


@pytest.fixture(scope="module")
def gradients_by_definition():
    """Of `meta_loss`, by direction; inside the first test that asks, so in double precision as that is."""
    found = {}

    def of(direction):
        if direction not in found:
            problem = make_problem(direction=DIRECTIONS[direction], targets=learned_labels)
            by = jax.jit(jax.value_and_grad(partial(meta_loss, problem), argnums=1))
            found[direction] = by(*make_arguments())
        return found[direction]

    return of


@pytest.mark.parametrize(
    ("direction", "layout"), [*(("gd", layout) for layout in LAYOUTS), ("momentum", "as on a core")]
)
def test_meta_gradient_is_that_of_the_meta_loss_in_every_layout(x64, gradients_by_definition, direction, layout):
    problem = make_problem(direction=DIRECTIONS[direction], targets=learned_labels)
    found = jax.jit(partial(meta_gradient, problem, layout=LAYOUTS[layout]))(*make_arguments())
    expected = gradients_by_definition(direction)
    assert all(np.linalg.norm(np.ravel(part)) > 1e-3 for part in jax.tree.leaves(expected))
    assert relative_error(found, expected) < 1e-12


def scans_at_the_top(layout):
    """Lengths of the loops of `meta_gradient` that are in no other, in order, and the real examples its loss sees."""
    seen = []

    def outer_loss(params, inputs, targets):
        seen.append(len(inputs))
        return losses.of_network(apply)(params, inputs, targets)

    jaxpr = jax.make_jaxpr(partial(meta_gradient, make_problem(outer_loss=outer_loss), layout=layout))(
        *make_arguments()
    )
    return [eqn.params["length"] for eqn in jaxpr.eqns if eqn.primitive.name == "scan"], set(seen)


def test_networks_and_chunks_take_turns_as_the_layout_says(x64):
    """Or all of them are taken at once where they do not divide: the inner loop is then outermost, there and back."""
    steps, epochs = [S * E] * 2, [E] * 2
    expected = {
        "plain": (steps, {BATCH}),
        "one by one": ([6], {BATCH}),
        "two by two": ([3], {BATCH}),
        "not dividing networks": (steps, {BATCH}),
        "chunks": ([S * E, 2, S * E], {4}),
        "not dividing chunks": (steps, {BATCH}),
        "remat": (epochs, {BATCH}),
        "as on a core": ([6], {2}),
    }
    assert {name: scans_at_the_top(layout) for name, layout in LAYOUTS.items()} == expected


def test_layout_is_chosen_by_the_backend(monkeypatch):
    assert make_layout(4, 1024, remat=True) == Layout(None, share_steps=True, together=1, chunk=64, remat=True)
    assert make_layout(4, 1024) == Layout(None, share_steps=True, together=1, chunk=64)
    chunks = [make_layout(4, 1024, example_size=size).chunk for size in (1, 784, 2048, 3072, 224 * 224 * 3)]
    assert chunks == [64, 64, 32, 16, 16]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert make_layout(4, 1024, remat=True) == Layout(remat=True)


def test_steps_equal_steps_by_hand(x64):
    """Three of them, so that the state of Adam, the average and the keys of later steps count, and clipping has work to do."""
    dataset, key = make_dataset(), jax.random.key(7)
    outer = distiller(make_problem(targets=learned_labels))
    state = outer.init(make_start())
    step = jax.jit(outer.step)
    by_hand = jax.jit(jax.value_and_grad(lambda d, k: loss_by_hand(d, k, dataset, learned_labels)))
    distilled = average = make_start()
    transformation = optimizer()
    opt_state, update = transformation.init(distilled), jax.jit(transformation.update)
    norms = []
    for t in range(3):
        loss, grads = by_hand(distilled, jax.random.fold_in(key, t))
        updates, opt_state = update(grads, opt_state)
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
    assert all(np.any(a != b) for a, b in zip(state.distilled, make_start(), strict=True))


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


def test_what_is_not_finite_leaves_the_state_untouched():
    """Bit for bit, whether the loss is NaN (a damaged example) or only its gradient is (a square root at zero)."""

    def outer_loss(params, inputs, targets):
        loss = losses.of_network(apply)(params, inputs, targets)
        return loss + jnp.sqrt(jnp.where(jnp.max(inputs) > 100, 0.0, 1.0) * loss)

    outer = distiller(make_problem(outer_loss=outer_loss))
    step, (inputs, targets) = jax.jit(outer.step), make_dataset(jnp.float32)
    state, info = step(jax.random.key(0), outer.init(make_start(jnp.float32)), (inputs, targets))
    assert info.finite and int(state.step) == 1
    for damage, finite_loss in ((jnp.nan, False), (1e3, True)):
        after, info = step(jax.random.key(0), state, (jnp.full_like(inputs, damage), targets))
        assert not info.finite and np.isfinite(info.loss) == finite_loss
        chex.assert_trees_all_equal(after, state)


def test_many_steps_compile_once_and_donate_their_state():
    outer, dataset = distiller(), make_dataset(jnp.float32)
    start = make_start(jnp.float32)
    step = jax.jit(chex.assert_max_traces(outer.step, n=1), donate_argnums=1)
    state, key = outer.init(start), jax.random.key(0)
    compiled = []

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        compiled.append(event)

    state, _ = step(key, state, dataset)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(5):
            previous = state
            state, _ = step(key, state, dataset)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert compiled == []
    assert int(state.step) == 6
    moved = tuple(bool(np.any(a != b)) for a, b in zip(state.distilled, start, strict=True))
    assert moved == (True, False, True)  # the labels are fixed; the caller's own arrays are left alone


def test_what_does_not_agree_is_refused_before_anything_is_computed(x64):
    params_N, distilled, (inputs, targets) = make_arguments()
    problem = make_problem()
    for networks, batch, message in (
        (params_N, (inputs, targets[1:]), r"a batch is inputs \[b, ...\] and targets \[b, K\]"),
        (params_N | {"a": params_N["a"][1:]}, (inputs, targets), r"leaves of params_N are \[N, ...\]"),
    ):
        for function in (meta_loss, meta_gradient):
            with pytest.raises(InputError, match=message):
                jax.eval_shape(partial(function, problem), networks, distilled, batch)
    with pytest.raises(InputError, match="distilled data are images"):
        distiller().init(distilled._replace(labels=targets))


# Several devices: one process with eight of them, which prints what the tests below read.

DEVICES = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
from functools import partial
import numpy as np
from jax.sharding import Mesh
from ddjax.core import rules
from ddjax.core.matching import cosine_distance
from ddjax.core.meta import Layout, meta_gradient
from ddjax.core.spread import replicated
from ddjax.training.devices import make_mesh
import test_outer as t

leaves = jax.tree.leaves(jax.eval_shape(t.init, jax.random.key(0)))
rules._LARGE = max(leaf.size for leaf in leaves)  # so that one goes alone and others together
assert min(leaf.size for leaf in leaves) < rules._LARGE

report = {"choices": {}, "results": {}}
for case in json.loads(sys.argv[1]):
    mesh = make_mesh(*case)
    report["choices"][str(case)] = mesh and [list(mesh.axis_names), list(mesh.devices.shape)]

def meshed(nets, count):
    share = min(nets, count)
    return Mesh(np.array(jax.devices()[:count]).reshape(share, count // share), ("nets", "batch")) if count else None

# The loss, which notes how many examples it is given: inside shard_map, those of one device.
def seeing(seen):
    def loss(params, inputs, targets):
        seen.add(len(inputs))
        return t.losses.of_network(t.apply)(params, inputs, targets)
    return loss

def run(nets, layout):
    real, synthetic = set(), set()
    problem = t.make_problem(
        inner_loss=seeing(synthetic),
        outer_loss=seeing(real),
        direction=t.DIRECTIONS[t.DIRECTION_OF[nets]],
        targets=t.learned_labels,
    )
    outer = t.distiller(problem, num_nets=nets, layout=layout)
    step, state = jax.jit(outer.step, donate_argnums=1), outer.init(t.make_start())
    key, dataset = jax.device_put((jax.random.key(3), t.make_dataset()), replicated(layout.mesh))
    for _ in range(2):
        state, info = step(key, state, dataset)
    assert state.distilled.images.sharding.is_fully_replicated
    values = [float(info.loss), *(np.asarray(leaf).ravel().tolist() for leaf in state.distilled)]
    return {"values": np.hstack(values).tolist(), "real": sorted(real), "synthetic": sorted(synthetic)}

for nets in (4, 1):
    report["results"][f"{nets} on 0"] = run(nets, Layout())
    for count, share_steps in t.SPREAD[nets]:
        report["results"][f"{nets} on {count}, {share_steps}"] = run(nets, Layout(meshed(nets, count), share_steps))
    everything = Layout(meshed(nets, 2), share_steps=True, together=1, chunk=2, remat=True)
    report["results"][f"{nets} on 2, everything"] = run(nets, everything)

problem = t.make_problem(targets=t.learned_labels)
params_N, distilled, batch = t.make_arguments(4)
def of_one(params):
    return meta_gradient(problem, jax.tree.map(lambda leaf: leaf[None], params), distilled, batch)
mapped = jax.tree.map(lambda x: x.mean(axis=0), jax.pmap(of_one)(params_N))
on_mesh = jax.jit(partial(meta_gradient, problem, layout=Layout(meshed(4, 8))))(params_N, distilled, batch)
flat = lambda tree: np.hstack([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).tolist()
report["pmap"], report["mesh"] = flat(mapped), flat(on_mesh)
others = {
    "matched": problem._replace(match=cosine_distance),
    "drawn": problem._replace(window=3, view=t.half_view),
    "bounded": problem._replace(bound=0.01),
}
placed = (Layout(), Layout(meshed(4, 8)), Layout(meshed(4, 8), share_steps=True), Layout(meshed(4, 2)))
def by(problem, layout):
    gradient = jax.jit(partial(meta_gradient, problem, layout=layout))
    return flat(gradient(params_N, distilled, batch, key=jax.random.key(2)))
for what, other in others.items():
    report[what] = [by(other, layout) for layout in placed]
print(json.dumps(report))
"""

# The direction that so many networks train with: both rules of a step meet both branches.
DIRECTION_OF = {4: "gd", 1: "momentum"}

# Networks -> devices, and whether they share the steps: a mesh of one axis or two, with and without, and what does not divide.
SPREAD = {4: [(2, False), (8, False), (8, True)], 1: [(2, False), (2, True), (8, True)]}
PLACED = [(nets, *how) for nets, each in SPREAD.items() for how in each]

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


@pytest.mark.parametrize(("nets", "count", "share_steps"), PLACED)
def test_results_do_not_depend_on_the_devices(eight_devices, nets, count, share_steps):
    results = eight_devices["results"]
    alone, spread = results[f"{nets} on 0"], results[f"{nets} on {count}, {share_steps}"]
    np.testing.assert_allclose(spread["values"], alone["values"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nets", [4, 1])
def test_results_do_not_depend_on_all_of_the_layout_at_once(eight_devices, nets):
    alone, spread = (eight_devices["results"][f"{nets} on {how}"] for how in ("0", "2, everything"))
    np.testing.assert_allclose(spread["values"], alone["values"], rtol=1e-9, atol=1e-12)
    assert spread["real"] == [2]


def test_pmap_over_networks_is_the_same_meta_gradient(eight_devices):
    """The transformation that `shard_map` replaces: each network on a device of its own, and the mean of what they give."""
    np.testing.assert_allclose(eight_devices["pmap"], eight_devices["mesh"], rtol=1e-9, atol=1e-12)


def test_gradients_are_matched_with_those_of_the_whole_batch(eight_devices):
    alone, *spread = eight_devices["matched"]
    for values in spread:
        np.testing.assert_allclose(values, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("what", ["drawn", "bounded"])
def test_windows_views_and_bounds_do_not_depend_on_the_devices(eight_devices, what):
    alone, *spread = eight_devices[what]
    for values in spread:
        np.testing.assert_allclose(values, alone, rtol=1e-9, atol=1e-12)


def test_the_real_batch_is_shared_out(eight_devices):
    shares = {placed: eight_devices["results"]["{} on {}, {}".format(*placed)]["real"] for placed in PLACED}
    # Four networks on two devices are two on each, with all of the batch.
    divided = {(4, 2): [BATCH], (4, 8): [BATCH // 2], (1, 2): [BATCH // 2], (1, 8): [BATCH // 8]}
    assert shares == {(nets, count, share): divided[nets, count] for nets, count, share in PLACED}


def test_the_examples_of_a_step_are_shared_out_where_they_divide(eight_devices):
    """Two devices to a network: half of the six each. Eight do not divide six, and each has all of them."""
    shares = {placed: eight_devices["results"]["{} on {}, {}".format(*placed)]["synthetic"] for placed in PLACED}
    halved = {(4, 8, True), (1, 2, True)}
    assert shares == {placed: [M // 2] if placed in halved else [M] for placed in PLACED}


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
