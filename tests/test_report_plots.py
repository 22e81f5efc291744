"""Tables, word for word; pictures, by what is in the figures and in the files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ddjax.core.distilled import DistilledData
from ddjax.data import Standardise
from ddjax.errors import InputError
from ddjax.evaluation.measure import Evaluation
from ddjax.recipes import Recipe
from ddjax.show import plots, tables
from ddjax.storage.artifact import Artifact

# Tables


def scores(mean, std=0.0, before=9.87, nets=1, **others):
    return {
        "accuracy_mean": mean,
        "accuracy_std": std,
        "accuracy_before_mean": before,
        "loss_mean": 1.0,
        "num_nets": nets,
        **others,
    }


SUMMARY = {
    "name": "digits",
    "data": "digits",
    "images": 10,
    "inner_steps": 1,
    "num_test": 400,
    "num_train": 1281,
    "best_step": 3750,
    "valid_accuracy": 97.0,
    "distilled": scores(96.5),
    "accuracy_by_step": {"0": 9.87, "1": 96.5},
    "random_real": scores(45.678, 5.5, nets=20, chosen="rate 0.03"),
    "all_data": {"accuracy_mean": 99.0, "accuracy_std": 0.0, "num_nets": 1, "chosen": "Adam, 2000 steps of 128"},
}

FIXED_TABLE = """\
digits: accuracy on the 400 test examples, %
  before training                        9.87
  10 distilled images, 1 step           96.50  1 network
  10 random real images, 1 step  45.68 ± 5.50  20 sets, rate 0.03
  all 1281 training images              99.00  Adam, 2000 steps of 128"""

RANDOM_TABLE = """\
shapes, recipe mnist-random: accuracy on the 400 test examples, %
  before training                           9.87
  100 distilled images, 30 steps    79.50 ± 8.12  200 networks
  100 random real images, 30 steps         45.68  1 set, rate 1
  all 1281 training images          99.00 ± 0.12  Adam, 2000 steps of 128"""


def test_table_of_fixed_weights():
    assert tables.summary_table(SUMMARY) == FIXED_TABLE


def test_table_of_random_weights():
    many = {"images": 100, "inner_steps": 30, "distilled": scores(79.5, 8.123, nets=200)}
    others = {
        "random_real": scores(45.678, 5.5, nets=1, chosen="rate 1"),
        "all_data": {**SUMMARY["all_data"], "accuracy_std": 0.123, "num_nets": 3},
    }
    named = {"name": "mnist-random", "data": "shapes"}
    assert tables.summary_table({**SUMMARY, **many, **others, **named}) == RANDOM_TABLE


@pytest.mark.parametrize(
    ("name", "data", "title"),
    [("digits", "shapes", "shapes, recipe digits"), ("custom", "shapes", "shapes"), ("digits", "digits", "digits")],
)
def test_the_title_says_the_data_and_the_recipe_as_a_recipe(name, data, title):
    table = tables.summary_table({**SUMMARY, "name": name, "data": data})
    assert table.splitlines()[0] == f"{title}: accuracy on the 400 test examples, %"


def test_lines_of_an_evaluation():
    accuracy = np.array([[10.0, 50.0, 80.0], [12.0, 60.0, 90.0]])
    loss = np.array([[2.5, 1.0, 0.5], [2.3, 1.2, 0.25]])
    text = tables.evaluation_lines(Evaluation((0, 1, 10), accuracy, loss), 400)
    assert text == (
        "2 networks, 400 test examples\n"
        "  after   0 steps: 11.00 ± 1.00 %, loss 2.4000\n"
        "  after    1 step: 55.00 ± 5.00 %, loss 1.1000\n"
        "  after  10 steps: 85.00 ± 5.00 %, loss 0.3750"
    )
    accuracy[1, 1] = loss[1, 1] = np.nan  # not measured
    text = tables.evaluation_lines(Evaluation((0, 1, 10), accuracy, loss), 400)
    assert text.splitlines()[2] == "  after    1 step: 50.00 %, loss 1.0000, of 1 network"
    one = tables.evaluation_lines(Evaluation((0, 1), accuracy[:1, :2], loss[:1, :2]), 7)
    assert one.splitlines()[0] == "1 network, 7 test examples"
    assert one.splitlines()[2] == "  after    1 step: 50.00 %, loss 1.0000"


# Pictures


def make(shape, *, steps=2, epochs=1, classes=4, soft=False):
    random = np.random.RandomState(0)
    labels: Any = np.tile(np.eye(classes, dtype=np.float32), (steps, 1, 1))
    if soft:
        labels = 0.8 * labels + 0.2 / classes
    images: Any = random.normal(size=(steps, classes, *shape)).astype(np.float32)
    log_lrs: Any = np.log(np.linspace(0.01, 0.1, steps * epochs, dtype=np.float32)).reshape(epochs, steps)
    channels = shape[-1] if len(shape) == 3 else 1
    metadata = {
        "class_names": [f"class{i}" for i in range(classes)],
        "transform": {"kind": "standardise", "mean": [0.5] * channels, "std": [0.25] * channels},
        "recipe": Recipe().to_json(),
    }
    return Artifact(DistilledData(images, labels, log_lrs), metadata, None)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, to look into."""
    saved = []
    save = Figure.savefig

    def keep(self, path, **options):
        saved.append(self)
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def decoded(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_one_picture_an_example_with_its_label(tmp_path, figures):
    artifact = make((8, 8, 3), soft=True)
    plots.plot_images(artifact, tmp_path / "images.png")
    (figure,) = figures
    assert len(figure.axes) == 8
    # 0.8 + 0.2 / 4 = 85 %
    assert [axis.get_title() for axis in figure.axes[:4]] == [f"class{i} 85%" for i in range(4)]
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["step 1\nlr 0.01", "step 2\nlr 0.1"]
    for row in (0, 1):
        shown = np.stack([axis.images[0].get_array() for axis in figure.axes[4 * row : 4 * row + 4]])
        assert shown.shape == (4, 8, 8, 3) and shown.min() == 0 and shown.max() == 1
        # The picture is the example itself, up to one scale for its row.
        flat, original = shown.ravel(), np.asarray(artifact.distilled.images[row]).ravel()
        inside = (flat > 0) & (flat < 1)
        assert inside.mean() > 0.95 and np.corrcoef(flat[inside], original[inside])[0, 1] > 0.9999
    pixels = decoded(tmp_path / "images.png")
    assert pixels.shape[1] == pytest.approx(120 * 5.3, abs=2) and pixels.shape[0] == pytest.approx(120 * 2.86, abs=2)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200


def test_an_image_of_two_classes_says_both(tmp_path, figures):
    artifact = make((8, 8, 3))
    shares = [[0.29, 0.71, 0, 0], [0.05, 0.04, 0.9, 0.01], [0.998, 0.002, 0, 0], [0.3, 0.2, 0.2, 0.3]]
    labels = np.tile(np.asarray(shares, np.float32), (2, 1, 1))
    artifact = artifact._replace(distilled=artifact.distilled._replace(labels=labels))
    plots.plot_images(artifact, tmp_path / "images.png")
    told = [axis.get_title() for axis in figures[0].axes[:4]]
    assert told == ["class1 71%\nclass0 29%", "class2 90%", "class0", "class0 30%\nclass3 30%"]


def test_of_very_many_images_some_are_drawn(tmp_path, figures):
    """Evenly spaced, with their own labels, of every class where there is room."""
    artifact = make((6, 6, 1), classes=1000)
    plots.plot_images(artifact, tmp_path / "images.png")
    shown = [axis for axis in figures[0].axes if axis.images]
    expected = [round(i * 999 / 99) for i in range(100)]
    assert [axis.get_title() for axis in shown] == 2 * [f"class{i}" for i in expected]
    assert shown[0].get_ylabel().splitlines()[:2] == ["step 1", "100 of 1000"]
    flat, original = (
        np.ravel(part) for part in (shown[7].images[0].get_array(), artifact.distilled.images[0][expected[7]])
    )
    inside = (flat > 0) & (flat < 1)
    assert np.corrcoef(flat[inside], original[inside])[0, 1] > 0.9999


def test_of_very_many_steps_twenty_are_drawn(tmp_path, figures):
    held = make((6, 6, 1))
    images, labels, log_lrs = held.distilled
    many = DistilledData(np.tile(images, (50, 1, 1, 1, 1)), np.tile(labels, (50, 1, 1)), np.tile(log_lrs, (10, 50)))
    plots.plot_images(held._replace(distilled=many), tmp_path / "images.png")
    told = [axis.get_ylabel().splitlines() for axis in figures[0].axes if axis.get_ylabel()]
    assert [line[0] for line in told] == [f"step {1 + round(i * 99 / 19)}" for i in range(20)]
    assert told[0][1] == "lr 0.01 to 0.01"  # of more epochs than there is room for


def test_names_are_text_whatever_they_are(tmp_path, figures):
    names = ["$x^{$", "a\nb", "\x1b[2J", "price in $ and $"]
    held = make((6, 6, 1))
    held.metadata["class_names"] = names
    plots.plot_images(held, tmp_path / "images.png")
    told = [axis.get_title() for axis in figures[0].axes[:4]]
    assert told == [r"\$x^{\$", "a?b", "?[2J", r"price in \$ and \$"]
    plots.plot_confusion(np.ones((1, 2, 4, 4)), names, tmp_path / "confusion.png")


def test_a_step_of_many_images_takes_rows_of_ten(tmp_path, figures):
    artifact = make((6, 6, 1), classes=24)
    plots.plot_images(artifact, tmp_path / "images.png")
    axes = figures[0].axes
    assert len(axes) == 2 * 3 * 10
    shown = [axis for axis in axes if axis.images]
    assert [axes.index(axis) for axis in shown] == [*range(24), *range(30, 54)]
    assert all(not axis.axison for axis in axes if not axis.images)
    assert [bool(axis.get_ylabel()) for axis in axes] == [i in (0, 30) for i in range(60)]


def test_channels_are_denormalised_each_by_its_own(tmp_path, figures):
    artifact = make((8, 8, 3), steps=1)
    artifact.metadata["transform"]["std"] = [0.1, 0.2, 0.4]
    plots.plot_images(artifact, tmp_path / "images.png")
    shown = np.stack([axis.images[0].get_array() for axis in figures[0].axes])
    spread = shown.std(axis=(0, 1, 2))
    np.testing.assert_allclose(spread[1:] / spread[:-1], 2, rtol=0.25)


def test_hard_labels_are_names_alone_and_grey_is_grey(tmp_path, figures):
    plots.plot_images(make((8, 8, 1)), tmp_path / "images.png")
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes[:4]] == [f"class{i}" for i in range(4)]
    assert axes[0].images[0].get_array().shape == (8, 8) and axes[0].images[0].get_cmap().name == "gray"
    pixels = decoded(tmp_path / "images.png").astype(int)
    assert np.abs(pixels - pixels[..., :1]).max() == 0


