"""The meta-gradient: the derivative of the real loss at the end of the inner loop, on one device or many.

    (1/N) sum_j  L(real batch, theta_T^(j)),   theta_0^(j) ~ p

(Dataset Distillation, arXiv 1811.10959, Algorithm 1.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from ddjax.core.distilled import DistilledData, Targets, check_distilled, fixed_labels
from ddjax.core.inits import Init
from ddjax.core.inner import unroll
from ddjax.core.losses import Apply, Loss, Params
from ddjax.core.matching import Match
from ddjax.core.order import View, draw
from ddjax.core.rules import MakeRule, mixed_mode
from ddjax.errors import InputError

Batch = tuple[jax.Array, jax.Array]
Tree = TypeVar("Tree")


class Problem(NamedTuple):
    """What is distilled for: the two losses, the initial weights, and how the inner loop moves.

    Attributes:
      apply: the network, `(params, inputs [b, ...]) -> logits [b, K]`; accuracies are read off it.
      inner_loss: l, taken on the distilled data.
      outer_loss: L, taken on real data at the end of the inner loop.
      match: what is minimised instead, if not None: a distance between the gradient of `outer_loss` on real data at theta_0
        and theta_0 - theta_T, how far the inner loop moved the weights (see `matching`).
      init: p(theta_0), `key -> params`.
      direction: optax transformation of the inner gradient; None is gradient descent.
      targets: how `DistilledData.labels` become targets: `fixed_labels` or `learned_labels`.
      rule: differentiation rule of the inner steps (see `inner.unroll`).
      window: steps that an unroll differentiates, from a start that is drawn; None: all T.
      window_early: how that start is drawn, the first one exp(window_early) times as likely as the last; 0: all alike (see
        `order.log_odds`).
      view: what each inner step sees of its examples, drawn anew every time (see `order.View`); None: all, as they are.
      real_view: what the real batch goes through besides, from the key of the first step's view, so that both may be changed
        alike; None: nothing.
      bound: of the global norm of each network's meta-gradient, which is scaled down to it; None: there is none.

    The last five are of the meta-gradient alone: distilled data are used without them.
    """

    apply: Apply
    inner_loss: Loss
    outer_loss: Loss
    init: Init
    match: Match | None = None
    direction: optax.GradientTransformation | None = None
    targets: Targets = fixed_labels
    rule: MakeRule = mixed_mode
    window: int | None = None
    window_early: float = 0.0
    view: View | None = None
    real_view: View | None = None
    bound: float | None = None

    @property
    def unroll_options(self) -> dict[str, Any]:
        return {"direction": self.direction, "targets": self.targets, "rule": self.rule}


class Layout(NamedTuple):
    """How one outer step is laid out on the devices, which changes its speed and memory but not its result.

    Attributes:
      mesh: devices with axes ("nets", "batch"), over which networks and the real batch are shared out evenly; None for one.
      share_steps: whether the "batch" axis shares out the examples of every inner step too: one exchange of gradients a
        step, which pays where devices are quick to reach and steps are few examples long, as with the cores of a CPU.
      together: networks that a device trains side by side (`vmap`); it takes the next ones when those are done. None: all.
      chunk: real examples in one forward and backward pass; None: all that the device has.
      remat: see `inner.unroll`.
    """

    mesh: Mesh | None = None
    share_steps: bool = False
    together: int | None = None
    chunk: int | None = None
    remat: bool = False


ONE_DEVICE = Layout()


def meta_loss(
    problem: Problem, params_N: Params, distilled: DistilledData, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
    """Mean over N initialisations (leaves [N, ...]) of the outer loss on `batch` after the inner loop.

    The definition of what `meta_gradient` differentiates where nothing is bounded, differentiable itself. Arguments and
    errors as for that.
    """
    _check(params_N, distilled, batch)
    drawn = draw(key, distilled.log_lrs.size, problem.window, problem.view, problem.window_early)
    batch = _viewed(problem, batch, drawn)

    def one_network(params: Params) -> jax.Array:
        end = unroll(problem.inner_loss, params, distilled, **drawn, **problem.unroll_options)
        if problem.match is None:
            return problem.outer_loss(end, *batch)
        return problem.match(jax.grad(problem.outer_loss)(params, *batch), jax.tree.map(jnp.subtract, params, end))

    return jnp.mean(jax.vmap(one_network)(params_N))


def _viewed(problem: Problem, batch: Batch, drawn: dict[str, Any]) -> Batch:
    if problem.real_view is None:
        return batch
    if problem.view is None:
        raise InputError("real_view changes the real batch as view does the images: give both")
    return problem.real_view(jax.random.fold_in(drawn["key"], 0), batch)


def _check(params_N: Params, distilled: DistilledData, batch: Batch) -> None:
    told = {"exception_type": InputError}
    check_distilled(distilled)
    chex.assert_equal_shape_prefix(batch, 1, custom_message="a batch is inputs [b, ...] and targets [b, K]", **told)
    chex.assert_equal_shape_prefix(
        jax.tree.leaves(params_N), 1, custom_message="leaves of params_N are [N, ...]", **told
    )


def meta_gradient(
    problem: Problem,
    params_N: Params,
    distilled: DistilledData,
    batch: Batch,
    layout: Layout = ONE_DEVICE,
    key: jax.Array | None = None,
) -> tuple[jax.Array, DistilledData]:
    """`meta_loss` and its gradient for the distilled data, laid out as asked.

    The outer loss must be a mean over its examples. Sizes that do not divide are left whole: a chunk that does not divide
    a device's share of the batch, networks that do not divide by `together`, steps whose examples do not divide. Steps are
    not shared where examples are seen at random, or networks bounded each. `key` is what windows and views are drawn from,
    the same ones for all networks.

    Raises:
      InputError: networks, inputs and targets of the batch, or distilled data do not agree in their sizes; a window is longer
        than the loop, or there is no key to draw from.
    """
    _check(params_N, distilled, batch)
    if layout.mesh is None:
        return _on_one_device(problem, params_N, distilled, batch, key, layout)
    sharers = layout.mesh.shape["batch"]
    share = layout.share_steps and problem.view is None and problem.bound is None
    axis = "batch" if share and sharers > 1 and distilled.images.shape[1] % sharers == 0 else None
    nets, shared, whole = PartitionSpec("nets"), PartitionSpec("batch"), PartitionSpec()
    examples = PartitionSpec(None, axis)
    data: Any = DistilledData(images=cast(Any, examples), labels=cast(Any, examples), log_lrs=cast(Any, whole))

    def on_each(params_n: Params, distilled: DistilledData, batch: Batch, key: jax.Array | None) -> Any:
        loss, grads = _on_one_device(problem, params_n, distilled, batch, key, layout, axis, shared_by="batch")
        loss, grads = jax.lax.pmean((loss, grads), "nets")
        if axis is None:
            return jax.lax.pmean((loss, grads), "batch")
        return jax.lax.pmean(loss, "batch"), grads

    # Our own rules place the exchanges between devices, so the types that shard_map would infer them from are off.
    sharded = jax.shard_map(
        on_each,
        mesh=layout.mesh,
        in_specs=(nets, data, shared, whole),
        out_specs=(whole, data),
        check_vma=False,
    )
    return cast(tuple[jax.Array, DistilledData], sharded(params_N, distilled, batch, key))


def _on_one_device(
    problem: Problem,
    params_N: Params,
    distilled: DistilledData,
    batch: Batch,
    key: jax.Array | None,
    layout: Layout,
    axis: str | None = None,
    shared_by: str | None = None,
) -> tuple[jax.Array, DistilledData]:
    """`meta_gradient` on one device's networks and share of the batch, which the axis `shared_by` has the whole of; sums over
    `axis` are taken within."""
    drawn = draw(key, distilled.log_lrs.size, problem.window, problem.view, problem.window_early)
    batch = _viewed(problem, batch, drawn)
    inner = partial(unroll, problem.inner_loss, remat=layout.remat, axis=axis, **drawn, **problem.unroll_options)

    def objective(start: Params, end: Params) -> tuple[jax.Array, Params]:
        """What is minimised, and its gradient for the weights at the end."""
        match = problem.match
        if match is None:
            return _in_chunks(problem.outer_loss, end, batch, layout.chunk)
        _, real = _in_chunks(problem.outer_loss, start, batch, layout.chunk)
        if shared_by is not None:  # a distance from the mean gradient is no mean of distances
            real = jax.lax.pmean(real, shared_by)
        return jax.value_and_grad(lambda end: match(real, jax.tree.map(jnp.subtract, start, end)))(end)

    def one_network(params: Params) -> tuple[jax.Array, DistilledData]:
        end, pull = jax.vjp(partial(inner, params), distilled)
        loss, by_params = objective(params, end)
        # With shared steps every device pulls the same cotangent through its own examples; without, each its own.
        grads = pull(by_params if axis is None else jax.lax.pmean(by_params, axis))[0]
        if problem.bound is not None:
            grads = grads if shared_by is None else jax.lax.pmean(grads, shared_by)
            scale = jnp.minimum(1.0, problem.bound / optax.tree.norm(grads))
            grads = jax.tree.map(lambda x: scale.astype(x.dtype) * x, grads)
        return loss, grads

    count = jax.tree.leaves(params_N)[0].shape[0]
    together = layout.together or count
    if count % together:
        together = count
    # One network is not a batch of one: XLA would go on treating its products as batched ones.
    train = (lambda p: one_network(jax.tree.map(lambda x: x[0], p))) if together == 1 else _mean_of_all(one_network)
    return _mean_over_groups(train, jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), params_N))


def _mean_of_all(function: Callable[[Params], Tree]) -> Callable[[Params], Tree]:
    return lambda params_N: jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(function)(params_N))


def _mean_over_groups(function: Callable[[Any], Tree], groups: Any) -> Tree:
    """Mean of `function` over the leading axis of `groups`, one after the other; only the running sum is kept."""
    count = jax.tree.leaves(groups)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], groups)
    if count == 1:
        return function(first)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first))
    total, _ = jax.lax.scan(lambda sums, group: (jax.tree.map(jnp.add, sums, function(group)), None), zero, groups)
    mean: Tree = jax.tree.map(lambda x: x / count, total)
    return mean


def _in_chunks(loss: Loss, params: Params, batch: Batch, chunk: int | None) -> tuple[jax.Array, Params]:
    """Value and gradient of a mean over the batch, by way of the means over chunks: their activations stay in cache."""
    size = batch[0].shape[0]
    if chunk is None or size % chunk:
        chunk = size
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), batch)
    return _mean_over_groups(lambda part: jax.value_and_grad(loss)(params, *part), chunks)
