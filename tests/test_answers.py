"""consistency.json: what is written is read again to the last digit, and everything else is refused in a line."""

import json
from dataclasses import replace

import numpy as np
import pytest

import eval as eval_verb
from consistency import bundle_metrics
from errors import DataError, FlagError
from metrics import evaluate
from report.answers import answers_table
from run.answers import Answers, measure_answers, read_answers, write_answers
from run.thresholds import best_threshold, thresholds_for

RNG = np.random.default_rng(5)
WORDS = ["will like", "will dislike", "will not like", "will not dislike"]


def some_answers(rows=40):
    known = [(f"u{i % 7}", f"i{i}", bool(RNG.random() < 0.6)) for i in range(rows)]
    same, odds = np.array([True, False, False, True]), RNG.normal(size=(rows, 4)) * 4
    return Answers("a model", "invented", "test", WORDS, same, known, odds, {"rule": RNG.normal(size=rows)})


def written(tmp_path, **changes):
    """A small valid file as an object; changes: of its fields."""
    content = {
        "format": "consistency",
        "version": 1,
        "model": "anybody's",
        "data": {"name": "mine", "split": "test"},
        "questions": [{"words": "will like", "right": "same"}, {"words": "will dislike", "right": "opposite"}],
        "rows": [
            {"user": "a", "item": 1, "label": 1, "p_yes": [0.9, 0.25]},
            {"user": None, "item": "x", "label": 0, "p_yes": [0.5, 1]},
        ],
    } | changes
    path = tmp_path / "consistency.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


def test_what_is_written_is_read_again_to_the_last_digit(tmp_path):
    first = some_answers()
    first = replace(first, rows=[(None, "ü", True), *first.rows[1:]])
    write_answers(tmp_path / "a.json", first)
    again = read_answers(tmp_path / "a.json")
    assert (again.odds == first.odds).all() and (again.same == first.same).all() and again.rows == first.rows
    assert (again.model, again.data, again.split, again.questions) == ("a model", "invented", "test", WORDS)
    assert (again.rules["rule"] == first.rules["rule"]).all() and again.fingerprint() == first.fingerprint()
    write_answers(tmp_path / "b.json", again)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_probabilities_become_log_odds_and_none_is_infinite(tmp_path, capsys):
    found = read_answers(written(tmp_path))
    np.testing.assert_allclose(found.odds, [[np.log(9), -np.log(3)], [0, 53 * np.log(2)]])
    assert found.rows == [("a", "1", True), (None, "x", False)]
    assert "1 of 4 probabilities are 0 or 1" in capsys.readouterr().err


def test_a_file_is_measured_as_a_model_is_and_its_bundle_beside(tmp_path):
    answers = some_answers()
    found, scored = measure_answers(answers), answers.scored
    assert {name: found[name] for name in evaluate(scored)} == evaluate(scored)
    assert found["bundle"] == bundle_metrics(answers.odds, scored.labels, answers.same, scored.users)
    last = (answers.odds[:, 3] > 0) == (answers.odds[:, 0] > 0)  # "will not dislike": the same answer is right
    assert found["questions"][3]["inconsistent_rate"] == pytest.approx(1 - last.mean())
    assert [row["right_rate"] for row in found["questions"]] == [found["bundle"][f"right_{k}"] for k in range(4)]
    assert found["questions"][1]["inconsistent_rate"] == pytest.approx(found["contradiction_rate"])
    table = answers_table(found)
    assert max(map(len, table.splitlines())) <= 80 and "All 4 answers right" in " ".join(table.split())
    assert 'Yes to "like", No to "dislike"' in table and "rule" in table


