"""reproduce.py with recommenders: searches come first, ranks are kept, and the published figures stand beside ours."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from data.interactions import Interaction
from errors import DataError, RunError
from metrics import auc
from studies import calls
from studies.bench import Bench, known_lines
from studies.declared import STUDIES
from studies.page import study_page
from studies.published import PUBLISHED
from studies.results import BASE, Line, read_lines, write_lines
from studies.runs import make_runs, wanted_runs
from studies.study import BASELINE, EVAL, TRAIN, Setting, Study
from studies.tables import differences, markdown, measured_rows, terminal
from studies.texts import outcome_of, shown, texts_of

# What baseline.py leaves, without any training. A run whose setting is not there yet fails.
STUB = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
out = Path(value("--out"))
out.mkdir(exist_ok=True)
with open(out.parent / "calls.jsonl", "a") as file:
    file.write(json.dumps({"run": out.name, "words": words}) + "\\n")
if "--setting" in words and not (Path(value("--setting")) / "results.json").exists():
    sys.exit("no setting there")
if (out.parent / "broken").exists():
    sys.exit("baseline.py: error: it is broken today")
(out / "config.json").write_text(json.dumps({"flags": {"seed": {"value": 0}}, "versions": {}}))
scores = [1e-9, 2e-9, 3e-9, 2e-9]
lines = ["user,item,label,score,row,timestamp", *(f"{i // 2},{i},{i % 2},{s!r},{i},0" for i, s in enumerate(scores))]
(out / "predictions.csv").write_text("\\n".join(lines) + "\\n")
results = {"test": {"after": {"auc": 0.5, "uauc": None}}, "bert": "BertModel of 1 layer"}
results |= {"setting": value("--setting") if "--setting" in words else "searched"}
results |= {"settings": {"lr": 0.1, "bert": str(out.parent)}}
(out / "results.json").write_text(json.dumps(results))
"""
SEARCHED = Setting("GRU4Rec", "16", 3, {"method": "gru4rec", "bias": ""}, BASELINE, trials=5)
TITLES = Setting("GRU-BERT", "16", 1, {"method": "gru-bert"}, BASELINE, needs_bert=True)
STUDY = Study("recommenders", (TITLES, SEARCHED))
SEEDS = SEARCHED.run_names()
ROWS = [Interaction(i // 2, (), i, bool(i % 2), i) for i in range(4)]


class _Data:
    name, test, train = "movie", ROWS, ROWS

    def __init__(self, source="movielens-100k"):
        self.source = source


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A Bench whose baseline.py is the stub, with three processes and no BERT."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(calls, "VERBS", {BASELINE: stub})
    return Bench(tmp_path / "out", tmp_path / "results.jsonl", {"data": "d"}, {BASELINE: ("--data", "d")}, 3, 1)


def made_calls(bench):
    return {
        line["run"]: line["words"] for line in map(json.loads, (bench.out / "calls.jsonl").read_text().splitlines())
    }


def test_the_first_seed_searches_and_the_others_take_its_setting(bench, capsys):
    assert SEEDS[1] == "shots=16-bias-method=gru4rec-seed=1"
    make_runs(STUDY, bench)
    made = made_calls(bench)
    common = ["--data", "d", "--shots", "16", "--seed"]
    flags = ["--method", "gru4rec", "--bias"]
    assert made[SEEDS[0]][2:] == [*common, "0", *flags, "--search", "--trials", "5"]
    assert made[SEEDS[2]][2:] == [*common, "2", *flags, "--setting", str(bench.out / SEEDS[0])]
    assert set(made) == set(SEEDS) and "left out: 1 runs that read titles" in capsys.readouterr().err


def test_no_line_names_a_folder_of_the_machine(bench):
    lines = make_runs(STUDY, bench)
    assert str(bench.out) not in bench.results.read_text()
    assert [lines[name].about["setting"] for name in SEEDS] == ["searched", SEEDS[0], SEEDS[0]]
    assert lines[SEEDS[1]].about["settings"] == {"lr": 0.1}


def test_with_a_bert_the_runs_that_read_titles_are_made(bench):
    with_bert = Bench(*(getattr(bench, name) for name in ("out", "results", "common", "words", "jobs", "threads")), "B")
    assert len(wanted_runs(STUDY, with_bert)) == 4
    make_runs(STUDY, with_bert)
    assert made_calls(bench)[TITLES.run_names()[0]][-2:] == ["--bert", "B"]


def test_runs_whose_search_failed_are_named_and_not_started(bench):
    bench.out.mkdir()
    (bench.out / "broken").touch()
    with pytest.raises(RunError) as failed:
        make_runs(STUDY, bench)
    assert str(failed.value).splitlines()[1:] == [f"{name}: not run, since {SEEDS[0]} has failed" for name in SEEDS[1:]]
    assert set(made_calls(bench)) == {SEEDS[0]}


def test_a_line_keeps_the_order_of_scores_exactly_and_nothing_else(bench):
    lines = make_runs(STUDY, bench)
    record = json.loads(bench.results.read_text().splitlines()[0])
    assert record["rank"] == [0, 1, 2, 1] and "z_pos" not in record and record["verb"] == BASELINE
    assert BASE not in lines and lines[SEEDS[0]].scored(ROWS).score.tolist() == [0, 1, 2, 1]
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=50) * 1e-8, draw.random(50) < 0.5
    write_lines(bench.results, {"a": Line("a", {}, scores)})
    assert auc(labels, read_lines(bench.results)["a"].z_pos) == auc(labels, scores)


def test_where_the_base_was_asked_a_part_of_the_rows_every_row_of_the_table_is_of_this_part(bench):
    lines = make_runs(STUDY, bench)
    lines[BASE] = Line(BASE, {"rows": [1, 2]}, np.zeros(2), np.zeros(2))
    base, _, gru = measured_rows(STUDY, lines, _Data())
    assert gru.values["auc"].tolist() == [0.0] * 3 and base.values["auc"].tolist() == [0.5]  # 1e-9 < 3e-9, label 0
    lines[BASE] = Line(BASE, {}, np.zeros(4), np.zeros(4))
    lines[SEEDS[1]] = Line(SEEDS[1], {"rows": [1, 2]}, np.zeros(2))
    with pytest.raises(DataError, match="has no answer to 2 of the rows on which the study is measured"):
        measured_rows(STUDY, lines, _Data())


def test_published_figures_stand_beside_ours_but_never_beside_stand_in_data(bench):
    lines = make_runs(STUDY, bench)
    rows = measured_rows(STUDY, lines, _Data())
    text = markdown(rows, [{"label": "a rule", "auc": 0.5, "interval_95": {}}])
    assert "| published AUC, UAUC | run again by others |" in text and "| 3 | 0.4907 |  |" in text
    assert "| GRU-BERT, 16 shots | not run |" in text and "| 0 of 1 | 0.5085 |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert "published" not in markdown(measured_rows(STUDY, lines, _Data("stand-in")), [])
    sweep = measured_rows(STUDIES["figure3"], lines, _Data())
    assert [row.label for row in sweep if row.published] == ["LCFT, lambda 1e-4, 64 shots"]
    book = _Data()
    book.name = "book"
    assert [row.label for row in measured_rows(STUDIES["figure3"], lines, book) if row.published] == [
        "LCFT, lambda 1e-5, 64 shots"
    ]
    assert "GRU4Rec, 16 shots" in terminal(rows, []) and differences(STUDY, lines, _Data()) == []


def test_every_published_row_is_a_row_of_a_study():
    rows = {(setting.method, setting.shots) for study in STUDIES.values() for setting in study.settings}
    few, full = set(PUBLISHED["movie"]), set(PUBLISHED["ml-1m"])
    assert few == set(PUBLISHED["book"]) and len(few) == 24 and full == set(PUBLISHED["amazon-book"])
    assert few <= rows and full <= rows
    assert (PUBLISHED["movie"]["LCFT", "64"].auc, PUBLISHED["book"]["TALLRec", "256"].auc) == (0.7157, 0.6438)
    assert all(setting.verb in (TRAIN, BASELINE, EVAL) for study in STUDIES.values() for setting in study.settings)


@pytest.mark.parametrize(
    "changed, refused",
    [
        ({"base": "other", "train_flags": "--valid-rows 9 -- --epochs 5"}, None),
        ({"train_flags": "--lr 1 -- --epochs 6"}, "was made with train_flags '--epochs 5', .* says '--epochs 6'"),
        ({"train_flags": "--lr 1"}, "was made with train_flags '--epochs 5', .* says ''"),
        ({"data": "other"}, "was made with data"),
    ],
)
def test_a_line_of_a_recommender_is_of_its_data_and_its_own_flags_alone(bench, changed, refused):
    """It may stand in the table of any base."""
    common = {"data": "d", "base": "b", "train_flags": "--lr 1 -- --epochs 5"}
    write_lines(bench.results, {"mf": Line("mf", common | {"verb": BASELINE}, np.zeros(2))})
    other = Bench(bench.out, bench.results, common | changed, bench.words, 1, 1)
    with pytest.raises(RunError, match=refused) if refused else nullcontext():
        assert set(known_lines(other)) == {"mf"}


def test_a_study_of_recommenders_alone_names_no_base_and_has_no_columns_of_answers(bench):
    """Nor figures that its rows do not define: here no user has both a liked and a disliked row."""
    alone, data = Study("recommenders", (SEARCHED,)), _Data()
    data.test = data.train = [replace(row, user=number) for number, row in enumerate(ROWS)]
    lines = make_runs(alone, replace(bench, common={"train_flags": "--valid-rows 9 -- --epochs 5"}))
    outcome = outcome_of("s", alone, lines, data, {"model": "m", "demo_model": True, "model_label": None})
    assert outcome.heading == "movie (movielens-100k); test split" and not outcome.demo
    texts = texts_of(outcome)
    head, _, row, *rules = (line for line in texts["s.md"].splitlines() if line.startswith("|"))
    assert head.startswith("| | AUC | runs | ") and row.startswith("| GRU4Rec, 16 shots | 0.") and "nan" not in row
    assert rules and not [rule for rule in rules if "always" in rule]
    assert texts["s.md"].endswith("Flags of every run: --epochs 5\n")
    assert "contradiction" not in "".join([*texts.values(), shown(outcome)]) and "uauc" not in texts["s.csv"]
    page = study_page(outcome, bench.out, lines, ())
    assert "demo model" not in page and "weights of the base" not in page and "What it answers" not in page
    assert "<th>AUC</th>" in page and "AUC of both answers" not in page
