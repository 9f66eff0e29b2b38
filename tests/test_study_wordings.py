"""A study whose runs are asked in all wordings: what is asked and resumed, the tables against brute force."""

import bz2
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import reproduce
from cli.flags import parse_flags
from cli.train import TrainFlags, check_flags, presets
from data.interactions import Interaction
from data.questions import TALLREC
from errors import DataError, RunError
from resampling import user_resamples
from studies import calls
from studies.archive import LINES, make_archive
from studies.bench import Bench
from studies.command import without_device, words_for_eval
from studies.declared import STUDIES
from studies.results import BASE, Line, read_lines, write_lines
from studies.runs import missing_runs
from studies.study import EVAL, TRAIN, Setting, Study, asking
from studies.wordings import (
    HELD_OUT,
    asked_differences,
    asked_rows,
    constants_and_rules,
    figures_of,
    figures_of_lines,
    wording_texts,
)

CONTROL = Setting("control", "16", 2, {"kl-weight": "0"})
SEVERAL = Setting("control, 2 negatives", "16", 2, {"kl-weight": "0", "train-negatives": "2"})
STUDY = Study("asked in all wordings", (CONTROL, SEVERAL), wordings=True)
PART = ["--", "--max-steps", "1", "--valid-rows", "4", "--test-rows", "12", "--device", "cpu"]

# ---- what is run --------------------------------------------------------------------------------


def test_the_base_and_every_run_of_a_language_model_are_asked_after_they_are_made():
    recommender = Setting("MF", "all", 1, {"method": "mf"}, "baseline.py")
    names = Study("", (CONTROL, recommender), wordings=True).runs()
    first, second = CONTROL.run_names()
    assert list(names) == [asking(BASE), first, asking(first), *recommender.run_names(), second, asking(second)]
    assert [run.after for run in names.values()] == [(), (), (first,), (), (), (second,)]
    assert [run.verb for run in names.values()] == [EVAL, TRAIN, EVAL, "baseline.py", TRAIN, EVAL]
    asked = {name for name, study in STUDIES.items() if any(run.asks for run in study.runs().values())}
    assert asked == {"wordings", "whole-bundle"}


def test_the_declared_study_asks_at_most_twelve_settings_and_its_plain_runs_are_those_of_others():
    study = STUDIES["wordings"]
    assert len(study.settings) == 12 and {setting.shots for setting in study.settings} == {"64"}
    assert len({setting.label for setting in study.settings}) == 12 and len(study.runs()) == 1 + 2 * 12 * 3
    trained = {name for name, run in study.runs().items() if not run.asks}
    assert len(trained & set(STUDIES["consistency"].runs())) == 3 * 3  # TALLRec, the control, LCFT


def test_a_line_from_elsewhere_is_made_again_only_where_its_folder_is_needed(tmp_path):
    bench = Bench(tmp_path, tmp_path / "r", {}, {}, 1, 1)
    first, second = CONTROL.run_names()
    wanted = {name: run for name, run in STUDY.runs().items() if "negatives" not in name}
    lines = dict.fromkeys([asking(BASE), first, asking(first), second])
    assert list(missing_runs(wanted, lines, bench)) == [second, asking(second)]
    (tmp_path / second).mkdir()
    (tmp_path / second / "results.json").touch()
    assert list(missing_runs(wanted, lines, bench)) == [asking(second)]
    assert list(missing_runs(wanted, lines | {asking(second): None}, bench)) == []


@pytest.mark.parametrize("name", STUDIES)
def test_train_takes_the_flags_of_every_declared_setting(name):
    for setting in STUDIES[name].settings:
        if setting.verb == TRAIN:
            words = ["--data", "demo", "--shots", setting.shots]
            words += [word for flag, value in setting.flags.items() for word in (f"--{flag}", value) if word]
            parse_flags(TrainFlags, words, "", presets, check_flags)