@pytest.mark.parametrize(("shape", "expected"), [((1, 1, 1), (1, 1)), ((3, 1, 1), (3, 1)), ((1, 3, 3), (1, 3, 3))])
def test_small_pictures_are_pictures(tmp_path, figures, shape, expected):
    plots.plot_images(make(shape), tmp_path / "images.png")
    assert figures[0].axes[0].images[0].get_array().shape == expected
    assert min(decoded(tmp_path / "images.png").shape[:2]) > 60


@pytest.mark.parametrize(("columns", "names"), [(6, None), (1, None), (3, ["length", "width", "weight"])])
def test_rows_of_a_table_have_names_values_and_a_colour_bar(tmp_path, figures, columns, names):
    """Values in the table's own units, colours as the network reads them."""
    artifact = make((columns,))
    mean, std = np.arange(columns) + 1.0, 200 * np.arange(columns) + 2.0
    transform = Standardise.by(mean, std).to_json()
    metadata = {**artifact.metadata, "transform": transform, **({"feature_names": names} if names else {})}
    plots.plot_images(artifact._replace(metadata=metadata), tmp_path / "images.png")
    axis, bar = figures[0].axes
    rows = np.asarray(artifact.distilled.images).reshape(8, columns)
    np.testing.assert_array_equal(axis.images[0].get_array(), rows)
    assert axis.images[0].get_clim() == (-np.abs(rows).max(), np.abs(rows).max())
    assert [text.get_text() for text in axis.texts] == [
        f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in (rows * std + mean).ravel()
    ]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == (names or [str(i) for i in range(columns)])
    beside = [tick.get_text() for tick in axis.get_yticklabels()]
    assert [text.startswith("step ") for text in beside] == [True, False, False, False] * 2
    classes = np.argmax(artifact.distilled.labels, axis=-1).ravel()
    assert all(artifact.metadata["class_names"][k] in text for k, text in zip(classes, beside, strict=True))
    assert bar.get_ylabel() == "as the network reads it"
    assert min(decoded(tmp_path / "images.png").shape[:2]) > 60