FAULTS = {
    "no object": ([], "holds no JSON object"),
    "another format": ({"format": "x"}, '"format" must be "consistency"'),
    "a later version": ({"version": 2}, '"version" is 2, this program reads 1'),
    "a version that is true": ({"version": True}, '"format" must be'),
    "nothing but a format": ({"model": None}, '"model" is missing'),
    "a field too many": ({"modle": "x"}, "'modle' is no field"),
    "a model with a bell": ({"model": "\a"}, '"model" is'),
    "no name of the data": ({"data": {"split": "test"}}, '"data" must have'),
    "data that are a text": ({"data": "mine"}, '"data" must have'),
    "one question": ({"questions": [{"words": "w", "right": "same"}]}, '"questions" must be a list of 2'),
    "opposite first": ({"questions": [{"words": "w", "right": "opposite"}] * 2}, "question 1"),
    "a question without words": ({"questions": [{"right": "same"}] * 2}, 'question 1: "words"'),
    "a question twice": (
        {"questions": [{"words": "w", "right": "same"}, {"words": "w", "right": "opposite"}]},
        "question 2: has the words of question 1; keep one of them",
    ),
    "no rows": ({"rows": []}, '"rows" must be a list of 1'),
    "a row that is a list": ({"rows": [[]]}, "row 1: must be an object"),
    "rules of another length": ({"rules": {"r": [1]}}, "rule 'r': must be a list of 2"),
    "an infinite rule": ({"rules": {"r": [1, 1e300]}}, "finite"),
    "rules that are a list": ({"rules": []}, '"rules" must be'),
    "another fingerprint": ({"data": {"name": "m", "split": "t", "rows_sha256": "0"}}, '"rows_sha256" is'),
}
ROWS = {
    "no user": ({"item": 1, "label": 1, "p_yes": [0, 0]}, '"user" must be'),
    "a user that is a number with a comma": ({"user": 1.5, "item": 1, "label": 1, "p_yes": [0, 0]}, '"user" must be'),
    "no item": ({"user": 1, "item": None, "label": 1, "p_yes": [0, 0]}, '"item" must be'),
    "a label that is true": ({"user": 1, "item": 1, "label": True, "p_yes": [0, 0]}, '"label" is True'),
    "too few answers": ({"user": 1, "item": 1, "label": 1, "p_yes": [0]}, "must be a list of 2 numbers"),
    "a probability above 1": ({"user": 1, "item": 1, "label": 1, "p_yes": [0, 1.01]}, "from 0 to 1"),
    "NaN": ({"user": 1, "item": 1, "label": 1, "p_yes": [0, float("nan")]}, '"p_yes" has nan; a number from 0 to 1'),
    "an infinite one": ({"user": 1, "item": 1, "label": 1, "z": [0, float("inf")]}, '"z" has inf; a number from'),
    "an answer that is a text": ({"user": 1, "item": 1, "label": 1, "p_yes": [0, "1"]}, "from 0 to 1"),
    "huge log-odds": ({"user": 1, "item": 1, "label": 1, "z": [0, 10**400]}, "from -1e+300 to 1e+300"),
    "both": ({"user": 1, "item": 1, "label": 1, "z": [0, 0], "p_yes": [0, 0]}, "'p_yes' is no field"),
}


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_in_a_line(change, message, tmp_path):
    path = written(tmp_path, **change) if isinstance(change, dict) else tmp_path / "list.json"
    if isinstance(change, list):
        path.write_text(json.dumps(change))
    one_line_each(path, message)


@pytest.mark.parametrize("row, message", ROWS.values(), ids=ROWS)
def test_a_fault_of_a_row_is_named_with_its_number(row, message, tmp_path):
    assert one_line_each(written(tmp_path, rows=[row]), message).startswith("row 1: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{", b"[" * 10**5, b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}", b'"\\ud800"', b"null"],
    ids=["empty", "no text", "cut off", "deep", "NaN", "a long number", "half a letter", "null"],
)
def test_what_is_not_json_or_means_harm_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    one_line_each(tmp_path / "a.json", "")


def test_a_key_that_a_row_has_twice_is_refused_and_a_byte_order_mark_is_none_of_the_text(tmp_path):
    path = written(tmp_path)
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    again = read_answers(path)
    path.write_text(text)
    assert again.rows == read_answers(path).rows
    path.write_text(text.replace('"label": 1', '"label": 1, "label": 0', 1))
    one_line_each(path, "'label' stands twice in one object; keep one of them")


