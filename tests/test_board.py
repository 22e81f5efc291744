"""What TensorBoard is given: the rows of metrics.jsonl under their names, and the pictures."""

import struct
import sys

import numpy as np
import pytest
from test_cli import in_process

from ddjax.storage.board import Board
from ddjax.storage.frames import read_frames
from ddjax.storage.metrics import read_metrics

WORDS = ("distill", "digits", "--model=linear", "--gate-width=0", "--batch-size=32", "--eval-every=2", "--no-compare")


def events(folder):
    """The events of a folder's files, in order of time: TFRecord, as TensorBoard reads it."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_curves_and_pictures_are_those_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_process(*WORDS, "--outer-steps=4", "--tensorboard")
    scalars, pictures = {}, {}
    for event in events(tmp_path / "runs" / "digits" / "tensorboard"):
        for value in event.summary.value:
            kept = pictures if value.HasField("image") else scalars
            kept[value.tag, event.step] = value.image if value.HasField("image") else value.simple_value
    rows = read_metrics(tmp_path / "runs" / "digits" / "metrics.jsonl")
    expected = {(name, row["step"]): value for row in rows for name, value in row.items() if name != "step"}
    assert scalars == pytest.approx(expected, rel=1e-6) and ("valid_accuracy", 4) in scalars
    assert [step for _, step in pictures] == [2, 4]
    assert {(image.height, image.width) for image in pictures.values()} == {(2 * 28, 8 * 28)}  # ten, eight in a row
    assert read_frames(tmp_path / "runs" / "digits" / "frames.npz")[0].tolist() == [0, 2, 4]


def test_steps_that_are_taken_again_are_hidden(tmp_path):
    pytest.importorskip("tensorboardX")
    board = Board(tmp_path)
    board({"step": 7, "loss": 1.0}, np.zeros((2, 4, 4, 3), np.uint8))
    board.close()
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [7]


def test_without_it_one_line_says_so_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    result = in_process(*WORDS, "--tensorboard")
    assert result.status == 2 and "pip install 'ddjax[tensorboard]'" in result.err
    assert not (tmp_path / "runs").exists()
    assert in_process(*WORDS, "--outer-steps=2").status == 0
    assert not (tmp_path / "runs" / "digits" / "tensorboard").exists()
