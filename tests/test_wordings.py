"""Several wordings of either question in training, all of them in evaluation, and wordings of one's own."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import audit
import eval as eval_verb
import predict
import train
from cli.train import TrainFlags
from data.interactions import Dataset, Interaction, Item
from data.own_wording import filled, parse_own_wording, read_own_wording
from data.prompts import WORDINGS, prompt_pair, wording_of
from data.questions import KINDS, OPPOSITE, SAME, drawn_questions, possible_questions
from data.sources.stand_in import stand_in
from errors import DataError, FlagError, RunError
from metrics import Scored
from report.wordings import wording_matrix_table
from run.folder import read_run_config
from run.wording import in_words_of, seen_in_training, training_questions
from scoring.splits import wording_matrix

ROOT = Path(__file__).parent.parent
GERMAN = ROOT / "docs/wordings-de.json"
DOUBLE = ROOT / "docs/wordings-double-negation.json"

# ---- the questions ------------------------------------------------------------------------------


@pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)
def test_questions_are_all_different_and_training_never_asks_what_is_held_out(wording):
    q = wording.questions
    words = [*q.positives, *q.negatives, *q.held_out]
    assert len(words) == len(set(words)) == len(q.kinds) and len(q.positives) == 4 and len(q.negatives) == 8
    assert set(q.positives.values()) <= set(SAME) and set(q.negatives.values()) <= set(OPPOSITE)
    assert set(q.held_out.values()) == set(KINDS)  # each kind is held out once, at least
    assert set(q.negations) <= set(words)


def test_the_order_in_which_training_takes_them():
    q = WORDINGS["tallrec"].questions
    assert list(q.positives)[:2] == ["will like", "is going to like"]
    assert list(q.negatives)[:4] == ["will dislike", "will not like", "will hate", "will be unlikely to like"]
    assert q.held_out["will not dislike"] == "double negation" and q.same_answer("will not dislike")


def test_a_draw_is_balanced_and_a_function_of_the_seed():
    q = WORDINGS["tallrec"].questions
    drawn = drawn_questions(q, 2, 4, 66, seed=3)
    assert drawn == drawn_questions(q, 2, 4, 66, seed=3) != drawn_questions(q, 2, 4, 66, seed=4)
    assert set(drawn) <= set(possible_questions(q, 2, 4)) and len(possible_questions(q, 2, 4)) == 8
    for side, count in ((0, 2), (1, 4)):
        counts = Counter(words[side] for words in drawn)
        assert len(counts) == count and max(counts.values()) - min(counts.values()) <= 1
    assert len(set(drawn)) == 8  # one side says nothing about the other
    assert drawn_questions(q, 1, 1, 5, seed=3) == [("will like", "will dislike")] * 5


@pytest.mark.parametrize("template", ["tallrec", "printed"])
def test_a_pair_is_asked_in_its_words_and_nothing_else_changes(template):
    data = stand_in()
    for row in data.train[:3]:
        plain = prompt_pair(row, data, template)
        pair = prompt_pair(row, data, template, ("is going to like", "will hate"))
        assert pair.positive.replace("is going to like", "will like") == plain.positive != pair.positive
        assert pair.negative.replace("will hate", "will dislike") == plain.negative != pair.negative
        assert (pair.answer_positive, pair.answer_negative) == (plain.answer_positive, plain.answer_negative)


def flags(**values):
    return TrainFlags(data="demo", **values)


def test_more_wordings_than_there_are_are_refused_in_a_line_each():
    with pytest.raises(FlagError) as refusal:
        training_questions(stand_in(), 4, flags(train_negatives=9, train_paraphrases=5))
    assert str(refusal.value).splitlines() == [
        "--train-paraphrases 5: the wording has 4 of them; choose 1 to 4",
        "--train-negatives 9: the wording has 8 of them; choose 1 to 8",
    ]


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--objective", "tallrec", "--train-negatives", "2"],
            "--train-negatives: has no effect with",
        ),
        (
            ["--template", "released", "--train-paraphrases", "2"],
            "--train-paraphrases: --template released",
        ),
        (["--train-negatives", "0"], "--train-negatives 0: must be from 1"),
    ],
)
def test_flags_without_effect_are_refused(argv, message):
    with pytest.raises(FlagError) as refusal:
        train.main(["--data", "demo", *argv])
    assert str(refusal.value).startswith(message)


def test_what_training_saw_follows_from_the_flags_of_the_run():
    def config(**values):
        return {"flags": {name: {"value": value} for name, value in values.items()}}

    data = stand_in()
    of_two = seen_in_training(data, config(objective="js", train_negatives=2, train_paraphrases=1))
    assert of_two == {"will like", "will dislike", "will not like"}
    assert seen_in_training(data, config(objective="paper")) == {"will like", "will dislike"}  # an earlier version's
    assert seen_in_training(data, config(objective="tallrec", train_paraphrases=2)) == {"will like", "is going to like"}
    assert seen_in_training(data, config(objective="collm")) == {"will like"}
    assert seen_in_training(data, config(objective="lcft-colmf")) == {"will like", "will dislike"}
    assert seen_in_training(data, {"flags": {}}) == set()


# ---- the matrix ---------------------------------------------------------------------------------


def test_the_matrix_equals_plain_loops():
    rng = np.random.default_rng(0)
    q, n = WORDINGS["tallrec"].questions, 40
    z = {question: rng.normal(size=n) * 3 for question in q.kinds}
    labels, users = rng.random(n) < 0.6, [i // 4 for i in range(n)]
    scored = Scored(users, labels, odds=np.stack([z["will like"], z["will dislike"]], 1))
    trained = {"will like", "will dislike", "will hate"}
    found = wording_matrix(scored, z, q, trained)
    assert [row["asks"] for row in found["rows"]] == list(q.kinds)
    first = z["will like"]
    for row in found["rows"]:
        odds, same = z[row["asks"]], row["same_answer_is_right"]
        assert same == (row["kind"] in ("paraphrase", "double negation"))
        assert row["trained_on"] == (row["asks"] in trained)
        wrong = sum((a > 0) == (b > 0) for a, b in zip(first, odds))
        wrong = n - wrong if same else wrong
        assert row["inconsistent_rate"] == pytest.approx(wrong / n)
        right = sum((b > 0) == (label if same else not label) for b, label in zip(odds, labels))
        assert row["right_rate"] == pytest.approx(right / n)
        arbitrage = 0.0
        for a, b in zip(first, odds):
            p, like = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b if same else b))
            arbitrage -= 2 * math.log(math.sqrt(p * like) + math.sqrt((1 - p) * (1 - like))) / n
        assert row["arbitrage"] == pytest.approx(arbitrage, rel=1e-9, abs=1e-12)
    for name, members in (("all", list(q.kinds)), ("asked in training", [w for w in q.kinds if w in trained])):
        says = [[(z[w][i] > 0) == q.same_answer(w) for w in members] for i in range(n)]
        bundle = found["bundles"][name]
        assert bundle["asks"] == members
        assert bundle["all_right"] == pytest.approx(sum(set(s) == {bool(y)} for s, y in zip(says, labels)) / n)
        assert bundle["all_consistent"] == pytest.approx(sum(len(set(s)) == 1 for s in says) / n)
    assert set(found["bundles"]) == {"all", "asked in training", "held out"}
    assert found["constant"]["right_rate"] == max(labels.mean(), 1 - labels.mean())
    table = wording_matrix_table(found)
    assert max(map(len, table.splitlines())) <= 80 and all(f"  {w[:26]:26}" in table for w in q.kinds)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_model_that_understands_has_a_matrix_without_a_fault():
    q = WORDINGS["collm"].questions
    labels = np.array([True, False, True, True])
    likes = np.where(labels, 2.0, -2.0)
    z = {words: likes if q.same_answer(words) else -likes for words in q.kinds}
    found = wording_matrix(
        Scored([1, 2, 3, 4], labels, odds=np.stack([likes, -likes], 1)), z, q, {"would enjoy", "would dislike"}
    )
    assert all(row["inconsistent_rate"] == 0 and row["right_rate"] == 1 == row["auc"] for row in found["rows"])
    assert all(row["arbitrage"] == pytest.approx(0, abs=1e-15) for row in found["rows"])
    assert all(bundle["all_right"] == bundle["all_consistent"] == 1 for bundle in found["bundles"].values())


# ---- a wording of one's own ---------------------------------------------------------------------

GOOD = {
    "prompt": "Liked: {liked}. Not: {disliked}. Does this reader {question} {target}, a {noun}?\nAnswer:\n",
    "answers": {"yes": "Aye", "no": "Nay"},
    "positives": {"love": "paraphrase", "adore": "paraphrase"},
    "negatives": {"loathe": "antonym", "not love": "negated verb"},
    "held_out": {"not loathe": "double negation"},
    "noun": "poem",
}
ROW = Interaction(1, ((1, True), (2, False)), 3, False)
DATA = Dataset("d", "s", "movie", {1: Item("A {question}"), 2: Item("B"), 3: Item("C {x}", "Author")}, [], [], [])


def written(tmp_path, content):
    path = tmp_path / "wordings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_own_wording_letter_by_letter(tmp_path):
    data = in_words_of(DATA, str(written(tmp_path, GOOD)), {})
    assert data.noun == "poem"
    pair = prompt_pair(ROW, data, question=("adore", "not love"))
    begins = 'Liked: "A {question}". Not: "B". Does this reader '
    ends = ' "C {x}" written by Author, a poem?\nAnswer:\n'
    assert (pair.positive, pair.negative) == (begins + "adore" + ends, begins + "not love" + ends)
    assert (pair.answer_positive, pair.answer_negative) == ("Nay", "Aye")
    assert prompt_pair(ROW, data, question="not loathe").answer_negative == "Nay"  # the same as to love
    assert "love" in prompt_pair(ROW, data).positive and "loathe" in prompt_pair(ROW, data).negative
    with pytest.raises(FlagError, match="--template printed: .* choose tallrec"):
        prompt_pair(ROW, data, "printed")
    again = in_words_of(DATA, None, {"wording": data.wording})  # as a run's config.json has it
    assert again == data and again.fingerprint() != DATA.fingerprint()


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


FAULTS = {
    "is not JSON": "{",
    "'noun' stands twice in one object; keep one of them": '{"noun": "film", "noun": "book"}',
    "is not a JSON object": [GOOD],
    "'extra' is not known": GOOD | {"extra": 1},
    "prompt is missing": without("prompt"),
    "answers is missing": without("answers"),
    "positives is missing": without("positives"),
    "negatives is missing": without("negatives"),
    "prompt: {question} is missing": GOOD | {"prompt": "{liked} {target}"},
    "prompt: {titel} is not known": GOOD | {"prompt": "{liked} {target} {question} {titel}"},
    "prompt: expected a text": GOOD | {"prompt": 3},
    "noun: expected a word": GOOD | {"noun": " "},
    'answers: expected {"yes"': GOOD | {"answers": {"yes": "Ja."}},
    "answers: expected two different": GOOD | {"answers": {"yes": "Ja.", "no": "Ja."}},
    "negatives: 'love' stands in positives too": GOOD | {"negatives": {"love": "antonym"}},
    "negatives: 'loathe': its kind is 'paraphrase'": GOOD | {"negatives": {"loathe": "paraphrase"}},
    "positives: 'love': its kind is 7": GOOD | {"positives": {"love": 7}},
    "held_out: 'x': its kind is ['hedged']": GOOD | {"held_out": {"x": ["hedged"]}},
    "positives: expected {": GOOD | {"positives": {}},
    "negatives: expected {": GOOD | {"negatives": ["loathe"]},
    "positives: 'a\\nb': expected words in one line": GOOD | {"positives": {"a\nb": "paraphrase"}},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_in_one_line(tmp_path, fault):
    path = written(tmp_path, FAULTS[fault])
    with pytest.raises(DataError) as refusal:
        read_own_wording(path)
    assert str(refusal.value).startswith(f"--wordings-file {path}: {fault}") and "\n" not in str(refusal.value)


def test_every_fault_has_a_line_of_its_own(tmp_path):
    content = GOOD | {"noun": 3, "answers": [], "extra": 1, "positives": {"love": "hedged"}}
    with pytest.raises(DataError) as refusal:
        read_own_wording(written(tmp_path, content))
    assert len(str(refusal.value).splitlines()) == 4
    with pytest.raises(DataError, match="--wordings-file .*: no such file"):
        read_own_wording(tmp_path / "none.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(GOOD)), value=JSON)
def test_any_content_is_read_or_refused(name, value):
    try:
        own = parse_own_wording(json.dumps(GOOD | {name: value}))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        fields = {"question": "q", "liked": "l", "target": "t", "disliked": "d", "noun": "n"}
        assert filled(own.prompt, fields) and own.questions.same_answer(next(iter(own.questions.positives)))


@pytest.mark.parametrize("wording", ["nonsense", "{}", "[1]", 7, [], json.dumps(GOOD | {"answers": 1})])
def test_a_run_with_a_damaged_wording_is_refused(tmp_path, wording):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {}, "wording": wording}))
    with pytest.raises(RunError, match="not the config.json of a run"):
        read_run_config(tmp_path, "--run")


# ---- a run --------------------------------------------------------------------------------------


def test_a_run_keeps_its_words_and_resumes_to_the_same_bytes_without_the_file(tmp_path, capsys, monkeypatch):
    """Trained in German on two negatives, interrupted, resumed after the file is gone, then asked by every verb."""
    words = tmp_path / "de.json"
    words.write_bytes(GERMAN.read_bytes())
    small = ["--data", "demo", "--shots", "6", "--batch-size", "3", "--micro-batch-size", "3", "--eval-every", "2"]
    small += ["--valid-rows", "8", "--test-rows", "8", "--max-steps", "4", "--wordings-file", str(words)]
    small += ["--train-negatives", "2", "--train-paraphrases", "2"]
    train.main([*small, "--out", str(tmp_path / "whole")])
    calls, real_step = [], train.accumulate_gradients  # the first call is the rehearsal's

    def dies_in_step_4(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real_step(*args)

    monkeypatch.setattr(train, "accumulate_gradients", dies_in_step_4)
    with pytest.raises(KeyboardInterrupt):
        train.main([*small, "--out", str(tmp_path / "cut")])
    monkeypatch.undo()
    words.unlink()
    train.main(["--resume", "--out", str(tmp_path / "cut")])
    for name in ("metrics.jsonl", "adapter_model.safetensors", "predictions.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name

    run = ["--run", str(tmp_path / "cut"), "--device", "cpu"]
    capsys.readouterr()
    eval_verb.main([*run, "--wordings", "--rows", "8", "--json"])
    matrix = json.loads(capsys.readouterr().out)["wordings"]
    questions = wording_of(read_own_wording(GERMAN)).questions
    assert [row["asks"] for row in matrix["rows"]] == list(questions.kinds)
    seen = [row["asks"] for row in matrix["rows"] if row["trained_on"]]
    assert seen == ["mögen wird", "gern haben wird", "ablehnen wird", "nicht mögen wird"]
    predict.main([*run, "--liked", "A (1990)", "--target", "B (1991)", "--show-prompt"])
    shown = capsys.readouterr().out
    assert 'Ob der Nutzer den Film "B (1991)" mögen wird?' in shown and "ablehnen wird?" in shown
    audit.main([*run, "--sample", "0", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and report["answer_tokens"][0]["target_pos"]["piece"][0] == ("J" if report["label"] else "N")


def test_the_wording_with_double_negations_is_the_data_sets_own_and_two_more_questions():
    data = stand_in()
    own = wording_of(data.wording).questions
    more = in_words_of(data, str(DOUBLE), {})
    asked = wording_of(more.wording).questions
    added = {"will not hate": "double negation", "will not detest": "double negation"}
    assert asked.positives == own.positives | added and list(asked.positives)[-2:] == list(added)
    assert (asked.negatives, asked.held_out) == (own.negatives, own.held_out)
    for words in own.kinds:
        assert prompt_pair(data.test[0], more, question=words) == prompt_pair(data.test[0], data, question=words)
    pair = prompt_pair(data.test[0], more, question=("will not hate", "will dislike"))
    assert pair.answer_positive == prompt_pair(data.test[0], data).answer_positive  # as to "will like"
    assert "whether the user will not hate the target" in pair.positive


def test_negations_of_a_file_that_holds_none_out_are_refused(tmp_path):
    content = json.loads(GERMAN.read_text(encoding="utf-8"))
    del content["held_out"]
    (words := tmp_path / "words.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FlagError, match="--negations: the wordings file holds no question out; use --wordings"):
        eval_verb.main(["--model", "demo", "--data", "demo", "--wordings-file", str(words), "--negations"])
