"""The frames that a run keeps of its pictures, and the animation made of them."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from test_cli import in_process

import ddjax
from ddjax.experiment.outer import make_frame
from ddjax.experiment.setup import set_up
from ddjax.show.animation import animate
from ddjax.storage import frames as storage
from ddjax.storage.frames import Frames, read_frames

SMALL = {"model": "linear", "gate_width": 0.0, "outer_steps": 6, "eval_every": 2, "batch_size": 32}


def picture(value, channels=1):
    return np.full((3, 4, 5, channels), value, np.uint8)


def test_frames_are_kept_in_order_and_dropped_past_the_step_that_a_run_goes_on_from(tmp_path):
    path = tmp_path / "frames.npz"
    kept = Frames(path, 0)
    for step in (0, 10, 20, 30):
        kept.append(step, picture(step))
    again = Frames(path, 20)
    again.append(40, picture(40))
    steps, frames = read_frames(path)
    assert steps.tolist() == [0, 10, 20, 40] and frames[:, 0, 0, 0, 0].tolist() == [0, 10, 20, 40]
    assert frames.shape == (4, 3, 4, 5, 1)


def test_of_many_every_second_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MOST", 4)
    kept = Frames(tmp_path / "frames.npz", 0)
    for step in range(0, 150, 10):
        kept.append(step, picture(step))
        steps, _ = read_frames(tmp_path / "frames.npz")
        assert len(steps) <= 4 and len(set(np.diff(steps))) <= 1  # evenly spaced
    assert steps.tolist() == [0, 40, 80, 120]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_begun_anew(tmp_path, content):
    path = tmp_path / "frames.npz"
    path.write_bytes(content)
    assert not animate(path, tmp_path / "training.gif") and not (tmp_path / "training.gif").exists()
    Frames(path, 5).append(10, picture(1))
    assert read_frames(path)[0].tolist() == [10]


@pytest.mark.parametrize(
    "arrays",
    [
        {"steps": np.arange(2), "frames": np.zeros((2, 1, 4, 4, 5), np.uint8)},
        {"steps": np.arange(2), "frames": np.zeros((2, 0, 4, 4, 1), np.uint8)},
        {"steps": np.array(["a", "b"]), "frames": np.zeros((2, 1, 4, 4, 1), np.uint8)},
        {"steps": np.arange(2), "frames": np.zeros((2, 10, 4000, 4000, 1), np.uint8)},  # 0.3 GB
        {"steps": np.array([None, 1])},
        {"steps": np.array(3), "frames": np.array(3, np.uint8)},
    ],
)
def test_what_are_no_frames_are_not_drawn(tmp_path, arrays):
    np.savez_compressed(tmp_path / "frames.npz", **arrays)
    assert not animate(tmp_path / "frames.npz", tmp_path / "training.gif")
    np.save(tmp_path / "frames.npy", np.zeros(3))
    assert not animate(tmp_path / "frames.npy", tmp_path / "training.gif")
    with (tmp_path / "frames.npz").open("wb") as file:  # of other pictures
        np.savez(file, steps=np.arange(2), frames=np.zeros((2, 1, 9, 9, 1), np.uint8))
    Frames(tmp_path / "frames.npz", 5).append(10, picture(1))
    assert read_frames(tmp_path / "frames.npz")[0].tolist() == [10]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_animation_has_a_frame_for_each_and_stays_on_the_last(tmp_path, channels):
    kept = Frames(tmp_path / "frames.npz", 0)
    for step in (0, 5, 10):
        kept.append(step, np.random.RandomState(step).randint(0, 256, (12, 8, 8, channels), np.uint8))
    assert animate(tmp_path / "frames.npz", tmp_path / "training.gif")
    with Image.open(tmp_path / "training.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (10 * 66, 2 * 66 + 14)
        shown, durations = [], []
        for number in range(3):
            gif.seek(number)
            durations.append(gif.info["duration"])
            shown.append(np.array(gif.convert("RGB"), np.int64))
    assert durations == [120, 120, 2500]
    first = np.random.RandomState(0).randint(0, 256, (12, 8, 8, channels), np.uint8)[0]
    corner = shown[0][14 : 14 + 64 : 8, 0:64:8]
    assert np.abs(corner - np.broadcast_to(first, (8, 8, 3))).mean() < 12  # a GIF has 256 colours
    assert np.abs(shown[0] - shown[2]).mean() > 10


def test_one_frame_is_no_animation(tmp_path):
    Frames(tmp_path / "frames.npz", 0).append(0, picture(0))
    assert not animate(tmp_path / "frames.npz", tmp_path / "training.gif")


def test_a_run_keeps_its_start_and_every_validation_and_draws_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    printed = in_process("distill", "digits", *words, "--no-compare", "--lr", "0.5").out
    assert "runs/digits/training.gif" in printed
    steps, frames = read_frames(tmp_path / "runs" / "digits" / "frames.npz")
    assert steps.tolist() == [0, 2, 4, 6] and frames.shape == (4, 10, 28, 28, 1)
    assert all(np.any(a != b) for a, b in pairwise(frames))
    with Image.open("runs/digits/training.gif") as gif:
        assert gif.n_frames == 4
    in_process("plot", "runs/digits", "--out", "drawn")
    assert (tmp_path / "drawn" / "training.gif").read_bytes() == (tmp_path / "runs/digits/training.gif").read_bytes()
    in_process("report", "runs/digits", "--no-test")
    assert "data:image/gif;base64," in (tmp_path / "runs" / "digits" / "report.html").read_text()


def test_a_frame_is_what_the_picture_of_the_result_shows():
    experiment = set_up(ddjax.get_recipe("digits").replace(**SMALL))
    images = np.random.RandomState(0).normal(size=(2, 30, 28, 28, 1)).astype(np.float32)
    distilled = ddjax.DistilledData(images, np.zeros((2, 30, 10), np.float32), np.zeros((1, 2), np.float32))
    shown = make_frame(experiment)(distilled)
    assert shown.shape == (20, 28, 28, 1) and shown.dtype == np.uint8
    low, high = np.percentile(images[0, :20], (1, 99))
    expected = np.clip(255 * (images[0, :20] - low) / (high - low), 0, 255)
    np.testing.assert_allclose(shown, expected, atol=1.01)


def test_what_is_no_picture_has_no_frames(tmp_path):
    rng = np.random.RandomState(0)
    dataset = ddjax.make_dataset((rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3))
    recipe = ddjax.get_recipe("digits").replace(**SMALL)
    ddjax.distill(recipe, tmp_path / "run", dataset=dataset, compare=False, progress=False)
    assert not (tmp_path / "run" / "frames.npz").exists()
