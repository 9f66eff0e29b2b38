"""Options of data that were decided when the data were prepared: given again, they agree or are refused."""

import json

import pytest

import prepare
import train
from data.cache import write_prepared
from data.load import load_dataset
from data.sources import tallrec
from errors import DataError, FlagError
from tests.test_custom import as_csv, invented, write


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return write(tmp_path / "raw", as_csv(invented(40)))


@pytest.fixture
def own(tmp_path, raw):
    words = ["custom", "--raw", raw, "--out", tmp_path / "own", "--like-threshold", "4", "--noun", "game"]
    prepare.main([str(word) for word in words])
    return tmp_path / "own"


def loaded(folder, **options):
    said = []
    data = load_dataset(str(folder), None, False, said.append, options)
    return data, said


def refused(main, *words):
    with pytest.raises(FlagError) as caught:
        main([str(word) for word in words])
    return str(caught.value).splitlines()


def test_options_that_the_folder_was_not_prepared_with_are_refused_each_in_a_line(own):
    words = ["--data", own, "--like-threshold", "2", "--noun", "toy", "--split-by", "user", "--skip-bad"]
    where = f"has no effect on {own}, which was prepared with"
    expected = [
        f"--like-threshold: {where} --like-threshold 4; leave it out, or give the raw files",
        f"--noun: {where} --noun game; leave it out, or give the raw files",
        f"--skip-bad: {where} no --skip-bad; leave it out, or give the raw files",
        f"--split-by: {where} --split-by time; leave it out, or give the raw files",
    ]
    assert refused(train.main, *words, "--shots", "8") == expected
    assert refused(prepare.main, "show", *words) == expected


def test_the_same_options_once_more_are_accepted_and_without_any_a_notice_says_them(own, raw):
    again, said = loaded(own, like_threshold=4.0, noun="game")
    assert not [line for line in said if "was prepared with" in line]
    plain, said = loaded(own)
    assert f"{own}: was prepared with --like-threshold 4, --noun game" in said
    assert again == plain == loaded(raw, like_threshold=4.0, noun="game")[0]
    prepare.main(["show", "--data", str(own), "--like-threshold", "4", "--split-by", "time"])


def test_so_is_the_option_of_a_data_set_with_a_name_by_either_of_its_names(tmp_path, raw, capsys):
    data, _ = loaded(raw, like_threshold=4.0)
    key = {"format": 1, "rule": "book", "version": 1, "options": {"book_zeros": "dislike"}, "raw": {}}
    object.__setattr__(data, "name", "book")
    (tmp_path / "book").mkdir()
    write_prepared(data, tmp_path / "book", key)
    for flag in ("--zeros", "--book-zeros"):
        words = ["show", "--data", "book", "--data-dir", tmp_path]
        (line,) = refused(prepare.main, *words, flag, "drop")
        assert line.startswith(
            f"{flag}: has no effect on {tmp_path / 'book'}, which was prepared with --book-zeros dis"
        )
        prepare.main([*map(str, words), flag, "dislike"])


def test_no_option_has_an_effect_on_tallrec_s_files(tmp_path, raw):
    tallrec.write_folder(loaded(raw, like_threshold=4.0, noun="game")[0], tmp_path)
    lines = refused(prepare.main, "show", "--data", tmp_path, "--like-threshold", "4", "--zeros", "drop")
    assert lines == [
        f"{flag}: has no effect on TALLRec's files in {tmp_path}; leave it out, or give the raw files"
        for flag in ("--like-threshold", "--zeros")
    ]


def test_raw_files_that_changed_beside_the_prepared_ones_are_not_passed_over(raw):
    prepare.main(["custom", "--raw", str(raw), "--out", str(raw), "--like-threshold", "4"])
    before, _ = loaded(raw)
    path = raw / "interactions.csv"
    path.write_text(path.read_text() + "u1,1,1,99\n")
    with pytest.raises(DataError, match="interactions.csv changed after the folder was prepared, and prepared.json"):
        loaded(raw)
    (raw / "prepared.json").unlink()
    assert loaded(raw, like_threshold=4.0)[0] != before


def test_two_forms_in_one_folder_are_refused(tmp_path, raw):
    (raw / "train.json").write_text("[]")
    with pytest.raises(DataError, match=r"has interactions.csv and train.json, two forms of data; keep one of them"):
        loaded(raw, like_threshold=4.0)


def test_a_damaged_manifest_is_one_line(own):
    manifest = json.loads((own / "prepared.json").read_text())
    for damaged in (
        "",
        json.dumps(manifest | {"options": {"noun": "\x1b[31m"}}),
        "[]",
        json.dumps(manifest | {"options": 3}),
        json.dumps({"format": 1}),
    ):
        (own / "prepared.json").write_text(damaged)
        with pytest.raises(DataError, match="damaged"):
            train.main(["--data", str(own), "--noun", "game", "--shots", "8"])
