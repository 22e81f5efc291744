"""AlexNet at 224x224: derivatives, and ImageNet weights in torchvision's layout against PyTorch's own arithmetic."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ddjax.core import losses
from ddjax.core.distilled import DistilledData
from ddjax.core.inner import unroll
from ddjax.core.rules import mixed_mode, reverse_over_reverse
from ddjax.errors import InputError
from ddjax.models import build_model, imagenet, load_imagenet_alexnet

CLASSES = 20
SHAPES = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (7, 4096),
}


@pytest.fixture(scope="module")
def state():
    """Random weights in torchvision's layout, of a size that keeps activations near 1."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in SHAPES.items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        tensors[f"{name}.weight"] = scale * rng.standard_normal(shape, np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0], np.float32) / 10
    return tensors


@pytest.fixture(scope="module")
def params(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    safetensors.numpy.save_file(state, path)
    params = load_imagenet_alexnet(path, CLASSES)
    path.unlink()  # a quarter of a gigabyte
    return params


def test_tensors_are_transposed_and_the_last_layer_restarts(state, params):
    expected = jax.eval_shape(build_model("alexnet", (224, 224, 3), CLASSES).init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    for layer, name in {"conv1": "features.0", "conv2": "features.3", "conv5": "features.10"}.items():
        theirs = state[f"{name}.weight"]
        for h, w in ((0, 0), (1, 2), (2, 0)):
            np.testing.assert_array_equal(params[layer]["kernel"][h, w], theirs[:, :, h, w].T)
    dense = np.asarray(params["dense1"]["kernel"])
    for h, w, c in ((0, 0, 0), (0, 1, 0), (2, 0, 3), (5, 5, 255), (4, 3, 17)):
        np.testing.assert_array_equal(
            dense[(h * 6 + w) * 256 + c], state["classifier.1.weight"][:, (c * 6 + h) * 6 + w]
        )
    np.testing.assert_array_equal(params["dense2"]["kernel"][3], state["classifier.4.weight"][:, 3])
    for layer, name in {"conv4": "features.8", "dense1": "classifier.1"}.items():
        np.testing.assert_array_equal(params[layer]["bias"], state[f"{name}.bias"])
    assert not np.any(params["dense3"]["kernel"]) and np.all(np.asarray(params["dense3"]["bias"]) == 1)


def torch_alexnet(nn, state):
    """torchvision's `alexnet` in evaluation mode, from its published layout."""

    def relu_conv(*shape, **options):
        return nn.Conv2d(*shape, **options), nn.ReLU(inplace=True)

    features = nn.Sequential(
        *relu_conv(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, stride=2),
        *relu_conv(64, 192, 5, padding=2),
        nn.MaxPool2d(3, stride=2),
        *relu_conv(192, 384, 3, padding=1),
        *relu_conv(384, 256, 3, padding=1),
        *relu_conv(256, 256, 3, padding=1),
        nn.MaxPool2d(3, stride=2),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True)),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
        nn.Linear(4096, len(state["classifier.6.bias"])),
    )
    network = nn.ModuleDict({"features": features, "classifier": classifier}).eval()
    pool = nn.AdaptiveAvgPool2d((6, 6))
    return network, lambda x: classifier(pool(features(x)).flatten(1))


def test_logits_are_pytorchs_own_from_both_kinds_of_file(state, params, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch comes with the extra `bench`")
    network, apply = torch_alexnet(torch.nn, state)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()})
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    from_pth = load_imagenet_alexnet(tmp_path / "alexnet.pth", CLASSES)
    (tmp_path / "alexnet.pth").unlink()
    jax.tree.map(np.testing.assert_array_equal, from_pth, params)

    model = build_model("alexnet", (224, 224, 3), CLASSES)
    inputs = np.random.default_rng(1).standard_normal((2, 224, 224, 3), np.float32)
    np.testing.assert_array_equal(jax.jit(model.apply)(params, inputs), np.ones((2, CLASSES), np.float32))
    last = {"kernel": state["classifier.6.weight"].T, "bias": state["classifier.6.bias"]}
    with torch.no_grad():
        expected = apply(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).numpy()
    assert expected.std() > 0.1
    model = build_model("alexnet", (224, 224, 3), len(last["bias"]))
    found = jax.jit(model.apply)({**params, "dense3": last}, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


SMALLEST = (63, 63, 3)


def small_problem():
    """Two networks [2, ...] for the smallest pictures and two classes, their loss, and a batch of both classes."""
    model = build_model("alexnet", SMALLEST, 2, weights="he")
    params_N = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))
    batch = jax.random.normal(jax.random.key(1), (2, *SMALLEST)), jnp.eye(2)
    return losses.of_network(model.apply), params_N, batch