def test_eval_is_told_what_train_was_told_about_how_a_model_is_asked():
    flags = ["--valid-rows", "9", "--test-rows=30", "--device", "cuda:1", "--lr", "1", "--precision", "fp32"]
    words = words_for_eval([*flags, "--drop-long", "--max-len", "99"])
    pairs = {"--rows": "30", "--device": "cuda:1", "--precision": "fp32", "--max-len": "99"}
    assert sorted(words) == sorted([*(word for pair in pairs.items() for word in pair), "--drop-long"])
    assert without_device(flags) == [word for word in flags if word not in ("--device", "cuda:1")]
    assert without_device(["--device=cuda", "--lr", "2"]) == ["--lr", "2"]


def test_a_run_interrupted_before_it_was_asked_is_asked_and_not_trained_again(tmp_path, monkeypatch):
    """From the command line to the tables, with the demo model; the figures are those of eval.py itself."""
    study = Study("one setting", (Setting("control", "16", 1, {"kl-weight": "0"}),), wordings=True)
    monkeypatch.setitem(STUDIES, "wordings", study)
    stub = tmp_path / "stub.py"
    stub.write_text('raise SystemExit("eval.py: error: interrupted")')
    out, results = tmp_path / "out", tmp_path / "results.jsonl.bz2"
    argv = ["wordings", "--data", "demo", "--out", str(out), "--results", str(results), "--jobs", "2"]
    (run,) = study.settings[0].run_names()
    with monkeypatch.context() as patched:
        patched.setitem(calls.VERBS, EVAL, stub)
        with pytest.raises(RunError, match=f"{asking(run)}: eval.py: error: interrupted"):
            reproduce.main([*argv, *PART])
    assert set(read_lines(results)) == {BASE, run}
    trained = (out / run / "results.json").stat().st_mtime_ns
    (out / asking(run) / "consistency.json").write_text("half")  # of an eval.py that was killed
    reproduce.main([*argv, *PART])
    lines = read_lines(results)
    assert set(lines) == {BASE, run, asking(BASE), asking(run)}
    assert (out / run / "results.json").stat().st_mtime_ns == trained
    told = json.loads((out / asking(run) / "results.json").read_text())  # what eval.py --wordings --json says
    (row,) = (row for row in csv_rows(out / "wordings-questions.csv") if row[0].startswith("control"))
    values = row[1]
    kinds = {kind: [r for r in told["wordings"]["rows"] if r["held_out"] and r["kind"] == kind] for kind in HELD_OUT}
    for kind, questions in kinds.items():
        assert values[f"inconsistent, {kind}"] == pytest.approx(np.mean([q["inconsistent_rate"] for q in questions]))
    bundles = told["wordings"]["bundles"]
    for name in ("all_right", "all_consistent", "informative_all_right"):
        assert values[name] == pytest.approx(bundles["all"][name])
    assert values["auc"] == pytest.approx(told["auc"])
    assert values["inconsistent, negations trained on"] == pytest.approx(told["contradiction_rate"])
    assert lines[asking(run)].about["rows"] == lines[run].about["rows"]
    assert np.abs(lines[asking(run)].z_neg - lines[run].z_neg).max() < 1e-3
    # On another machine, from the lines alone, and of another device: the same study.
    again = ["--table", "--out", str(tmp_path / "new"), *PART[:-1], "cuda"]
    reproduce.main([*argv[:3], "--results", str(results), *again])
    for file in ("wordings.md", "wordings-questions.md"):
        assert (tmp_path / "new" / file).read_text() == (out / file).read_text()


def csv_rows(path):
    """[(label, {metric: mean})] of a table."""
    found: dict = {}
    for line in csv.DictReader(io.StringIO(Path(path).read_text())):
        found.setdefault(line["row"], {})[line["metric"]] = float(line["mean"])
    return list(found.items())


# ---- lines --------------------------------------------------------------------------------------

TRAINED_ON = {"will like", "will dislike", "will not like"}


def questions(trained=TRAINED_ON):
    order = ["will like", "will dislike", *(q for q in TALLREC.kinds if q not in ("will like", "will dislike"))]
    return [
        {
            "asks": words,
            "kind": TALLREC.kinds[words],
            "trained_on": words in trained,
            "held_out": words in TALLREC.held_out,
            "same_answer_is_right": TALLREC.same_answer(words),
        }
        for words in order
    ]


def rows_of_test(count=40, users=7):
    draw = np.random.default_rng(0)
    return [Interaction(int(draw.integers(users)), (), i, bool(draw.integers(2)), i) for i in range(count)]


