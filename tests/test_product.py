"""The matrix product that stands on JAX's own machinery: the file to run when JAX changes. In float64 against einsum."""

import importlib.util
from functools import partial

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import all_derivatives, assert_same_derivatives, random_arrays
from jax.interpreters import ad, batching, mlir

from ddjax.models.ops import product as module
from ddjax.models.ops.product import product

# Axes that are contracted -> the same in the notation of einsum; j is the contracted one.
AXES = {(1, 0): "ij,jk->ik", (1, 1): "ij,kj->ik", (0, 0): "ji,jk->ik", (0, 1): "ji,kj->ik"}
SIZES = {"i": 3, "j": 4, "k": 5}

each_pair_of_axes = pytest.mark.parametrize("axes", AXES, ids="{0[0]}-{0[1]}".format)


def pair_of(axes):
    """The product, its reference, and the shapes of its operands."""
    a, b = AXES[axes].split("->")[0].split(",")
    shapes = [tuple(SIZES[index] for index in operand) for operand in (a, b)]
    return lambda a, b: product(a, b, *axes), partial(jnp.einsum, AXES[axes]), shapes


@each_pair_of_axes
def test_product_equals_einsum(x64, axes):
    """Value, gradients, and derivatives of the gradients forwards and in reverse."""
    ours, reference, shapes = pair_of(axes)
    a, b = random_arrays(*shapes)
    assert_same_derivatives(ours, reference, a, b)

    def reverse_over_reverse(function):
        def slope(a, b):
            return sum(map(jnp.sum, jax.grad(lambda a, b: jnp.sum(jnp.sin(function(a, b))), argnums=(0, 1))(a, b)))

        return jax.grad(slope, argnums=(0, 1))(a, b)

    for found, expected in zip(reverse_over_reverse(ours), reverse_over_reverse(reference), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_product_is_by_default_that_of_matrices(x64):
    a, b = random_arrays((3, 4), (4, 5))
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-12)


@each_pair_of_axes
@pytest.mark.parametrize("batched", [(0, None), (None, 0), (0, 0), (2, 1)], ids=str)
def test_vmap_of_product_equals_einsum(x64, axes, batched):
    """Of the product, which is then differentiated, and of its derivatives."""
    ours, reference, shapes = pair_of(axes)
    shapes = [s if axis is None else (*s[:axis], 2, *s[axis:]) for s, axis in zip(shapes, batched, strict=True)]
    operands = random_arrays(*shapes)
    assert_same_derivatives(jax.vmap(ours, batched), jax.vmap(reference, batched), *operands)
    found, expected = (jax.vmap(partial(all_derivatives, f), batched)(*operands) for f in (ours, reference))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), found, expected)


@each_pair_of_axes
def test_derivatives_of_product_transpose_nothing(x64, axes):
    """Which is what it is for: those of JAX's own product do, unless both last axes are contracted."""
    ours, reference, shapes = pair_of(axes)
    jaxprs = [str(jax.make_jaxpr(partial(all_derivatives, f))(*random_arrays(*shapes))) for f in (ours, reference)]
    assert ["transpose[" in jaxpr for jaxpr in jaxprs] == [False, axes != (1, 1)]


def rounded(x):
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


@each_pair_of_axes
def test_bfloat16_rounds_the_factors_of_the_product_and_of_its_derivatives_and_not_their_sums(axes):
    ours, _, shapes = pair_of(axes)
    a, b = random_arrays(*shapes, dtype=np.float32)
    (cotangent,) = random_arrays((SIZES["i"], SIZES["k"]), seed=1, dtype=np.float32)

    def value_and_pullback(a, b):
        value, pullback = jax.vjp(ours, a, b)
        return value, *pullback(cotangent)

    def expected(rounding):
        x, y, c = map(rounding, (a, b, cotangent))
        over = AXES[axes].split("->")[0]
        (left, right), (i, k) = over.split(","), "ik"
        return [
            np.einsum(AXES[axes], x, y),
            np.einsum(f"{i}{k},{right}->{left}", c, y),
            np.einsum(f"{i}{k},{left}->{right}", c, x),
        ]

    compiled = jax.jit(value_and_pullback)
    exact = compiled(a, b)
    with jax.default_matmul_precision("bfloat16"):  # which the same compiled function has to notice
        coarse = compiled(a, b)
    for found, wanted in ((exact, expected(np.float64)), (coarse, expected(rounded))):
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())
    assert all(np.abs(one - other).max() > 1e-4 for one, other in zip(exact, coarse, strict=True))


@pytest.mark.parametrize(
    ("precision", "lowered"),
    [
        (None, "precision = [DEFAULT, DEFAULT] : (tensor<3x4xf32>, tensor<4x5xf32>) -> tensor<3x5xf32>"),
        ("tensorfloat32", "precision = [HIGH, HIGH] : (tensor<3x4xf32>, tensor<4x5xf32>) -> tensor<3x5xf32>"),
        ("float32", "precision = [HIGHEST, HIGHEST] : (tensor<3x4xf32>, tensor<4x5xf32>) -> tensor<3x5xf32>"),
        ("bfloat16", " : (tensor<3x4xbf16>, tensor<4x5xbf16>) -> tensor<3x5xf32>"),
    ],
)
def test_precision_is_that_of_the_place_where_the_product_stands(precision, lowered):
    """And not of the place where it is compiled; XLA is told to sum in float32."""
    a, b = random_arrays((3, 4), (4, 5), dtype=np.float32)
    with jax.default_matmul_precision(precision):
        traced = jax.jit(lambda a, b: product(a, b)).trace(a, b)
    assert lowered in traced.lower().as_text()


def test_two_dtypes_are_refused():
    with pytest.raises(TypeError, match=r"product of float32 and bfloat16: give both one dtype"):
        product(jnp.ones((2, 2)), jnp.ones((2, 2), jnp.bfloat16))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (jax.core, "ShapedArray"),
        (jax.extend.core, "Primitive"),
        (jax.extend.core.Primitive, "def_abstract_eval"),
        (ad, "defbilinear"),
        (batching, "primitive_batchers"),
        (mlir, "lower_fun"),
        (mlir, "register_lowering"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_jax_that_lacks_a_part_is_named_at_import(monkeypatch, owner, name):
    monkeypatch.delattr(owner, name)
    spec = importlib.util.spec_from_file_location("product_of_another_jax", module.__file__)
    with pytest.raises(ImportError, match=name) as excinfo:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    message = str(excinfo.value)
    assert "tested with jax 0.10.0 to " in message and f"jax {jax.__version__}" in message and "\n" not in message
