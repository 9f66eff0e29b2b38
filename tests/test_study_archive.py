"""reproduce.py archive and verify: everything of a study in one folder, and every change to it is found."""

import json
import shutil

import numpy as np
import pytest

import reproduce
from data.interactions import Interaction
from data.load import load_dataset
from errors import RunError, UserError
from metrics import metric_values
from run.base import base_identity
from studies.archive import digest_of_code, possible_figures
from studies.declared import STUDIES
from studies.results import BASE, Line, read_lines, write_lines
from studies.tables import NAMES, as_latex, measured_rows

ARGV = ["figure3", "--data", "demo", "--kl-weights", "0,1", "--seeds", "1"]


@pytest.fixture(scope="module")
def data():
    return load_dataset("demo", None, False, print, {})


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """(folder of the study, its archive): lines with drawn answers, two runs of figure3, their tables."""
    folder = tmp_path_factory.mktemp("study")
    out = folder / "out"
    study = STUDIES["figure3"].with_kl_weights(["0", "1"])
    names = [BASE, *(name for name in study.runs() if name.endswith("seed=0"))]
    draw, lines = np.random.default_rng(0), {}
    common = {"data": data.fingerprint(), "base": base_identity("demo")["base_fingerprint"], "train_flags": ""}
    for name in names:
        z = np.round(draw.normal(size=(2, len(data.test))), 4)
        figures = metric_values(Line(name, {}, *z).scored(data.test))
        lines[name] = Line(name, common | {"test": figures}, *z)
        (out / name).mkdir(parents=True)
        (out / name / "config.json").write_text('{"flags": {}}')
        (out / name / "predictions.csv").write_text("user,item,label\n4711,12,1\n")
    write_lines(out / "results.jsonl", lines)
    reproduce.main([*ARGV, "--out", str(out), "--table"])
    reproduce.main(["archive", "--out", str(out), "--to", str(folder / "archive")])
    return out, folder / "archive"


@pytest.fixture
def archive(made, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(made[1], tmp_path / "archive")


def verify(folder):
    reproduce.main(["verify", "--archive", str(folder)])


def test_a_study_is_archived_whole_and_without_rows_of_the_data(archive, capsys):
    written = {path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()}
    runs = {f"runs/shots=64-kl-weight={weight}-seed=0/config.json" for weight in (0, 1)} | {"runs/base/config.json"}
    tables = {"figure3.md", "figure3.csv", "figure3.tex", "figure3.png"}
    assert written == {"archive.json", "results.jsonl", "requirements.lock"} | tables | runs
    about = json.loads((archive / "archive.json").read_text())
    assert about["argv"] == [*ARGV[1:], *about["argv"][-3:]] and about["code_sha256"] == digest_of_code()
    assert any(line.startswith("torch==") for line in (archive / "requirements.lock").read_text().splitlines())
    verify(archive)
    shown = capsys.readouterr()
    assert "checks passed" in shown.err and "figure3.md comes out again" in shown.out


def test_every_change_is_found(archive):
    line = (archive / "results.jsonl").read_text()
    (archive / "results.jsonl").write_text(line.replace('"auc": 0.', '"auc": 0.9', 1))
    (archive / "figure3.csv").write_bytes(b"")
    (archive / "more.txt").write_text("x")
    (archive / "requirements.lock").unlink()
    with pytest.raises(RunError, match=r"5 of \d+ checks failed"):
        verify(archive)


def test_a_figure_that_does_not_follow_from_the_answers_is_named(archive, capsys):
    """Someone who changes a figure can correct the checksums, too."""
    lines = read_lines(archive / "results.jsonl")
    name = next(name for name in lines if name != BASE)
    lines[name].about["test"]["group_accuracy"] += 0.01
    write_lines(archive / "results.jsonl", lines)
    about = json.loads((archive / "archive.json").read_text())
    del about["sha256"]["results.jsonl"]
    (archive / "archive.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="2 of"):  # the file is not named any more, and the figure
        verify(archive)
    assert f"{name}: its figures follow from its answers: group_accuracy 0." in capsys.readouterr().out


def test_true_figures_always_lie_within_the_bounds_of_rounded_answers():
    draw = np.random.default_rng(1)
    for scale in (3.0, 0.01, 0.0002):
        rows = [Interaction(int(draw.integers(9)), (), i, bool(draw.integers(2)), i) for i in range(200)]
        z = draw.normal(size=(2, len(rows))) * scale
        found = metric_values(Line("a", {}, *z).scored(rows))

        class Data:
            test = rows

        bounds = possible_figures(Line("a", {}, *np.round(z, 4)), Data)
        assert set(bounds) == set(NAMES)
        for name, (low, high) in bounds.items():
            assert low <= found[name] <= high
        assert scale < 1 or max(high - low for low, high in bounds.values()) < 0.005


def test_a_table_for_latex_has_every_cell_and_no_bare_sign(data, made):
    study = STUDIES["figure3"].with_kl_weights(["0", "1", "2"])
    rows = measured_rows(study, read_lines(made[0] / "results.jsonl"), data)
    text = as_latex(rows, [{"label": 'always Yes to "like" & 50 %', "group_accuracy": 0.5}])
    assert {line.count("&") - line.count(r"\&") for line in text.splitlines() if line.endswith(r"\\")} == {
        len(NAMES) + 1
    }
    assert r"always Yes to ``like'' \& 50 \%" in text and "-- & " * len(NAMES) + "0 of 3" in text


@pytest.mark.parametrize(
    "words, message",
    [
        (["archive"], "--out: is needed; name the folder\n--to: is needed"),
        (["archive", "--out", "nowhere", "--to", "x"], "--out nowhere: holds no study"),
        (["verify", "--archive", "nowhere"], "--archive nowhere: no archive there"),
    ],
)
def test_what_is_missing_is_said_in_a_line(words, message):
    with pytest.raises(UserError, match=message):
        reproduce.main(words)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"form": 1}', '{"form": 2, "study": "x", "argv": [], "base": {}, "sha256": {}}']
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "archive.json").write_text(content)
    with pytest.raises(RunError, match=r"archive\.json: (not what reproduce|is of form 2)"):
        verify(tmp_path)
