"""Every verb on each of the four data sets and on own data, from small raw files, with the demo model."""

import json
import random

import pytest

import audit
import eval as eval_verb
import predict
import train
from tests import test_amazon_book, test_book, test_custom, test_ml_1m


def raw_book(folder):
    test_book.write(folder, rows=test_book.random_ratings(150))


def raw_ml_1m(folder):
    rng = random.Random(4)
    months = [(2001, 7), (2002, 1), (2002, 5), (2002, 10)]
    rows = [
        (user, item, rng.randint(1, 5), test_ml_1m.at(*months[rng.randrange(4)], rng.randint(1, 28)))
        for user in range(1, 25)
        for item in (1, 2, 3, 4)
    ]
    test_ml_1m.write(folder, rows)


def raw_amazon(folder):
    test_amazon_book.write(folder, *test_amazon_book.invented(seed=8))


def own(folder):
    test_custom.write(folder, test_custom.as_csv(test_custom.invented(20)))


CASES = {
    "book": (raw_book, [], 1e-5, "will like the target book", "will dislike the target book"),
    "ml-1m": (raw_ml_1m, [], 1e-4, "would enjoy the movie titled", "would dislike the movie titled"),
    "amazon-book": (
        raw_amazon,
        ["--amazon-liked", "4"],
        1e-5,
        "would enjoy the book titled",
        "would dislike the book titled",
    ),
    "own": (
        own,
        ["--like-threshold", "3", "--noun", "tea", "--split-by", "user"],
        1e-4,
        "will like the target tea",
        "will dislike the target tea",
    ),
}


@pytest.fixture(params=CASES)
def trained(request, tmp_path, monkeypatch, capsys):
    """(case, run folder, results, flags of the data) of a short run."""
    make, options, *_ = CASES[request.param]
    (tmp_path / "raw").mkdir()
    make(tmp_path / "raw")
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "cache"))
    data = (
        ["--data", str(tmp_path / "raw")]
        if request.param == "own"
        else ["--data", request.param, "--data-dir", str(tmp_path / "raw")]
    )
    short = [
        "--shots",
        "16",
        "--max-steps",
        "2",
        "--eval-every",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    train.main([*data, *options, *short])
    return request.param, tmp_path / "run", json.loads(capsys.readouterr().out), [*data, *options]


def test_a_run_is_trained_scored_audited_and_asked(trained, capsys):
    case, run, results, _ = trained
    _, _, kl_weight, positive, negative = CASES[case]
    assert results["kl_weight"] == kl_weight and results["steps"] == 2
    assert 0 <= results["test"]["after"]["auc"] <= 1 and results["data_source"] != "stand-in"

    eval_verb.main(["--run", str(run), "--split", "valid", "--device", "cpu", "--json", "--negations"])
    scored = json.loads(capsys.readouterr().out)
    assert (scored["data"], scored["data_source"]) == (results["data"], results["data_source"])
    asked = [row["asks"] for row in scored["negations"]]
    assert negative.startswith(asked[0]) and all(asks not in positive for asks in asked)

    audit.main(["--run", str(run), "--sample", "0", "--device", "cpu"])
    assert results["data"] in capsys.readouterr().out

    predict.main(["--run", str(run), "--liked", "A", "--target", "B", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["noun"] in positive


def test_resumed_and_scored_with_the_same_flags_it_is_the_same_data(trained, capsys):
    case, run, results, data = trained
    eval_verb.main(["--run", str(run), "--device", "cpu", "--json"])
    first = json.loads(capsys.readouterr().out)
    eval_verb.main(["--run", str(run), *data, "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["auc"] == first["auc"] == pytest.approx(results["test"]["after"]["auc"])
    train.main(["--out", str(run), "--resume", "--json"])
    assert json.loads(capsys.readouterr().out)["test"]["after"]["auc"] == results["test"]["after"]["auc"]


def test_ml_1m_chooses_its_state_on_the_half_and_is_scored_on_all(tmp_path, monkeypatch, capsys):
    (tmp_path / "raw").mkdir()
    raw_ml_1m(tmp_path / "raw")
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "cache"))
    train.main(
        [
            "--data",
            "ml-1m",
            "--data-dir",
            str(tmp_path / "raw"),
            "--shots",
            "8",
            "--max-steps",
            "1",
            "--out",
            str(tmp_path / "run"),
            "--device",
            "cpu",
            "--json",
        ]
    )
    results = json.loads(capsys.readouterr().out)
    rows = json.loads((tmp_path / "run" / "config.json").read_text())["rows"]
    assert rows["selection"] == round(rows["valid"] / 2) == results["valid"]["after"]["counts"]["rows"]
    eval_verb.main(["--run", str(tmp_path / "run"), "--split", "valid", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["counts"]["rows"] == rows["valid"]
