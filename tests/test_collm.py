"""CoLLM's CSV form: what is written is read back, and what is malformed is named by file, line and column."""

import csv
import gzip

import pytest

from data.interactions import SPLITS, Dataset, Item
from data.sources import collm
from errors import DataError

RATINGS = [
    collm.Rating(1, 1, True, 10, "train"),
    collm.Rating(1, 2, False, 11, "train"),
    collm.Rating(1, 3, True, 11, "valid"),
    collm.Rating(1, 1, False, 12, "test"),
    collm.Rating(2, 3, True, 5, "test"),
]
TITLES = {1: Item('A "quoted", comma'), 2: Item("Nîmes"), 3: Item(" spaced ")}
DATA = Dataset("x", "invented", "book", TITLES, **collm.with_histories(RATINGS), wording="collm")


def test_a_history_is_the_liked_items_before_and_never_the_row_itself():
    assert [[item for item, _ in row.history] for row in (*DATA.train, *DATA.valid, *DATA.test)] == [
        [],
        [1],
        [1],
        [1, 3],
        [],
    ]
    assert all(liked for rows in (DATA.train, DATA.test) for row in rows for _, liked in row.history)


def test_the_published_form_is_this_to_the_byte(tmp_path):
    collm.write_published(DATA, tmp_path)
    assert gzip.open(tmp_path / "test.csv.gz", "rt", encoding="utf-8", newline="").read() == (
        "row,uid,iid,label,timestamp,his,his_title,title,flag,not_cold\n"
        '3,1,1,0,12,"[0,1,3]","["""", ""A \\""quoted\\"", comma"", "" spaced ""]","A ""quoted"", comma",1,1\n'
        '4,2,3,1,5,[0],"[""""]", spaced ,1,0\n'
    )


def test_what_is_written_is_read_back(tmp_path):
    collm.write_published(DATA, tmp_path)
    again = collm.read_published(tmp_path, "x", "book")
    assert (again.train, again.valid, again.test, again.catalogue) == (
        DATA.train,
        DATA.valid,
        DATA.test,
        DATA.catalogue,
    )
    assert (again.source, again.wording, again.noun) == ("collm-csv", "collm", "book")


def write(folder, **changes):
    """Three plain files of one row each, the test row changed; None removes the column."""
    good = {
        "row": "0",
        "uid": "1",
        "iid": "1",
        "label": "1",
        "timestamp": "5",
        "his": "[0]",
        "his_title": '[""]',
        "title": "A",
        "flag": "1",
        "not_cold": "1",
    }
    for split in SPLITS:
        row = {
            name: value for name, value in (good | (changes if split == "test" else {})).items() if value is not None
        }
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)
    return folder


BAD = {
    "user": ({"uid": "x"}, "test.csv line 2, column uid: expected a whole number, found 'x'"),
    "label": ({"label": "2"}, "test.csv line 2, column label: expected 0 or 1, found 2"),
    "his": ({"his": "[0, 'a']"}, "test.csv line 2, column his: expected a list of item ids"),
    "his of text": ({"his": '["a"]'}, "column his"),
    "his is no list": ({"his": "7"}, "column his"),
    "title": ({"title": "B"}, "test.csv line 2, column title: item 1 has another title"),
    "no time": ({"timestamp": "yesterday"}, "test.csv line 2, column timestamp: expected unix time or a date"),
    "no column": ({"his": None}, "test.csv line 1: column 'his' is missing"),
    "unknown item": ({"his": "[0,99]"}, "item 99 in a history, but no row has its title"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_what_is_malformed_is_named_by_file_line_and_column(tmp_path, changes, message):
    with pytest.raises(DataError) as refusal:
        collm.read_published(write(tmp_path, **changes), "x", "book")
    assert message in str(refusal.value)


@pytest.mark.parametrize("text", ["1491004800", "1491004800000", "2017-04-01", "2017/04/01 00:00:00.25", "20170401"])
def test_times_are_read_as_those_of_every_source(tmp_path, text):
    data = collm.read_published(write(tmp_path, timestamp=text), "x", "book")
    assert [row.timestamp for row in (*data.train, *data.test)] == [5, 1491004800]


def test_a_column_that_mixes_forms_of_time_is_refused_with_two_lines(tmp_path):
    path = write(tmp_path) / "test.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace(",5,", ",1491004800000,") + "\n")
    with pytest.raises(DataError, match="column timestamp: mixes forms of time: line 2 has '5' .*line 3 has '14910048"):
        collm.read_published(tmp_path, "x", "book")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b'uid,iid,label,timestamp,his,title\n"1', b"uid,iid,label,timestamp,his,title\n"]
)
def test_what_is_no_such_file_is_refused_by_name(tmp_path, content):
    write(tmp_path)
    (tmp_path / "valid.csv").write_bytes(content)
    with pytest.raises(DataError, match="valid.csv"):
        collm.read_published(tmp_path, "x", "book")


def test_a_cut_gzip_is_refused_by_name(tmp_path):
    collm.write_published(DATA, tmp_path)
    path = tmp_path / "train.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="train.csv.gz: cannot be read"):
        collm.read_published(tmp_path, "x", "book")


def test_a_folder_that_lacks_a_split_has_no_published_files(tmp_path):
    collm.write_published(DATA, tmp_path)
    (tmp_path / "valid.csv.gz").unlink()
    assert collm.published_files(tmp_path) == []