@pytest.mark.parametrize("shape", [(784,), (6, 6, 2)])
def test_what_is_no_picture_is_a_curve_on_the_scale_of_its_step(tmp_path, figures, shape):
    artifact = make(shape)
    plots.plot_images(artifact, tmp_path / "images.png")
    assert len(figures[0].axes) == 8
    for axis, example in zip(figures[0].axes, artifact.distilled.images.reshape(8, -1), strict=True):
        np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), example)
        assert not axis.images
    for row in (0, 1):
        limits = {axis.get_ylim() for axis in figures[0].axes[4 * row : 4 * row + 4]}
        values = artifact.distilled.images[row]
        assert len(limits) == 1 and limits.pop() == pytest.approx(
            (1.1 * values.min() - 0.1 * values.max(), 1.1 * values.max() - 0.1 * values.min())
        )
    assert min(decoded(tmp_path / "images.png").shape[:2]) > 60


def test_a_sequence_is_a_map_from_left_to_right(tmp_path, figures):
    artifact = make((5, 4))
    plots.plot_images(artifact, tmp_path / "images.png")
    for axis, example in zip(figures[0].axes, artifact.distilled.images.reshape(8, 5, 4), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), example.T)
    for row in (0, 1):
        values = artifact.distilled.images[row]
        assert {axis.images[0].get_clim() for axis in figures[0].axes[4 * row : 4 * row + 4]} == {
            (values.min(), values.max())
        }
    assert min(decoded(tmp_path / "images.png").shape[:2]) > 60