def relative_error(found, expected):
    size = float(jnp.linalg.norm(expected))
    assert size > 1e-6
    return float(jnp.linalg.norm(found - expected)) / size


def test_meta_gradient_is_that_of_plain_automatic_differentiation():
    loss, params_N, batch = small_problem()
    params = jax.tree.map(lambda leaf: leaf[0], params_N)
    images = jax.random.normal(jax.random.key(2), (1, 2, *SMALLEST))
    distilled = DistilledData(images, jnp.eye(2)[None], jnp.log(jnp.full((2, 1), 0.01)))

    def gradient(rule):
        outer = jax.grad(lambda distilled, params: loss(unroll(loss, params, distilled, rule=rule), *batch))
        return jax.jit(outer)(distilled, params)

    ours, plain = gradient(mixed_mode), gradient(reverse_over_reverse)
    assert relative_error(ours.images, plain.images) < 1e-4
    assert relative_error(ours.log_lrs, plain.log_lrs) < 1e-4


def test_vmap_over_networks_gives_the_gradients_of_each():
    loss, params_N, (inputs, targets) = small_problem()
    by_inputs = jax.grad(loss, argnums=1)
    found = jax.jit(jax.vmap(by_inputs, in_axes=(0, None, None)))(params_N, inputs, targets)
    one = jax.jit(by_inputs)
    for n in range(2):
        expected = one(jax.tree.map(lambda leaf, n=n: leaf[n], params_N), inputs, targets)
        assert relative_error(found[n], expected) < 1e-4


def save(tmp_path, **tensors):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({name.replace("_", "."): tensor for name, tensor in tensors.items()}, path)
    return path


def refused(path, match):
    with pytest.raises(InputError, match=match) as excinfo:
        load_imagenet_alexnet(path, CLASSES)
    assert "\n" not in str(excinfo.value) and (not str(path) or str(path) in str(excinfo.value))
    return str(excinfo.value)


def test_a_missing_file_is_told_what_to_put_where(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path, ""):
        message = refused(path, "no such file: save torchvision's" if path else "no ImageNet weights are given: save")
        for part in ("alexnet-owt-7be5be79.pth", ".safetensors", "--checkpoint PATH"):
            assert part in message


def test_other_files_are_refused(tmp_path):
    first = np.zeros(SHAPES["features.0"], np.float32)
    text = tmp_path / "weights.txt"
    text.write_text("text")
    refused(text, "ends in neither .pth nor .safetensors")
    refused(save(tmp_path, features_3_weight=first), "has no tensor features.0.weight: give torchvision's")
    refused(save(tmp_path, features_0_weight=first), "has no tensor features.0.bias")
    wrong = r"has features.0.weight as float32 \[64, 11, 11, 3\], not float32 \[64, 3, 11, 11\]"
    refused(save(tmp_path, features_0_weight=np.ascontiguousarray(first.transpose(0, 2, 3, 1))), wrong)
    refused(save(tmp_path, features_0_weight=first.astype(np.int32)), "as int32")
    refused(save(tmp_path, features_0_weight=first * np.float32(np.nan)), "features.0.weight that are not finite")


@pytest.mark.parametrize("content", [b"", b"some text that is no archive", None], ids=["empty", "text", "cut short"])
def test_damaged_files_are_refused(tmp_path, content):
    whole = save(tmp_path, features_0_weight=np.zeros(SHAPES["features.0"], np.float32)).read_bytes()
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(whole[:-100] if content is None else content)
    refused(path, "damaged or no safetensors file: save it again")
    pytest.importorskip("torch", reason="PyTorch comes with the extra `bench`")
    path = tmp_path / "damaged.pth"
    path.write_bytes(whole[:-100] if content is None else content)
    refused(path, "damaged or holds no state dict: save it again")


def test_pickles_that_hold_no_state_dict_run_nothing(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch comes with the extra `bench`")
    path = tmp_path / "weights.pth"

    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for content, message in (
        (Hostile(), "damaged or holds no state dict"),
        (torch.zeros(3), "damaged or holds no state dict"),
        ({"state_dict": {}}, "has no tensor features.0.weight"),
    ):
        torch.save(content, path)
        refused(path, message)
    assert not (tmp_path / "ran").exists()


def test_without_pytorch_a_pth_file_is_told_what_to_do(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name == "torch":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"anything")
    refused(path, "needs PyTorch: install torch, or convert the file to .safetensors")


def test_other_pictures_are_refused_before_the_file_is_looked_for():
    with pytest.raises(
        InputError, match=r"224x224x3, but the examples have shape \[32, 32, 3\]: add --pictures 224x224x3"
    ):
        load_imagenet_alexnet("absent", CLASSES, input_shape=(32, 32, 3))
    assert imagenet.IMAGENET_SHAPE == (224, 224, 3)
