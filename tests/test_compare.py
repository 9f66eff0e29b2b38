"""compare.py: its figures against those of the runs and against other computations, its refusals, its width."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import compare
from cli.verb import run_verb
from data.splits import Chosen
from errors import FlagError, UserError
from files import write_json
from metrics import evaluate, paired_change, ranking_metrics
from report.wrap import WIDTH
from resampling import mcnemar
from run.predictions import FIRST_COLUMNS, write_predictions, write_scores
from tests.test_predictions import scored_rows, split_of

USERS = [f"u{i % 7}" for i in range(60)]
HEADING = {"data": "movie", "data_source": "MovieLens-100K", "model": "demo", "demo_model": True}
HEADING |= {"objective": "paper", "kl_weight": 1e-4, "shots": "64", "seed": 0}


def scored(seed):
    return replace(scored_rows(USERS, seed), labels=np.random.default_rng(9).random(60) < 0.6)


def run_folder(path, answers, chosen=None, **changes):
    """A folder as train.py leaves it, as far as compare.py reads it."""
    path.mkdir()
    split = split_of(answers, [f"item {i}" for i in range(60)], range(60), chosen)
    write_predictions(path / "predictions.csv", split, answers)
    test = {"after": evaluate(answers)} | ({"chosen": chosen.as_dict()} if chosen else {})
    write_json(path / "results.json", HEADING | changes | {"test": test})
    return str(path)


@pytest.fixture
def two(tmp_path):
    return run_folder(tmp_path / "a", scored(1)), run_folder(tmp_path / "b", scored(2), objective="tallrec")


def compared(capsys, *argv):
    compare.main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


# ---- figures ------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_runs_to_the_last_digit(two, capsys):
    found = compared(capsys, *two)
    for folder, run in zip(two, found["runs"]):
        expected = json.loads(open(f"{folder}/results.json").read())["test"]["after"]
        assert {name: run[name] for name in expected} == expected


def test_differences_are_second_less_first_with_intervals_of_the_same_users(two, capsys):
    (change,) = compared(capsys, *two)["differences"]
    expected = paired_change(scored(1), scored(2))
    assert {name: change[name] for name in expected} == expected
    assert (change["run"], change["against"]) == (two[1], two[0])


def test_a_run_is_not_different_from_its_copy(tmp_path, capsys):
    a, b = (run_folder(tmp_path / name, scored(1)) for name in "ab")
    (change,) = compared(capsys, a, b)["differences"]
    assert change["auc"] == 0 and change["interval_95"]["auc"] == [0, 0]
    compare.main([a, b])
    shown = capsys.readouterr().out
    assert "+0.000 [-]" in shown and "[-]: no interval, since fewer than two users differ here" in shown
    assert change["mcnemar"]["contradiction_rate"] == {"only_before": 0, "only_after": 0, "p": 1.0}


@pytest.mark.parametrize("only_before, only_after", [(0, 0), (0, 1), (5, 0), (3, 9), (7, 7), (20, 41)])
def test_mcnemar_is_the_two_sided_binomial_test_of_the_discordant_rows(only_before, only_after):
    before = np.array([True] * only_before + [False] * only_after + [True] * 4 + [False] * 3)
    after = np.array([False] * only_before + [True] * only_after + [True] * 4 + [False] * 3)
    n = only_before + only_after
    extreme = abs(only_before - n / 2)
    expected = sum(math.comb(n, k) for k in range(n + 1) if abs(k - n / 2) >= extreme) / 2**n
    assert mcnemar(before, after) == {
        "only_before": only_before,
        "only_after": only_after,
        "p": pytest.approx(min(1.0, expected), rel=1e-12),
    }


def test_mcnemar_of_many_rows_neither_overflows_nor_takes_long():
    before = np.arange(20_000) < 9_000
    found = mcnemar(before, ~before)
    assert (found["only_before"], found["only_after"]) == (9_000, 11_000) and 0 < found["p"] < 1e-40


def test_constants_that_never_contradict_themselves_are_right_as_often_as_users_like_or_dislike(two, capsys):
    likes, dislikes, same = compared(capsys, *two)["constants"].values()
    share = scored(1).labels.mean()
    assert (likes["contradiction_rate"], likes["group_accuracy"]) == (0, share)
    assert (dislikes["contradiction_rate"], dislikes["group_accuracy"]) == (0, pytest.approx(1 - share))
    assert (same["contradiction_rate"], same["group_accuracy"]) == (1, 0)


def test_the_rows_of_most_disagreement_come_first(two, capsys):
    rows = compared(capsys, *two, "--rows", "60")["differences"][0]["rows"]
    a, b = scored(1), scored(2)
    sizes = [abs(a.p_pos[r["row"]] - b.p_pos[r["row"]]) + abs(a.p_neg[r["row"]] - b.p_neg[r["row"]]) for r in rows]
    assert sizes == sorted(sizes, reverse=True) and len({r["row"] for r in rows}) == 60
    row = rows[0]
    assert (row["user"], row["item"]) == (USERS[row["row"]], f"item {row['row']}")
    assert row["first"] == [a.p_pos[row["row"]], a.p_neg[row["row"]]]


def test_a_recommender_beside_a_language_model_has_no_metric_of_answers(two, tmp_path, capsys):
    rows = split_of(scored(1), [f"item {i}" for i in range(60)], range(60)).rows
    (tmp_path / "mf").mkdir()
    scores = np.random.default_rng(4).normal(size=60)
    write_scores(tmp_path / "mf" / "predictions.csv", rows, scores)
    write_json(tmp_path / "mf" / "results.json", {"data": "movie", "method": "mf", "setting": "published"})
    for order in ((two[0], str(tmp_path / "mf")), (str(tmp_path / "mf"), two[0])):
        compare.main([*order, "--json"])
        shown = capsys.readouterr()
        found = json.loads(shown.out)
        run = found["runs"][order.index(str(tmp_path / "mf"))]
        expected = ranking_metrics(scored(1).labels, scores, USERS)
        assert run["auc"] == expected["auc"] and run["interval_95"]["uauc"] == expected["interval_95"]["uauc"]
        assert not {"contradiction_rate", "ece", "kl", "accuracy"} & set(run)
        (change,) = found["differences"]
        assert {"auc", "uauc"} <= set(change) and not {"contradiction_rate", "ece"} & set(change)
        assert change["mcnemar"] == {} and change["rows"] == []
        assert "mf, setting published" in " ".join(shown.err.split()) and "answers no question" in shown.err


def test_recommenders_alone_have_no_table_of_answers(two, tmp_path, capsys):
    rows = split_of(scored(1), [f"item {i}" for i in range(60)], range(60)).rows
    for name, seed in (("a2", 1), ("b2", 2)):
        (tmp_path / name).mkdir()
        write_scores(tmp_path / name / "predictions.csv", rows, np.random.default_rng(seed).normal(size=60))
    compare.main([str(tmp_path / "a2"), str(tmp_path / "b2")])
    shown = capsys.readouterr().out
    assert "AUC" in shown and "constant" not in shown and "McNemar" not in shown


# ---- what it shows -------------------------------------------------------------------------------


def test_the_tables_go_to_standard_output_within_80_columns(two, tmp_path, capsys):
    names = [*two, run_folder(tmp_path / "c", scored(3)), run_folder(tmp_path / "d", scored(4))]
    compare.main([*names, "--rows", "3"])
    shown = capsys.readouterr()
    assert shown.err == "" and max(map(len, shown.out.replace(str(tmp_path), "").splitlines())) <= WIDTH
    assert shown.out.startswith("B against A: ranks ")
    for part in (
        "C - A",
        "D - A",
        "both answers right",
        "whoever is asked",
        "McNemar",
        "disagree most",
        "lambda 0.0001",
    ):
        assert part in shown.out


def test_stand_in_data_and_subsets_are_labelled(tmp_path, capsys):
    chosen = Chosen(list(range(0, 120, 2)), 120)
    names = [
        run_folder(tmp_path / name, scored(i), chosen, data_source="stand-in data (simulated viewers)")
        for i, name in enumerate("ab")
    ]
    compare.main(names)
    shown = capsys.readouterr().out
    assert "60 rows of 120 (a part of the split" in shown and "built-in demo model" in shown


def test_without_results_the_figures_are_there_and_the_data_unknown(two, capsys):
    for folder in two:
        (compare.Path(folder) / "results.json").unlink()
    compare.main([f"{folder}/predictions.csv" for folder in two])
    assert "data unknown" in capsys.readouterr().out


def test_a_file_of_the_version_before_is_compared_and_said_to_have_fewer_digits(two, capsys):
    first = compare.find_predictions(two[0])
    lines = [",".join(FIRST_COLUMNS)]
    for row, p, q in zip(first.rows, first.scored.p_pos, first.scored.p_neg):
        lines.append(f"{','.join(row)},{p:.6f},{q:.6f},{int((p > 0.5) == (q > 0.5))}")
    (compare.Path(two[1]) / "predictions.csv").write_text("\n".join(lines) + "\n")
    compare.main([*two, "--json"])
    shown = capsys.readouterr()
    (change,) = json.loads(shown.out)["differences"]
    assert "6 digits" in shown.err and change["contradiction_rate"] == 0 and "kl" not in change
    assert change["auc"] == pytest.approx(0, abs=1e-3)


# ---- refusals -----------------------------------------------------------------------------------


def refused(capsys, monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["compare.py", *argv])
    with pytest.raises(SystemExit) as ended:
        run_verb(compare.main)
    shown = capsys.readouterr()
    assert ended.value.code == 2 and shown.out == ""
    return shown.err


def test_runs_on_different_rows_are_refused_by_name(two, tmp_path, capsys, monkeypatch):
    other = run_folder(tmp_path / "c", replace(scored(3), labels=~scored(3).labels))
    assert f"{other}/predictions.csv row 1: is user u0, item item 0, label" in refused(capsys, monkeypatch, *two, other)
    short = tmp_path / "d"
    short.mkdir()
    lines = (compare.Path(two[0]) / "predictions.csv").read_text().splitlines(keepends=True)
    (short / "predictions.csv").write_text("".join(lines[:-1]))
    assert f"{short}/predictions.csv: has 59 rows, {two[0]}/predictions.csv has 60" in refused(
        capsys, monkeypatch, two[0], str(short)
    )
    numbered = run_folder(tmp_path / "e", scored(2), Chosen(list(range(1, 61)), 100))
    assert "the number of row 1 is 1, in" in refused(capsys, monkeypatch, two[0], numbered)


def test_a_folder_that_is_no_run_an_unfinished_run_and_a_missing_one_are_told_apart(two, tmp_path, capsys, monkeypatch):
    (tmp_path / "x").mkdir()
    assert "give a folder that train.py, baseline.py or eval.py wrote" in refused(
        capsys, monkeypatch, two[0], str(tmp_path / "x")
    )
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "x" / name).touch()
    assert "the run is not finished" in refused(capsys, monkeypatch, two[0], str(tmp_path / "x"))
    assert "no such folder or file" in refused(capsys, monkeypatch, two[0], str(tmp_path / "y"))


@pytest.mark.parametrize("argv, message", [([], "two or more"), (["a"], "two or more"), (["a", "a"], "twice")])
def test_fewer_than_two_runs_are_refused(argv, message):
    with pytest.raises(FlagError, match=message):
        compare.main(argv)


def test_unknown_flags_are_refused_and_values_are_no_runs(two):
    assert compare.split_arguments(["a", "--rows", "3", "b", "--json", "c"]) == (
        ["a", "b", "c"],
        ["--rows", "3", "--json"],
    )
    with pytest.raises(UserError, match="did you mean --rows"):
        compare.main([*two, "--row=3"])
