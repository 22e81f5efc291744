"""`ddjax report`: a run as one page, and a gallery of several."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from test_cli import in_process

import ddjax
from ddjax.evaluation.poisoning import poisoning_summary
from ddjax.experiment.replay import confusion_of_artifact
from ddjax.show import plots

RESULTS = Path(__file__).parents[1] / "results"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds, seen to be well nested: its words, pictures and links."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.words, self.pictures, self.links = [], [], [], []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            self.pictures.append((given["alt"], given["src"]))
        self.links += [given[name] for name in given if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += [data.strip()] if data.strip() else []

    def after(self, word, count=1):
        """The words that follow one."""
        place = self.words.index(word)
        return self.words[place + 1 : place + 1 + count]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs on the built-in digits, one of them poisoned, with a name that HTML has to escape."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"model": "linear", "steps": 2, "epochs": 2, "outer_steps": 20, "eval_every": 10, "batch_size": 32}
    recipe = ddjax.get_recipe("digits").replace(**small, lr=0.2, lr_log_lrs=0.1, inner_lr=0.02, gate_width=0.0)
    ddjax.distill(recipe, folder / "plain", name="a <b> & c", progress=False)
    ddjax.distill(recipe.replace(poison="3:8"), folder / "poisoned", compare=False, progress=False)
    return folder


@pytest.fixture(scope="module")
def told(runs):
    first, last = in_process("report", runs / "plain").out.splitlines()
    assert first.startswith("training networks again") and last == str(runs / "plain" / "report.html")
    return Page(runs / "plain" / "report.html")


def test_the_page_has_the_figures_of_the_run(runs, told):
    summary = json.loads((runs / "plain" / "summary.json").read_text())
    distilled = summary["distilled"]
    assert told.words[0] == told.words[1 + told.words[1:].index("a <b> & c")] == "a <b> & c"
    shown = {what: figure for figure, what in zip(told.words, told.words[1:], strict=False)}
    assert shown["before"] == f"{distilled['accuracy_before_mean']:.2f}"
    assert shown["distilled"] == f"{distilled['accuracy_mean']:.2f}"
    for key, what in (("random_real", "random real"), ("all_data", "all the data")):
        figures = summary[key]
        several = f" ± {figures['accuracy_std']:.2f}" if figures["num_nets"] > 1 else ""
        assert shown[what] == f"{figures['accuracy_mean']:.2f}{several}"
    assert "±" in shown["random real"]
    assert f"Accuracy on {summary['num_test']} test examples, %:" in told.words
    assert any(f"step {summary['best_step']} did best" in word for word in told.words)
    config = json.loads((runs / "plain" / "config.json").read_text())
    (commit,) = told.after("commit")
    assert commit == str(config["origins"][0]["commit"])
    assert told.after("outer_steps") == ["20"] and told.after("lr_log_lrs") == ["0.1"]


def test_the_page_needs_nothing_beside_it(told):
    assert told.links == [] and len(told.pictures) == 5
    for what, source in told.pictures:
        head, _, coded = source.partition(",")
        kind = "gif" if "came about" in what else "png"
        assert head == f"data:image/{kind};base64"
        assert imread(io.BytesIO(base64.b64decode(coded)), format=kind).std() > 0.01


def test_classes_are_counted_as_the_networks_take_them(runs, told):
    counts = confusion_of_artifact(runs / "plain")
    evaluation, num_test = ddjax.evaluate_artifact(runs / "plain")
    assert counts.shape == (1, 3, 10, 10) and counts[0, 0].sum() == num_test
    np.testing.assert_allclose(100 * np.trace(counts, axis1=2, axis2=3) / num_test, evaluation.accuracy)
    names = ddjax.load_artifact(runs / "plain").metadata["class_names"]
    right = 100 * np.array([counts[0, [0, -1], k, k] / counts[0, 0, k].sum() for k in range(10)])
    place = told.words.index("after, %") + 1
    rows = np.array(told.words[place : place + 40]).reshape(10, 4)
    assert rows[:, 0].tolist() == names and rows[:, 1].astype(int).tolist() == counts[0, 0].sum(axis=1).tolist()
    assert rows[:, 2:].tolist() == [[f"{figure:.1f}" for figure in row] for row in right]


def test_a_poisoned_run_is_told_by_its_true_classes(runs):
    in_process("report", runs / "poisoned", "--out", runs / "other.html")
    page = Page(runs / "other.html")
    assert "what the poison does" in [alt for alt, _ in page.pictures] and "Poisoning" in page.words
    taken_for = np.where(np.arange(10) == 3, 8, np.arange(10))
    summary = json.loads((runs / "poisoned" / "summary.json").read_text())
    assert poisoning_summary(confusion_of_artifact(runs / "poisoned"), taken_for) == summary["poisoning"]


def test_a_folder_of_runs_becomes_a_gallery_that_links_their_pages(runs, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(runs, tmp_path / "runs"))
    (folder / "plain" / "report.html").unlink()
    monkeypatch.setattr("ddjax.experiment.replay.confusion_of_artifact", lambda *_, **__: 1 / 0)
    written = [folder / "plain" / "report.html", folder / "poisoned" / "report.html", folder / "report.html"]
    assert in_process("report", folder).out.splitlines() == list(map(str, written))
    page = Page(folder / "report.html")
    assert page.links == ["plain/report.html", "poisoned/report.html"] and len(page.pictures) == 2
    assert all(Page(folder / link).pictures for link in page.links)
    distilled = json.loads((folder / "plain" / "summary.json").read_text())["distilled"]
    assert f"{distilled['accuracy_mean']:.2f}" in page.words


def test_a_file_alone_and_what_is_filed_have_their_page(runs, tmp_path):
    shutil.copy(runs / "plain" / "distilled.safetensors", tmp_path)
    in_process("report", tmp_path / "distilled.safetensors", "--no-test")
    page = Page(tmp_path / "report.html")
    assert len(page.pictures) == 2 and "Where it comes from" not in page.words
    in_process("report", RESULTS / "digits", "--no-test", "--out", tmp_path / "new" / "filed.html")
    page = Page(tmp_path / "new" / "filed.html")
    assert "Where it comes from" in page.words and len(page.pictures) == 2  # there is one rate, and no curve of it


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{}"], "there is no distilled.safetensors in"),
        (["{}/nothing"], "nothing"),
        ([str(RESULTS / "digits"), "--no-test", "--out", "/dev/null/report.html"], "cannot be written"),
        ([str(RESULTS / "digits"), "--out", "{}/report.html", "--data", "nothing.npz"], "there is no such file"),
        ([str(RESULTS / "digits"), "--out", "{}/report.html", "--num-nets", "0"], "--num-nets is 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, says, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    done = in_process("report", *(word.format(folder) for word in words))
    assert done.status == 2 and says in done.err and done.err.count("\n") == 1, done
    assert list(folder.iterdir()) == []


def test_deviations_over_networks_and_poisons_are_drawn(tmp_path):
    counts = np.random.RandomState(0).randint(1, 9, (3, 2, 4, 4))
    plots.plot_poisoning(poisoning_summary(counts, np.array([0, 0, 2, 3])), tmp_path / "poison.png")
    plots.plot_confusion(counts, ["a", "b", "c", "d"], tmp_path / "confusion.png")
    for name in ("poison", "confusion"):
        assert imread(tmp_path / f"{name}.png").std() > 0.05