@pytest.mark.parametrize("shape", [(8, 8, 1), (6,), (5, 4)])
def test_constant_images_do_not_divide_by_zero(tmp_path, shape):
    artifact = make(shape, steps=1)
    constant = artifact.distilled._replace(images=np.zeros_like(artifact.distilled.images))
    plots.plot_images(artifact._replace(distilled=constant), tmp_path / "images.png")
    decoded(tmp_path / "images.png")


def test_learning_rates_of_ten_steps_and_three_epochs(tmp_path, figures):
    artifact = make((6,), steps=10, epochs=3)
    plots.plot_learning_rates(artifact, tmp_path / "lrs.png")
    (axis,) = figures[0].axes
    *epochs, initial = axis.get_lines()
    assert [line.get_label() for line in epochs] == ["epoch 1", "epoch 2", "epoch 3"]
    lrs = np.exp(np.asarray(artifact.distilled.log_lrs))
    for epoch, line in enumerate(epochs):
        np.testing.assert_array_equal(line.get_xdata(), 10 * epoch + np.arange(1, 11))
        np.testing.assert_array_equal(line.get_ydata(), lrs[epoch])
    assert initial.get_ydata()[0] == Recipe().inner.inner_lr and initial.get_label() == "initial value"
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("inner step", "learning rate", "log")
    assert all(tick == int(tick) for tick in axis.get_xticks())
    assert decoded(tmp_path / "lrs.png").shape[:2] == (384, 780)


@pytest.mark.parametrize("epochs", [2, 20, 100])
def test_learning_rates_of_one_step_an_epoch_are_one_line(tmp_path, figures, epochs):
    held = make((6, 6, 1))
    lrs = np.linspace(0.1, 0.5, epochs)[:, None].astype(np.float32)
    distilled = DistilledData(held.distilled.images[:1], held.distilled.labels[:1], np.log(lrs))
    plots.plot_learning_rates(held._replace(distilled=distilled), tmp_path / "lrs.png")
    (axis,) = figures[0].axes
    line, initial = axis.get_lines()
    assert (line.get_label(), initial.get_label()) == ("one step an epoch", "initial value")
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, epochs + 1))
    np.testing.assert_allclose(line.get_ydata(), lrs[:, 0], rtol=1e-5)


