"""--valid-rows, --test-rows, --rows and --drop-long: which rows they leave, and that every table says so."""

import csv
import json
from dataclasses import replace

import pytest

import eval as eval_verb
import train
from data.interactions import Item
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from data.splits import Wanted, encode_split, encode_wanted
from errors import DataError
from model.demo import DEMO_FOLDER
from model.tokenizer import load_tokenizer
from report.tables import part_of_split
from run.inputs import draw_shots
from tests.test_train_flags import train_flags

LONG = "A Film Whose Name Does Not End " * 90


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DEMO_FOLDER, None)


@pytest.fixture(scope="module")
def data():
    return stand_in()


@pytest.fixture(scope="module")
def with_long(data):
    """The stand-in data; every fifth test row asks for a title that fits nowhere."""
    rows = [replace(row, target="long") if i % 5 == 0 else row for i, row in enumerate(data.test)]
    return replace(data, catalogue=data.catalogue | {"long": Item(LONG)}, test=rows, train=rows[:50])


def wanted(count=None, **changes):
    return replace(Wanted("test", "tallrec", 512, count=count, flag="--test-rows"), **changes)


# ---- subsets ------------------------------------------------------------------------------------


def test_a_subset_is_seeded_in_order_and_holds_every_smaller_one(data, tokenizer):
    whole, some, few = (encode_wanted(data.test, data, tokenizer, wanted(count)) for count in (None, 40, 15))
    assert whole.chosen is None and whole.rows == data.test
    assert len(some.rows) == 40 and list(some.numbers) == sorted(set(some.numbers))
    assert set(few.numbers) < set(some.numbers) and list(few.numbers) != list(range(15))
    for split in (some, few):
        assert split.rows == [data.test[i] for i in split.numbers]
        assert split.pairs[3].positive.ids == whole.pairs[split.numbers[3]].positive.ids
        assert split.chosen.of == len(data.test) and split.chosen.too_long == 0


def test_all_rows_are_no_subset_and_more_are_refused(data, tokenizer):
    rows = data.test[:20]
    assert encode_wanted(rows, data, tokenizer, wanted(20)).chosen is None
    with pytest.raises(DataError, match="--test-rows 21: there are 20 such rows; choose 1 to 20, or leave it out"):
        encode_wanted(rows, data, tokenizer, wanted(21))


@pytest.mark.parametrize(
    "chosen, text",
    [((500, 10401, 0), "500 of 10,401 rows (seeded subset)"), ((8, 10, 2), "8 of 10 rows (2 too long left out)")],
)
def test_a_part_of_a_split_in_words(chosen, text):
    assert part_of_split(dict(zip(("rows", "of", "too_long"), chosen))) == text


# ---- titles that are too long -------------------------------------------------------------------


def test_overlong_titles_are_left_out_counted_and_said(with_long, tokenizer, capsys):
    rows = with_long.test
    with pytest.raises(DataError, match="without any history"):
        encode_wanted(rows, with_long, tokenizer, wanted())
    split = encode_wanted(rows, with_long, tokenizer, wanted(drop_long=True))
    assert list(split.numbers) == [i for i in range(len(rows)) if i % 5]
    assert split.chosen.too_long == len(rows[::5]) and split.chosen.of == len(rows)
    said = capsys.readouterr().err
    assert f"--drop-long: {len(rows[::5])} of {len(rows)} rows of the test split" in said and "first row 0" in said


def bare_lengths(rows, data, tokenizer):
    """Tokens of each row without its history."""
    bare = [replace(row, history=()) for row in rows]
    return [pair.length for pair in encode_split(bare, data, tokenizer, "tallrec", 512).pairs]


def test_a_row_is_dropped_exactly_if_it_cannot_be_encoded(data, tokenizer):
    rows = data.test[:60]
    limit = sorted(set(bare_lengths(rows, data, tokenizer)))[3]
    kept = set(encode_wanted(rows, data, tokenizer, wanted(max_len=limit, drop_long=True)).numbers)
    for i, row in enumerate(rows):
        if i in kept:
            encode_split([row], data, tokenizer, "tallrec", limit)
        else:
            with pytest.raises(DataError):
                encode_split([row], data, tokenizer, "tallrec", limit)
    assert 0 < len(kept) < 60