def asked_line(name, seed, trained=TRAINED_ON, count=40):
    z = np.round(np.random.default_rng(seed).normal(size=(len(TALLREC.kinds), count)), 4)
    return Line(name, {"questions": questions(trained), "verb": EVAL}, z[0], z[1], z[2:])


@pytest.mark.parametrize("name", ["results.jsonl", "results.jsonl.bz2"])
def test_answers_to_all_questions_come_back_compressed_or_not(tmp_path, name):
    path, line = tmp_path / name, asked_line("a", 1)
    write_lines(path, {"a": line})
    once = path.read_bytes()
    write_lines(path, read_lines(path))
    assert path.read_bytes() == once and (once[:2] == b"BZ") == name.endswith("bz2")
    back = read_lines(path)["a"]
    assert back.about == line.about and np.array_equal(back.more, line.more)
    rows = rows_of_test()
    assert np.array_equal(back.all_answers(rows, [3, 5])[:, 2], line.more[0][[3, 5]])


def test_malformed_answers_and_a_damaged_file_are_refused(tmp_path):
    path = tmp_path / "results.jsonl.bz2"
    write_lines(path, {"a": asked_line("a", 1)})
    record = json.loads(bz2.decompress(path.read_bytes()))
    for change in (
        {"more": record["more"][1:]},
        {"more": [row[1:] for row in record["more"]]},
        {"questions": [{}] * 18},
        {"questions": [question | {"held_out": 1} for question in record["questions"]]},
    ):
        path.write_bytes(bz2.compress(json.dumps(record | change).encode()))
        with pytest.raises(DataError, match="line 1: not a result of reproduce.py"):
            read_lines(path)
    for content in (b"", b"{}", bz2.compress(b"x" * 99)[:-9]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a results file of .bz2"):
            read_lines(path)


# ---- tables -------------------------------------------------------------------------------------


class _Data:
    name, source = "movie", "files"

    def __init__(self, rows):
        self.test, self.train = rows, rows


def brute(line, rows, chosen):
    """Every measure of the rows `chosen`, by loops."""
    asked, z = line.about["questions"], np.vstack((line.z_pos, line.z_neg, line.more))

    def liked(k, i):
        return (z[k, i] > 0) == asked[k]["same_answer_is_right"]

    def right(k, i):
        return liked(k, i) == rows[i].label

    groups = {kind: [k for k, q in enumerate(asked) if q["held_out"] and q["kind"] == kind] for kind in HELD_OUT}
    groups["negations trained on"] = [1, 5]
    assert [asked[k]["asks"] for k in (1, 5)] == ["will dislike", "will not like"]
    found = {}
    for group, members in groups.items():
        found[f"inconsistent, {group}"] = np.mean([liked(k, i) != liked(0, i) for i in chosen for k in members])
        found[f"both right, {group}"] = np.mean([right(0, i) and right(k, i) for i in chosen for k in members])
    part = [0, *(k for k, q in enumerate(asked) if q["held_out"])]
    share = np.mean([rows[i].label for i in chosen])
    best = max(share, 1 - share)
    for members, consistent, informative in (
        (range(len(asked)), "all_consistent", "informative_all_right"),
        (part, "held_out_consistent", "held_out_informative"),
    ):
        found[consistent] = np.mean([len({liked(k, i) for k in members}) == 1 for i in chosen])
        found[informative] = np.mean([all(right(k, i) for k in members) for i in chosen]) - best
    found["all_right"] = found["informative_all_right"] + best
    score = [np.mean([z[k, i] if q["same_answer_is_right"] else -z[k, i] for k, q in enumerate(asked)]) for i in chosen]
    labels = [rows[i].label for i in chosen]
    for name, scores in (("informative_asked_once", z[0, chosen]), ("informative_combined", score)):
        found[name] = np.mean([(a > 0) == y for a, y in zip(scores, labels)]) - best
    for name, scores in (("auc", z[0, chosen]), ("auc_all", score)):
        pairs = [(a > b) + 0.5 * (a == b) for a, y in zip(scores, labels) if y for b, n in zip(scores, labels) if not n]
        found[name] = np.mean(pairs)
    return found


def test_figures_and_their_draws_equal_a_brute_force():
    rows, line = rows_of_test(), asked_line("a", 3)
    line.more[:, ::3] = np.where(
        [[q["same_answer_is_right"]] for q in questions()[2:]], 1.0, -1.0
    )  # some bundles agree
    line.z_pos[::3], line.z_neg[::3] = 1.0, -1.0
    values, draws = figures_of(line.about["questions"], rows, line.all_answers(rows, list(range(len(rows)))))
    assert values == pytest.approx(brute(line, rows, np.arange(len(rows)))) and 0 < values["all_consistent"] < 1
    weights, _ = user_resamples([row.user for row in rows], 0)
    for draw in range(3):
        chosen = np.repeat(np.arange(len(rows)), weights[draw].astype(int))
        assert {name: drawn[draw] for name, drawn in draws.items()} == pytest.approx(brute(line, rows, chosen))


def lines_of_study():
    lines, seed = {asking(BASE): asked_line("b", 0, set())}, 1
    for setting, trained in ((CONTROL, {"will like", "will dislike"}), (SEVERAL, TRAINED_ON)):
        for name in setting.run_names():
            lines[asking(name)] = asked_line(name, seed := seed + 1, trained)
    return lines


def test_rows_are_means_over_seeds_and_differences_are_paired():
    rows, lines = rows_of_test(), lines_of_study()
    figures = figures_of_lines(lines, _Data(rows))
    base, control, several = asked_rows(STUDY, figures)
    assert "inconsistent, negations trained on" not in base.values and (control.runs, control.planned) == (2, 2)
    (change,) = asked_differences(STUDY, figures)
    assert change.label == "control, 2 negatives, lambda 0, 16 shots, minus the control"
    for name in ("inconsistent, hedged", "informative_all_right", "auc_all"):
        assert np.allclose(change.values[name], several.values[name] - control.values[name])
        assert np.allclose(change.draws[name], several.draws[name] - control.draws[name])
    del figures[asking(CONTROL.run_names()[0])]
    assert asked_differences(STUDY, figures)[0].runs == 1 and asked_rows(STUDY, figures)[1].runs == 1


def test_constants_never_contradict_the_bundle_and_none_is_informative():
    rows = rows_of_test()
    share = np.mean([row.label for row in rows])
    liked, disliked, yes, *rules = constants_and_rules(lines_of_study(), _Data(rows))
    assert liked.values["all_right"] == share and disliked.values["all_right"] == pytest.approx(1 - share)
    assert all(
        one.values["all_consistent"] == 1 and one.values["inconsistent, hedged"] == 0 for one in (liked, disliked)
    )
    assert yes.values["inconsistent, negated verb"] == 1 and yes.values["inconsistent, double negation"] == 0
    assert yes.values["all_consistent"] == 0
    assert max(one.values["informative_all_right"] for one in (liked, disliked, yes)) <= 1e-9 and len(rules) == 3


def test_every_table_has_all_rows_and_what_was_not_asked_says_so():
    rows, lines = rows_of_test(), lines_of_study()
    for name in SEVERAL.run_names():
        del lines[asking(name)]
    texts, shown = wording_texts("w", STUDY, lines, _Data(rows), "heading")
    text = texts["w-questions.md"]
    assert text.startswith("heading\n") and text.count("| control, 2 negatives, lambda 0, 16 shots | not run") == 3
    assert max(map(len, shown.splitlines())) <= 80 and "not run" in shown and "as if everybody" in shown
    assert wording_texts("w", STUDY, {}, _Data(rows), "heading")[1].count("not run") == 3 * 4  # and no line fails


def test_an_archive_holds_lines_that_were_compressed(tmp_path):
    """It names its file results.jsonl."""

    out, results = tmp_path / "out", tmp_path / "r.jsonl.bz2"
    out.mkdir()
    write_lines(results, lines_of_study())
    study = {"study": "wordings", "argv": [], "base": {}, "results": str(results)}
    (out / "study.json").write_text(json.dumps(study))
    (out / "wordings.md").write_text("a table")
    make_archive(out, tmp_path / "archive", read_lines(results))
    assert set(read_lines(tmp_path / "archive" / LINES)) == set(lines_of_study())
