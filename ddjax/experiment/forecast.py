"""What a distillation will take, before it is begun: operations counted, memory added up, time from two short measurements."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.core.distilled import DistilledData
from ddjax.core.meta import Layout
from ddjax.core.order import log_odds
from ddjax.evaluation.scoring import activation_bytes
from ddjax.experiment.outer import build_distiller, first_iterate
from ddjax.experiment.setup import Experiment, StepData
from ddjax.training.devices import make_layout


class Forecast(NamedTuple):
    """What a run's outer loop takes; validations, the test and what it is compared with come on top.

    Attributes:
      images, inner_steps: distilled images in all, and steps of the inner loop, S E.
      outer_steps, num_nets: updates in all, and networks at each.
      weights: numbers in one network's weights, or in their trained part.
      copies: of the weights, that one network's unroll keeps.
      operations: floating-point operations of the matrix products and convolutions of one outer step, all networks.
      memory: bytes on each device: the data set, the copies, activations, the state. A sum, not a measurement.
      seconds: of one outer step, on all devices.
      devices: how many share it.
    """

    images: int
    inner_steps: int
    outer_steps: int
    num_nets: int
    weights: int
    copies: int
    operations: float
    memory: float
    seconds: float
    devices: int


def forecast(experiment: Experiment) -> Forecast:
    """The operations of the outer step as it is traced, and its time: that of one gradient on a step's images and of one on
    real examples, which are compiled and run, times how often their operations are in it. The inner steps of a network
    without any product are told as if they took no time. Where the first steps take narrower networks, means over all."""
    outer = experiment.recipe.outer
    own = _forecast(experiment)
    if experiment.narrow is None:
        return own
    problem = experiment.narrow[0]
    early = _forecast(experiment._replace(problem=problem, starts=experiment.starts._replace(draw=problem.init)))
    share = min(1.0, outer.narrow_steps / outer.outer_steps)
    return own._replace(
        operations=share * early.operations + (1.0 - share) * own.operations,
        seconds=share * early.seconds + (1.0 - share) * own.seconds,
    )


def _forecast(experiment: Experiment) -> Forecast:
    """That of steps which are all for the experiment's problem."""
    experiment = experiment._replace(narrow=None)
    recipe, data = experiment.recipe, experiment.data
    outer, example = recipe.outer, math.prod(experiment.dataset.input_shape)
    layout = make_layout(outer.num_nets, outer.batch_size, example_size=example, remat=recipe.inner.remat)
    distilled = first_iterate(experiment)
    epochs, steps = distilled.log_lrs.shape
    distiller = build_distiller(experiment, layout._replace(mesh=None))
    state = jax.eval_shape(distiller.init, distilled)
    total = operations(jax.make_jaxpr(distiller.step)(experiment.key, state, data).jaxpr)

    params = jax.eval_shape(experiment.starts.draw, experiment.key)
    devices = 1 if layout.mesh is None else layout.mesh.size
    nets = outer.num_nets if layout.together is None else min(layout.together, outer.num_nets)
    chunk = layout.chunk if layout.chunk and outer.batch_size % layout.chunk == 0 else outer.batch_size
    inner, inner_seconds = _gradient(experiment, nets, _seen(experiment, distilled))
    real, real_seconds = _gradient(experiment, nets, chunk)
    turns, chunks = outer.num_nets / nets, outer.batch_size / chunk
    window = outer.window or steps * epochs
    if outer.window is not None:  # a window's start is drawn, and the loop before it counts as one turn
        odds = np.exp(log_odds(steps * epochs - window + 1, outer.window_early))
        total += turns * inner * (np.average(np.arange(len(odds)), weights=odds) - 1)
    of_steps = max(0.0, total - turns * chunks * real)
    seconds = (turns * chunks * real_seconds + of_steps / max(inner, 1.0) * inner_seconds) / devices

    copies = steps + -(-window // steps) if recipe.inner.remat else window
    return Forecast(
        images=math.prod(distilled.labels.shape[:2]),
        inner_steps=steps * epochs,
        outer_steps=outer.outer_steps,
        num_nets=outer.num_nets,
        weights=sum(leaf.size for leaf in jax.tree.leaves(params)),
        copies=copies,
        operations=total,
        memory=_memory(experiment, data, params, distilled, copies, layout, nets, chunk),
        seconds=seconds,
        devices=devices,
    )


def _seen(experiment: Experiment, distilled: DistilledData) -> int:
    """Images that a step of the unroll sees."""
    view, example = experiment.problem.view, (distilled.images[0], distilled.labels[0])
    return len(example[0]) if view is None else jax.eval_shape(view, experiment.key, example)[0].shape[0]


def operations(jaxpr: Any) -> float:
    """Floating-point operations of all products and convolutions of a jaxpr; loops of unknown length count as one turn."""
    count = 0.0
    for equation in jaxpr.eqns:
        name, shapes = equation.primitive.name, [atom.aval.shape for atom in equation.invars]
        if name in ("dot_general", "product"):
            count += 2.0 * math.prod(equation.outvars[0].aval.shape) * _contracted(equation, shapes)
        elif name == "conv_general_dilated":
            kernel = equation.params["dimension_numbers"].rhs_spec
            taps = math.prod(shapes[1]) / shapes[1][kernel[0]]
            count += 2.0 * math.prod(equation.outvars[0].aval.shape) * taps
        parts = [getattr(part, "jaxpr", part) for part in jax.tree.leaves(list(equation.params.values()))]
        within = [operations(part) for part in parts if hasattr(part, "eqns")]
        if within:
            times = equation.params.get("length", 1) if name == "scan" else 1
            count += times * (max(within) if name == "cond" else sum(within))
    return count


def _contracted(equation: Any, shapes: list[tuple[int, ...]]) -> int:
    if equation.primitive.name == "product":
        return int(shapes[0][len(shapes[0]) - 2 + equation.params["axis_a"]])
    (axes, _), _ = equation.params["dimension_numbers"]
    return math.prod(shapes[0][axis] for axis in axes)


def _gradient(experiment: Experiment, nets: int, examples: int) -> tuple[float, float]:
    """Operations and seconds of the loss's gradient for the weights of so many networks, on random examples."""
    problem, rng = experiment.problem, np.random.default_rng(0)
    classes = experiment.dataset.num_classes
    inputs = jnp.asarray(rng.normal(size=(examples, *experiment.dataset.input_shape)), jnp.float32)
    targets = jax.nn.one_hot(rng.integers(classes, size=examples), classes)
    one: Callable[..., Any] = jax.grad(problem.inner_loss)
    draw, key = experiment.starts.draw, experiment.stream("test")
    if nets > 1:
        one, params = jax.vmap(one, in_axes=(0, None, None)), jax.vmap(draw)(jax.random.split(key, nets))
    else:
        params = draw(key)
    arguments = (params, inputs, targets)
    run, times = jax.jit(one), []
    for _ in range(6):  # the first is the compilation's
        started = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - started)
    return operations(jax.make_jaxpr(one)(*arguments).jaxpr), min(times)


def _memory(
    experiment: Experiment,
    data: StepData,
    params: Any,
    distilled: Any,
    copies: int,
    layout: Layout,
    nets: int,
    chunk: int,
) -> float:
    """Of one device: the data and the networks it is given, the copies of those it trains at once, activations, the state."""
    own = -(-experiment.recipe.outer.num_nets // (1 if layout.mesh is None else layout.mesh.shape["nets"]))
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    example = jnp.zeros(experiment.dataset.input_shape)
    activations = activation_bytes(experiment.problem.apply, params, example)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((data.examples, data.axes)))
    state = 6 * sum(leaf.nbytes for leaf in jax.tree.leaves(distilled))  # iterate, average, best, two moments, gradient
    batch = 4 * math.prod(experiment.dataset.input_shape) * experiment.recipe.outer.batch_size
    return float(held + state + batch + weights * (own + nets * (copies + 3)) + nets * activations * chunk)