def test_a_held_out_question_must_fit_too(data, tokenizer):
    rows = data.test[:60]
    tight = wanted(max_len=max(bare_lengths(rows, data, tokenizer)), drop_long=True)
    longer = replace(tight, questions=("will be unlikely to like",))
    assert encode_wanted(rows, data, tokenizer, tight).chosen is None
    assert encode_wanted(rows, data, tokenizer, longer).chosen.too_long > 0


def test_the_shots_are_the_first_of_the_same_permutation_that_fit(with_long, data, tokenizer):
    flags = train_flags("--shots", "30", "--drop-long")[0]
    drawn = draw_shots(flags, with_long, tokenizer)
    every = draw_shots(train_flags("--shots", "all")[0], with_long, tokenizer)
    assert drawn == [row for row in every if row.target != "long"][:30]
    with pytest.raises(DataError, match="--shots 45: with --drop-long 40 training rows are left"):
        draw_shots(train_flags("--shots", "45", "--drop-long")[0], with_long, tokenizer)


def test_nothing_left_is_refused(data, tokenizer):
    with pytest.raises(DataError, match="--max-len 9: no row of the test split fits"):
        encode_wanted(data.test[:5], data, tokenizer, wanted(max_len=9, drop_long=True))


# ---- a whole run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subsets")
    (folder / "rows").mkdir()
    for split in ("train", "valid", "test"):
        write_split(folder / "rows" / f"{split}.json", getattr(data, split)[:30], data)
    short = "--shots 8 --max-steps 2 --eval-every 2 --precision fp32 --device cpu --valid-rows 20 --test-rows 12"
    train.main(["--data", str(folder / "rows"), "--out", str(folder / "run"), *short.split()])
    return folder / "run"


def column(path, name):
    with open(path, newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_a_run_on_subsets_says_so_everywhere(run, capsys):
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["chosen"] == {"rows": 12, "of": 30, "too_long": 0, "subset_seed": 0}
    assert results["valid"]["chosen"]["rows"] == results["valid"]["after"]["counts"]["rows"] == 20
    assert len(column(run / "predictions.csv", "row")) == 12

    argv = ["--run", str(run), "--device", "cpu"]
    eval_verb.main([*argv, "--rows", "12", "--out", str(run.parent / "same")])
    assert "test split: 12 of 30 rows (seeded subset)" in capsys.readouterr().out
    assert (run.parent / "same/predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    eval_verb.main([*argv, "--out", str(run.parent / "whole")])
    assert "test split: 30 rows" in capsys.readouterr().out  # the subset of a run is not that of eval.py
    assert "chosen" not in json.loads((run.parent / "whole/results.json").read_text())


def test_a_resumed_run_keeps_its_subsets(run, capsys):
    before = (run / "results.json").read_bytes()
    train.main(["--out", str(run), "--resume"])
    assert (run / "results.json").read_bytes() == before
    said = capsys.readouterr().out
    assert "test split: 12 of 30 rows (seeded subset)" in said
    assert "best state chosen on 20 of 30 validation rows (seeded subset)" in said


def test_a_run_of_the_version_before_has_no_such_flags_and_resumes(run, capsys):
    config = json.loads((run / "config.json").read_text())
    whole = run.parent / "old"
    train.main(
        ["--data", config["flags"]["data"]["value"], "--shots", "8", "--max-steps", "2", "--eval-every", "2"]
        + ["--precision", "fp32", "--device", "cpu", "--out", str(whole)]
    )
    config = json.loads((whole / "config.json").read_text())
    for name in ("valid_rows", "test_rows", "drop_long"):
        del config["flags"][name]
    (whole / "config.json").write_text(json.dumps(config))
    before = (whole / "results.json").read_bytes()
    train.main(["--out", str(whole), "--resume"])
    assert (whole / "results.json").read_bytes() == before


@pytest.mark.parametrize("given", [("--test-rows", "31"), ("--valid-rows", "31")])
def test_more_rows_than_there_are_are_refused(run, given):
    rows = json.loads((run / "config.json").read_text())["flags"]["data"]["value"]
    with pytest.raises(DataError, match=f"{given[0]} 31: there are 30 such rows"):
        train.main(["--data", rows, "--shots", "8", "--device", "cpu", "--out", str(run.parent / "no"), *given])
    assert not (run.parent / "no").exists()
