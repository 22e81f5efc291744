"""The commands of tests/long/ in short, so that they work when somebody wants them long."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddjax.data.catalogue import CATALOGUE

LONG = Path(__file__).parent / "long"


def command(name: str):
    spec = importlib.util.spec_from_file_location(f"long_{name}", LONG / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mutations(in_haste):
    return command("mutations")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, mutations):
    return mutations.prepared(tmp_path_factory.mktemp("intact"))


def test_what_is_damaged_is_read_or_refused(mutations, kinds, capfd):
    assert mutations.run(kinds, 300, seed=1) == []
    told = capfd.readouterr().out
    assert "300 inputs in " in told and told.count(" refused ") == 10


def test_mutants_are_of_their_number_alone(mutations, kinds):
    def made(number: int) -> list[bytes]:
        return [kind.mutant(mutations.random.Random(f"0 {number}")) for kind in kinds.values()]

    assert made(3) == made(3) != made(4)


def test_what_an_input_does_wrong_is_found(mutations, tmp_path, monkeypatch):
    """Another exception, too much memory, too much time."""
    monkeypatch.setattr(mutations, "SECONDS", 1)
    monkeypatch.setattr(mutations, "MEMORY", 2**27)
    path = tmp_path / "file"
    path.write_bytes(b"intact")

    def wrong(read) -> str:
        chance = mutations.random.Random(0)
        kind = mutations.Kind(path, b"intact", lambda chance, content: content, read, 1)
        return " ".join(mutations.outcome(kind, chance))

    def forever():
        while True:
            pass

    def refuse():
        raise mutations.ddjax.InputError("no")

    assert wrong(lambda: None) == "read " and wrong(refuse) == "refused "
    assert wrong(lambda: {}["x"]) == "FOUND KeyError: 'x'"
    assert wrong(forever).startswith("FOUND ")
    assert "MB more than before" in wrong(lambda: mutations.np.ones(2**28, mutations.np.uint8).sum())


@pytest.mark.parametrize("name", ["usps", "cifar10"])
def test_downloads_that_are_damaged_are_refused(tmp_path, name):
    before = dict(CATALOGUE)
    downloads = command("downloads")
    assert downloads.run(tmp_path, [name], most=5) == []
    assert before == CATALOGUE


def test_archives_that_lead_out_of_themselves_are_made(tmp_path):
    downloads = command("downloads")
    cifar = downloads.RAW["cifar10"]({split: downloads.random_pictures((32, 32, 3), 20) for split in ("train", "test")})
    made = dict(downloads.damaged(cifar, 1024, downloads.random.Random(0)))
    names = {what.rpartition(" by ")[2]: files for what, files in made.items() if "members by" in what}
    assert set(names) == {"..", "absolute", "symbolic link", "hard link", "device"}
    with downloads.tarfile.open(fileobj=downloads.io.BytesIO(names[".."]["archive"])) as archive:
        assert all(name.startswith("../") for name in archive.getnames())


def test_a_run_is_looked_at(tmp_path):
    steps = command("steps")
    this = SimpleNamespace(pid=os.getpid())
    assert steps.look(this, tmp_path, 0.0) is None  # before its first validation
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").write_bytes(b"x" * 1000)
    seen = steps.look(this, tmp_path, 0.0)
    assert (seen.steps, seen.folder) == (10, 1000) and seen.memory > 1e7 and seen.files > 2
    before, after = steps.quarters([seen._replace(seconds=i, steps=7 * i) for i in range(16)])
    assert len(before) == len(after) == 4 and steps.speed(after) == pytest.approx(7)


def test_a_fuzzer_reads_files_and_says_what_it_found(tmp_path, capsys, monkeypatch):
    fuzz = command("fuzz")
    pytest.importorskip("atheris", reason="the extra ddjax[fuzz] is not installed")
    assert fuzz.run(["metrics"], 3, tmp_path) == [] and not list(tmp_path.iterdir())
    assert int(capsys.readouterr().out.split()[1]) > 10

    def broken(words, **options):
        return SimpleNamespace(returncode=77, stdout="stat::number_of_executed_units: 5\nstat::new_units_added: 2\n")

    monkeypatch.setattr(fuzz.subprocess, "run", broken)
    assert fuzz.run(["metrics", "npz"], 3, tmp_path) == ["metrics", "npz"]
    assert "5 read,     2 of which reached something new, status 77" in capsys.readouterr().out