def test_a_folder_in_the_place_of_the_file_is_called_one(tmp_path):
    with pytest.raises(DataError) as refusal:
        read_answers(tmp_path)
    assert str(refusal.value) == f"{tmp_path}: is a folder; put a plain file there"


def test_rows_that_repeat_a_user_and_an_item_are_counted_aloud(tmp_path, capsys):
    row = {"user": 1, "item": 1, "label": 1, "p_yes": [0.5, 0.5]}
    rows = [row, row, row | {"label": 0}, row | {"item": 2}, row | {"user": None}, row | {"user": None}]
    assert len(read_answers(written(tmp_path, rows=rows)).rows) == 6
    assert "2 rows repeat a user and an item; 1 such pairs have both labels. All count" in capsys.readouterr().err


def one_line_each(path, message):
    with pytest.raises(DataError) as refusal:
        read_answers(path)
    lines = str(refusal.value).split("\n")
    assert all(line.isprintable() and line.startswith(f"{path}: ") and len(line) < 500 for line in lines)
    assert message in str(refusal.value)
    return lines[0].removeprefix(f"{path}: ")


def test_many_faults_are_told_of_in_ten_lines(tmp_path):
    rows = [{"user": 1, "item": 1, "label": 2, "p_yes": [0, 0]}] * 50
    with pytest.raises(DataError) as refusal:
        read_answers(written(tmp_path, rows=rows))
    assert len(str(refusal.value).split("\n")) == 11


# ---- thresholds of other rows -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_no_threshold_has_more_right_answers_than_the_one_that_is_chosen(seed):
    draw = np.random.default_rng(seed)
    z = np.round(draw.normal(size=draw.integers(1, 30)) * 3, int(draw.integers(3)))  # with ties
    wanted = draw.random(len(z)) < draw.random()

    def right(t):
        return ((z > t) == wanted).sum()

    chosen = best_threshold(z, wanted)
    tried = np.unique([0, *z, *(z + 1e-9), *(z - 1e-9), -99, 99])
    assert right(chosen) == max(map(right, tried))
    nearer = [t for t in tried if abs(t) < abs(chosen) and right(t) == right(chosen)]
    gap = [(a, b) for a, b in zip([-np.inf, *np.unique(z)], [*np.unique(z), np.inf]) if a <= chosen < b]
    assert right(0) < right(chosen) or chosen == 0
    assert all(any(a <= t < b for a, b in gap) for t in nearer)  # no other gap is as good and nearer


def test_thresholds_of_other_rows_move_where_yes_begins_and_not_the_order(tmp_path, capsys):
    first = some_answers(60)
    moved = np.array([2.0, -1.0, 0.5, 3.0])
    truth = np.array([liked for *_, liked in first.rows])[:, None] == first.same
    biased = replace(first, odds=np.where(truth, 1.0, -1.0) + moved)  # right, but for where Yes begins
    other = replace(biased, rows=[(f"v{user}", item, liked) for user, item, liked in first.rows])
    np.testing.assert_allclose(thresholds_for(biased, other, "v.json"), [2.0, -1.0, 0.0, 3.0])
    write_answers(tmp_path / "a.json", biased)
    write_answers(tmp_path / "v.json", other)
    eval_verb.main(["--predictions", str(tmp_path / "a.json"), "--json"])
    before = json.loads(capsys.readouterr().out)
    eval_verb.main(["--predictions", str(tmp_path / "a.json"), "--thresholds-from", str(tmp_path / "v.json"), "--json"])
    shown = capsys.readouterr()
    after = json.loads(shown.out)
    assert before["bundle"]["all_right"] < 1 and after["bundle"]["all_right"] == 1 and after["group_accuracy"] == 1
    assert after["auc"] == before["auc"] == 1 and after["thresholds"] == dict(zip(WORDS, [2.0, -1.0, 0.0, 3.0]))
    assert "chosen on other rows, question by question: +2.00, -1.00, +0.00, +3.00." in " ".join(shown.err.split())


