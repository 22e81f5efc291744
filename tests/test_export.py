"""`ddjax export`: a distilled set in the formats of others, read back by their own readers."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from ddjax.core.distilled import DistilledData
from ddjax.data import Standardise
from ddjax.errors import InputError
from ddjax.recipes import Recipe
from ddjax.show.export import export
from ddjax.storage.artifact import Artifact


def make(shape=(5, 4, 3), params=True):
    """Two steps of three examples, three epochs."""
    random = np.random.RandomState(0)
    labels = np.eye(3, dtype=np.float32)[[[0, 1, 2], [2, 1, 0]]]
    distilled = DistilledData(
        images=random.normal(size=(2, 3, *shape)).astype(np.float32),
        labels=labels,
        log_lrs=random.normal(size=(3, 2)).astype(np.float32),
    )
    metadata = {
        "recipe": Recipe().to_json(),
        "transform": Standardise.by([0.5], [0.25]).to_json(),
        "class_names": ["cat", "a dog", "eel/fish"],
    }
    weights = {"dense": {"kernel": random.normal(size=(2, 2)).astype(np.float32)}}
    return Artifact(distilled, metadata, weights if params else None)


def test_npz(tmp_path):
    artifact = make()
    path = export(artifact, tmp_path / "new" / "set.npz", "npz")
    with np.load(path, allow_pickle=False) as found:
        np.testing.assert_array_equal(found["images"], artifact.distilled.images)
        np.testing.assert_allclose(found["pixels"], artifact.distilled.images * 0.25 + 0.5, rtol=1e-6)
        np.testing.assert_array_equal(found["labels"], artifact.distilled.labels)
        np.testing.assert_allclose(found["learning_rates"], np.exp(artifact.distilled.log_lrs), rtol=1e-6)
        np.testing.assert_array_equal(found["params/dense/kernel"], artifact.params["dense"]["kernel"])
        assert found["class_names"].tolist() == artifact.metadata["class_names"]
        assert json.loads(str(found["header"])) == artifact.metadata
    without = export(make(params=False), tmp_path / "without.npz", "npz")
    assert not any(name.startswith("params") for name in np.load(without).files)


@pytest.mark.parametrize("channels", [1, 3])
def test_png(tmp_path, channels):
    artifact = make((5, 4, channels))
    folder = export(artifact, tmp_path / "pictures", "png")
    names = ["01-01-cat", "01-02-a_dog", "01-03-eel_fish", "02-01-eel_fish", "02-02-a_dog", "02-03-cat"]
    assert sorted(path.name for path in folder.iterdir()) == [f"step{name}.png" for name in names]
    pixels = np.clip(artifact.distilled.images * 0.25 + 0.5, 0, 1).reshape(6, 5, 4, channels)
    for name, expected in zip(names, pixels, strict=True):
        found = np.asarray(Image.open(folder / f"step{name}.png")).reshape(5, 4, channels)
        assert np.abs(found / 255 - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("shape", [(5, 4, 3), (6,)])
def test_torch(tmp_path, shape):
    torch = pytest.importorskip("torch")
    artifact = make(shape)
    found = torch.load(export(artifact, tmp_path / "set.pt", "torch"), weights_only=True)
    images = found["images"].numpy()
    np.testing.assert_array_equal(np.moveaxis(images, 2, -1) if len(shape) == 3 else images, artifact.distilled.images)
    np.testing.assert_array_equal(found["labels"].numpy(), artifact.distilled.labels)
    assert found["class_names"] == artifact.metadata["class_names"]
    assert set(found) == {"images", "pixels", "labels", "learning_rates", "params/dense/kernel", "class_names"}


def test_without_pytorch_its_format_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="needs PyTorch: pip install torch, or choose npz"):
        export(make(), tmp_path / "set.pt", "torch")
    assert not list(tmp_path.iterdir())


def test_tfds(tmp_path):
    import tensorflow_datasets as tfds

    artifact = make()
    folder = export(artifact, tmp_path / "set", "tfds")
    builder = tfds.builder_from_directory(str(folder))
    records = list(builder.as_data_source(split="train"))
    np.testing.assert_array_equal([r["input"] for r in records], artifact.distilled.images.reshape(6, 5, 4, 3))
    np.testing.assert_array_equal([r["label"] for r in records], artifact.distilled.labels.reshape(6, 3))
    assert [int(r["step"]) for r in records] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(records[3]["learning_rates"], np.exp(artifact.distilled.log_lrs[:, 1]), rtol=1e-6)
    assert json.loads(builder.info.description) == artifact.metadata


def test_wrong_exports_are_one_line_and_leave_nothing(tmp_path):
    with pytest.raises(InputError, match=r"examples of shape \[6\] are no pictures: export them to npz, torch or tfds"):
        export(make((6,)), tmp_path / "pictures", "png")
    with pytest.raises(InputError, match="there is no format 'h5': choose among npz, png, torch, tfds"):
        export(make(), tmp_path / "set.h5", "h5")
    assert not list(tmp_path.iterdir())
    (tmp_path / "set.npz").write_text("mine")
    with pytest.raises(InputError, match="exists: give another --out, or remove it"):
        export(make(), tmp_path / "set.npz", "npz")
    assert (tmp_path / "set.npz").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(make(), tmp_path / "file" / "set.npz", "npz")
