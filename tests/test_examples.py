"""In-context learning: which examples, in which prompt, and the score less the base's inclination."""

import json

import numpy as np
import pytest

import eval as eval_verb
from data.examples import with_examples
from data.interactions import Dataset, Interaction, Item
from data.prompts import prompt_pair
from errors import DataError, FlagError
from metrics import Scored

ROWS = [Interaction(n % 7, ((1, True), (2, False)), n % 5 + 1, n % 2 == 0, n) for n in range(60)]


def data_of(train, wording="tallrec"):
    return Dataset("made", "here", "movie", {n: Item(f"T{n}") for n in range(1, 6)}, train, ROWS, ROWS, wording)


@pytest.mark.parametrize("count", [2, 4])
def test_examples_are_balanced_seeded_and_never_of_the_rows_own_user(count):
    chosen = {}
    for seed in (0, 1, 0):
        data = with_examples(data_of(ROWS), count, seed)
        for row in ROWS:
            found = data.examples(row)
            assert len(found) == count and sum(example.label for example in found) == count // 2
            assert all(example.user != row.user and example in ROWS for example in found)
        drawn = [data.examples(row) for row in ROWS]
        assert chosen.setdefault(seed, drawn) == drawn
    assert chosen[0] != chosen[1]
    assert len(set(chosen[0])) <= count + 1  # the same for all but the users who gave them


def test_no_examples_leave_every_prompt_as_it_is():
    data = data_of(ROWS)
    assert with_examples(data, 0, 0) is data


@pytest.mark.parametrize("wording", ["tallrec", "collm"])
def test_a_prompt_begins_with_the_examples_in_its_own_words_and_their_right_answers(wording):
    plain = data_of(ROWS, wording)
    data = with_examples(plain, 4, 3)
    for row in (ROWS[0], ROWS[1]):
        pair, bare = prompt_pair(row, data), prompt_pair(row, plain)
        for side in ("positive", "negative"):
            expected = ""
            for example in data.examples(row):
                worked = prompt_pair(example, plain)
                expected += getattr(worked, side) + getattr(worked, f"answer_{side}") + "\n\n"
            assert getattr(pair, side) == expected + getattr(bare, side)
            assert getattr(pair, f"answer_{side}") == getattr(bare, f"answer_{side}")


def test_too_few_rows_of_other_users_are_refused():
    rows = [Interaction(1, (), 1, True), Interaction(2, (), 1, False)]
    with pytest.raises(DataError, match="--examples 2: the training rows of other users than 1 have fewer liked"):
        with_examples(data_of(rows), 2, 0)


def test_data_without_users_say_so(capsys):
    with_examples(data_of([Interaction(None, (), 1, n % 2 == 0) for n in range(6)]), 2, 0)
    assert "may be of the row's own user" in capsys.readouterr().err


def test_the_prior_changes_answers_and_calibration_and_no_order():
    z = np.array([3.0, 5.0, 4.0, 6.0])
    logs = [-np.logaddexp(0, -z), -np.logaddexp(0, z)]
    scored = Scored([1, 1, 2, 2], np.array([False, True, False, True]), *logs, *logs[::-1], kl=z, js=z)
    corrected = eval_verb.prior_corrected(scored, scored)
    assert corrected["mean_log_odds"] == pytest.approx({"z_pos": 4.5, "z_neg": -4.5})
    assert corrected["auc"] == 1.0 and corrected["accuracy"] == 1.0
    assert eval_verb.evaluate(scored)["accuracy"] == 0.5


def test_eval_asks_with_examples_and_reports_the_prior(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.BOOTSTRAP_DRAWS", 5)
    call = ["--model", "demo", "--data", "demo", "--rows", "6", "--max-len", "1500", "--examples"]
    for count in ("0", "2"):
        eval_verb.main([*call, count, "--out", str(tmp_path / count)])
    found = {count: json.loads((tmp_path / count / "results.json").read_text()) for count in ("0", "2")}
    assert found["2"]["examples"] == 2 and found["0"]["examples"] == 0
    texts = {count: (tmp_path / count / "predictions.csv").read_text() for count in found}
    assert texts["2"] != texts["0"] and found["2"]["prior_corrected"]["mean_log_odds"]["z_pos"] != 0
    for results in found.values():
        assert results["prior_corrected"]["auc"] == results["auc"]


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--examples 3", "--examples 3: half of them are liked"),
        ("--examples-seed 1", "--examples-seed: has no effect without --examples"),
    ],
)
def test_flags_that_do_not_fit_are_refused(argv, message):
    with pytest.raises(FlagError, match=message):
        eval_verb.main(["--model", "demo", "--data", "demo", *argv.split()])