def test_thresholds_are_not_taken_from_the_rows_that_are_measured_or_from_other_questions(tmp_path):
    first = some_answers()
    write_answers(tmp_path / "a.json", first)
    write_answers(tmp_path / "c.json", replace(first, rows=[("else", "x", True), *first.rows[1:]]))
    unknown = replace(first, rows=[(None, item, liked) for _, item, liked in first.rows])
    write_answers(tmp_path / "d.json", unknown)
    write_answers(tmp_path / "b.json", replace(first, questions=[*WORDS[:3], "will not hate"]))
    for name, message in (
        ("a.json", "has the rows that are measured; choose thresholds on others"),
        ("c.json", "has 39 of the users and items that are measured; choose thresholds on others"),
        ("d.json", "has the rows that are measured; choose thresholds on others"),
        ("b.json", "asks other questions; name answers to the same ones, in the same order"),
    ):
        with pytest.raises(DataError) as refusal:
            measured = "d.json" if name == "d.json" else "a.json"
            words = ["--predictions", str(tmp_path / measured), "--thresholds-from", str(tmp_path / name)]
            eval_verb.main(words)
        assert str(refusal.value) == f"{tmp_path / name}: {message}"
    with pytest.raises(FlagError, match="--thresholds-from: has no effect without --predictions"):
        eval_verb.main(["--model", "demo", "--thresholds-from", str(tmp_path / "a.json")])


# ---- the command line ---------------------------------------------------------------------------


def test_eval_measures_a_file_and_asks_no_model(tmp_path, capsys):
    write_answers(tmp_path / "a.json", some_answers())
    eval_verb.main(["--predictions", str(tmp_path / "a.json"), "--out", str(tmp_path / "out"), "--json"])
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((tmp_path / "out" / "results.json").read_text())
    assert json.loads(shown.out)["questions"][2]["asks"] == "will not like" and "All 4 answers right" in shown.err


def test_a_run_is_not_overwritten_by_the_measures_of_a_file(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for out, what in (
        ("run", "is a run folder, whose results.json this would replace; choose another"),
        ("file", "is not a folder"),
    ):
        with pytest.raises(FlagError) as refusal:
            eval_verb.main(["--predictions", str(written(tmp_path)), "--out", str(tmp_path / out)])
        assert str(refusal.value) == f"--out {tmp_path / out}: {what}"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json"]


def test_flags_of_a_model_are_refused_with_a_file(tmp_path):
    with pytest.raises(FlagError) as refusal:
        eval_verb.main(["--predictions", str(written(tmp_path)), "--model", "demo", "--negations"])
    assert str(refusal.value).split("\n") == [
        f"{name}: has no effect with --predictions, which asks no model" for name in ("--model", "--negations")
    ]
    with pytest.raises(FlagError, match="already exists"):
        eval_verb.main(["--model", "demo", "--predictions-out", str(written(tmp_path))])


def test_what_eval_writes_gives_what_eval_measured(tmp_path, capsys):
    file = tmp_path / "consistency.json"
    eval_verb.main(["--model", "demo", "--data", "demo", "--rows", "12", "--predictions-out", str(file), "--json"])
    told = json.loads(capsys.readouterr().out)
    eval_verb.main(["--predictions", str(file), "--json"])
    found = json.loads(capsys.readouterr().out)
    of_vocabulary = {"auc_published_score", "answer_mass", "kl", "js"}
    for name in ("auc", "auc_combined", "contradiction_rate", "arbitrage", "informative_consistency", "uauc"):
        assert found[name] == told[name] and name not in of_vocabulary
    assert found["constants"] == told["constants"] and found["rules"].keys() == told["rules"].keys()
    for name, rule in found["rules"].items():  # in a file, any ranking; eval.py's are shares, which decide
        assert (rule["auc"], rule["uauc"]) == (told["rules"][name]["auc"], told["rules"][name]["uauc"])
    assert not of_vocabulary & set(found) and found["counts"] == told["counts"]
