"""reproduce.py archive and verify: everything of a study in one folder, and every change to it is found."""

import hashlib
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
from studies.archive import check_runs, digest_of_code, possible_figures
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
        if name != BASE:
            lines[name].about["flags"] = {"lr": 0.1}
            (out / name / "results.json").write_text(json.dumps({"test": {"after": figures}}))
        (out / name / "config.json").write_text('{"flags": {"lr": {"value": 0.1}}}')
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
    folders = [f"runs/shots=64-kl-weight={weight}-seed=0" for weight in (0, 1)]
    runs = {f"{run}/{file}" for run in folders for file in ("config.json", "results.json")} | {"runs/base/config.json"}
    tables = {"figure3.md", "figure3.csv", "figure3.tex", "figure3.png"}
    assert written == {"archive.json", "results.jsonl", "requirements.lock"} | tables | runs
    about = json.loads((archive / "archive.json").read_text())
    assert about["argv"] == [*ARGV[1:], "--out", about["argv"][-1]]  # without --table, which makes no run
    assert about["code_sha256"] == digest_of_code()
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


def test_a_refused_command_is_not_the_one_that_the_archive_names(made, tmp_path):
    out = made[0]
    before = (out / "study.json").read_bytes()
    with pytest.raises(RunError, match="was made with train_flags"):
        reproduce.main(["table4", "--data", "demo", "--out", str(out), "--table", "--", "--valid-rows", "3"])
    assert (out / "study.json").read_bytes() == before


def test_a_table_that_is_missing_is_no_check_that_passes(archive, made, tmp_path, capsys):
    (archive / "figure3.tex").unlink()
    about = json.loads((archive / "archive.json").read_text())
    del about["sha256"]["figure3.tex"]
    (archive / "archive.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="1 of"):
        verify(archive)
    assert "figure3.tex comes out again: is missing" in capsys.readouterr().out
    bare = shutil.copytree(made[0], tmp_path / "bare", ignore=shutil.ignore_patterns("figure3.*"))
    with pytest.raises(RunError, match="has no table of figure3; make it"):
        reproduce.main(["archive", "--out", str(bare), "--to", str(tmp_path / "a")])
    assert not (tmp_path / "a").exists()


def test_a_table_of_another_study_in_the_folder_is_left_out(made, tmp_path):
    both = shutil.copytree(made[0], tmp_path / "both")
    (both / "table4.md").write_text("another study's\n")
    reproduce.main(["archive", "--out", str(both), "--to", str(tmp_path / "archive")])
    assert sorted(path.name for path in (tmp_path / "archive").glob("*.md")) == ["figure3.md"]


def test_flags_without_effect_are_refused(archive, made):
    with pytest.raises(UserError, match="--data-dir: has no effect, since the archive is of --data demo"):
        reproduce.main(["verify", "--archive", str(archive), "--data-dir", str(archive)])
    with pytest.raises(UserError, match="--to .*: already exists; name a folder that is not there yet"):
        reproduce.main(["archive", "--out", str(made[0]), "--to", str(archive)])


def test_a_run_that_says_something_else_than_its_line_is_found_though_its_checksum_is_right(archive, capsys):
    about = json.loads((archive / "archive.json").read_text())
    run = archive / "runs" / "shots=64-kl-weight=1-seed=0"
    for file, old, new in (("config.json", "0.1", "0.2"), ("results.json", '"auc": ', '"auc": 1')):
        (run / file).write_text((run / file).read_text().replace(old, new, 1))
        path = (run / file).relative_to(archive).as_posix()
        about["sha256"][path] = hashlib.sha256((run / file).read_bytes()).hexdigest()
    (archive / "archive.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="2 of"):
        verify(archive)
    shown = capsys.readouterr().out
    assert f"{run.name}: config.json has its flags: another lr than its line" in shown
    assert f"{run.name}: results.json has its figures: another auc than its line" in shown


@pytest.mark.parametrize("content", ['{"test": {"after": 3}}', '{"test": []}', '{"flags": []}', '{"flags": {"lr": 1}}'])
def test_a_run_of_another_form_fails_the_check_and_ends_nothing(archive, content):
    for file in ("results.json", "config.json"):
        (archive / "runs" / "shots=64-kl-weight=1-seed=0" / file).write_text(content)
    assert [check.problem is not None for check in check_runs(archive)] == [False, False, True, True]


def test_a_figure_that_does_not_follow_from_the_answers_is_named(archive, capsys):
    """Someone who changes a figure can correct the checksums, too."""
    lines = read_lines(archive / "results.jsonl")
    name = next(name for name in lines if name != BASE)
    lines[name].about["test"]["group_accuracy"] += 0.01
    write_lines(archive / "results.jsonl", lines)
    about = json.loads((archive / "archive.json").read_text())
    del about["sha256"]["results.jsonl"]
    (archive / "archive.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="3 of"):  # the file is not named any more, and the figure
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