def test_very_many_learning_rates_are_a_map_of_epochs_and_steps(tmp_path, figures):
    artifact = make((6,), steps=21, epochs=3)
    plots.plot_learning_rates(artifact, tmp_path / "lrs.png")
    axis, bar = figures[0].axes
    (shown,) = axis.get_images()
    np.testing.assert_allclose(shown.get_array(), np.exp(np.asarray(artifact.distilled.log_lrs)))
    assert list(shown.get_extent()) == [0.5, 21.5, 3.5, 0.5] and bar.get_ylabel() == "learning rate"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "epoch") and len(
        np.unique(decoded(tmp_path / "lrs.png"))
    ) > 20


def row(step, loss, accuracy):
    return {
        "step": step,
        "loss": loss,
        "valid_loss": loss + 0.1,
        "valid_accuracy": accuracy,
        "valid_accuracy_average": accuracy - 0.1,
        "best_valid_accuracy": accuracy + 0.1,
    }


def test_curve_of_the_outer_loop(tmp_path, figures):
    plots.plot_curve([row(10, 2.0, 0.25), row(20, 1.0, 0.5)], tmp_path / "curve.png")
    left, right = figures[0].axes
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for axis in (left, right) for line in axis.get_lines()}
    expected: dict[str, list[float]] = {
        "training batches": [2.0, 1.0],
        "held-out": [2.1, 1.1],
        "iterate": [25, 50],
        "average of iterates": [15, 40],
        "best so far": [35, 60],
    }
    assert drawn.keys() == expected.keys()
    for label, values in expected.items():
        np.testing.assert_allclose(drawn[label], values)
    for axis in (left, right):
        assert axis.get_xlabel() == "outer step"
        for line in axis.get_lines():
            np.testing.assert_array_equal(line.get_xdata(), [10, 20])
    assert "%" in right.get_ylabel()
    assert decoded(tmp_path / "curve.png").shape[:2] == (384, 1080)


@pytest.mark.parametrize(("last", "scale"), [(1.9, "linear"), (0.01, "log")])
def test_the_loss_has_an_axis_that_reads_well(tmp_path, figures, last, scale):
    plots.plot_curve([row(10, 2.0, 0.25), row(20, last, 0.5)], tmp_path / "curve.png")
    left = figures[0].axes[0]
    figures[0].canvas.draw()
    assert left.get_yscale() == scale
    low, high = left.get_ylim()
    assert sum(low <= tick <= high for tick in left.get_yticks()) >= 2


def test_a_run_of_one_validation_is_drawn_and_one_of_none_has_no_curve(tmp_path):
    artifact = make((6,))
    assert plots.plot_run(artifact, [row(10, 2.0, 0.25)], tmp_path) == [
        tmp_path / name for name in ("images.png", "learning_rates.png", "curve.png")
    ]
    (tmp_path / "alone").mkdir()
    paths = plots.plot_run(artifact, [], tmp_path / "alone")
    assert sorted(paths) == sorted((tmp_path / "alone").iterdir()) and len(paths) == 2


def test_a_lacking_header_is_one_line(tmp_path):
    artifact = make((6,))
    del artifact.metadata["transform"]
    with pytest.raises(InputError, match="^the artefact: the 'ddjax' header lacks transform: "):
        plots.plot_run(artifact, [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_matplotlib_of_the_user_is_left_alone(tmp_path):
    """In a process of its own, with a backend that the user has chosen."""
    script = f"""
import json, sys
import matplotlib
matplotlib.use("svg")
from ddjax.show import plots
from test_report_plots import make, row
from pathlib import Path
plots.plot_run(make((6,)), [row(10, 2.0, 0.25)], Path({str(tmp_path)!r}))
print(json.dumps([matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )
    assert json.loads(result.stdout) == ["svg", False]
    assert len(list(tmp_path.iterdir())) == 3
