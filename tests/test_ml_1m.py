"""MovieLens-1M as CoLLM's data set: the raw part against the published rows, and small cases by hand."""

import csv
import gzip
from datetime import datetime, timezone

import pytest

from data.interactions import SPLITS, not_cold
from data.sources import collm, ml_1m
from errors import DataError

MOVIES = b"1::Lantern, The (1971)::Drama\n2::N\xeemes (1966)::Drama\n3::Wires (1993)::Comedy\n4::Unseen (1999)::War\n"


def at(year, month, day, second=0):
    return int(datetime(year, month, day, tzinfo=timezone.utc).timestamp()) + second


def write(folder, rows, movies=MOVIES):
    (folder / "movies.dat").write_bytes(movies)
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in rows))
    return ml_1m.raw_files(folder)


def build(folder, rows):
    return ml_1m.build(write(folder, rows), print)


# ---- by hand ------------------------------------------------------------------------------------

EDGES = [
    (1, 1, 5, at(2001, 6, 1) - 1),  # a second too early
    (1, 2, 4, at(2001, 6, 1)),
    (1, 3, 3, at(2002, 4, 1) - 1),
    (1, 1, 4, at(2002, 4, 1)),
    (2, 1, 1, at(2002, 9, 1) - 1),
    (2, 2, 5, at(2002, 9, 1)),
    (2, 3, 5, at(2003, 2, 1) - 1),
    (2, 4, 5, at(2003, 2, 1)),  # February is dropped
]


def test_months_begin_and_end_at_midnight_utc(tmp_path):
    data = build(tmp_path, EDGES)
    shown = {
        split: [(row.user, data.catalogue[row.target].title, row.label) for row in getattr(data, split)]
        for split in SPLITS
    }
    assert shown == {
        "train": [(1, "N\xeemes (1966)", True), (1, "Wires (1993)", False)],
        "valid": [(1, "Lantern, The (1971)", True), (2, "Lantern, The (1971)", False)],
        "test": [(2, "N\xeemes (1966)", True), (2, "Wires (1993)", True)],
    }


def test_history_is_every_earlier_liked_item_across_splits(tmp_path):
    data = build(tmp_path, EDGES)
    titles = [[data.catalogue[item].title for item, _ in row.history] for row in (*data.train, *data.valid, *data.test)]
    assert titles == [[], ["N\xeemes (1966)"], ["N\xeemes (1966)"], [], [], ["N\xeemes (1966)"]]


def test_ties_come_in_order_of_the_items_first_appearance_in_the_whole_file(tmp_path):
    # Item 3 is first seen outside the window, before items 2 and 1; user 9 rates all three in one second.
    rows = [(8, 3, 5, at(2000, 5, 1)), (9, 2, 5, at(2001, 7, 1)), (9, 1, 4, at(2001, 7, 1)), (9, 3, 5, at(2001, 7, 1))]
    rows += [(9, 1, 5, at(2002, 5, 1)), (9, 1, 5, at(2002, 10, 1))]
    data = build(tmp_path, rows)
    assert [data.catalogue[row.target].title for row in data.train] == [
        "Wires (1993)",
        "N\xeemes (1966)",
        "Lantern, The (1971)",
    ]
    assert [row.target for row in data.train] == [1, 2, 3]  # numbered by first appearance


BAD = {
    "letters": ("1::x::3::4", "line 2: expected user, item, rating and time"),
    "too few": ("1::2::3", "line 2: expected user"),
    "rating": (f"1::2::6::{at(2001, 7, 1)}", "line 2: rating 6 is not within 1 to 5"),
    "unknown item": (f"1::77::3::{at(2001, 7, 1)}", "line 2: item 77 is not in movies.dat"),
}


@pytest.mark.parametrize("line, message", BAD.values(), ids=BAD)
def test_a_malformed_rating_is_named_with_its_line(tmp_path, line, message):
    files = write(tmp_path, EDGES[:1])
    files[0].write_text(files[0].read_text() + line + "\n")
    with pytest.raises(DataError, match=f"ratings.dat {message}"):
        ml_1m.build(files, print)


def test_a_malformed_movie_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match="movies.dat line 5: expected `id::title::genres`"):
        ml_1m.build(write(tmp_path, EDGES, MOVIES + b"5::no genres\n"), print)


def test_ratings_that_leave_a_split_empty_are_refused(tmp_path):
    with pytest.raises(DataError, match="a split has no rows; is it the whole file"):
        build(tmp_path, EDGES[:3])


def test_a_cut_gzip_is_refused(tmp_path):
    files = write(tmp_path, EDGES)
    (tmp_path / "ratings.dat.gz").write_bytes(gzip.compress(files[0].read_bytes())[:-6])
    files[0].unlink()
    with pytest.raises(DataError, match="ratings.dat.gz: not a whole gzip file"):
        ml_1m.build(ml_1m.raw_files(tmp_path), print)


# ---- against the published rows -----------------------------------------------------------------


def lines(folder):
    """The rows of all three files in their common order, each a dict of strings."""
    rows = []
    for split in SPLITS:
        with gzip.open(folder / f"{split}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return sorted(rows, key=lambda row: int(row["row"]))


@pytest.fixture(scope="module")
def published_folder(real_data):
    folder = real_data / "collm-ml-1m"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="module")
def published(published_folder):
    return ml_1m.read_published(published_folder)


@pytest.fixture(scope="module")
def from_raw(real_data, tmp_path_factory):
    folder = real_data / "ml-1m-part"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    data = ml_1m.build(ml_1m.raw_files(folder), print)
    out = tmp_path_factory.mktemp("published-form")
    collm.write_published(data, out)
    return data, out


def test_users_1_to_2999_give_the_first_31942_published_rows(from_raw, published_folder):
    ours, theirs = lines(from_raw[1]), lines(published_folder)
    assert (len(ours), len(theirs)) == (31_942, 51_623)
    columns = [name for name in collm.COLUMNS if name != "not_cold"]
    assert [[row[name] for name in columns] for row in ours] == [
        [row[name] for name in columns] for row in theirs[: len(ours)]
    ]


def test_the_last_column_differs_only_where_the_missing_users_made_an_item_warm(from_raw, published_folder):
    """not_cold looks at all of train, of which users 1-2999 are a part: with the part's rows it is exact there."""
    ours, theirs = lines(from_raw[1]), lines(published_folder)[:31_942]
    train_of_others = {row["iid"] for row in lines(published_folder)[31_942:] if row["flag"] == "-1"}
    train_of_part = {row["iid"] for row in ours if row["flag"] == "-1"}
    different = [(a, b) for a, b in zip(ours, theirs) if a["not_cold"] != b["not_cold"]]
    assert len(different) == 149
    assert all(b["not_cold"] == "1" and a["iid"] in train_of_others - train_of_part for a, b in different)


def test_the_published_counts(published):
    counts = {}
    for split in SPLITS:
        rows = getattr(published, split)
        counts[split] = (
            len(rows),
            sum(row.label for row in rows),
            len({row.user for row in rows}),
            len({row.target for row in rows}),
            sum(not_cold(published, rows)),
            sum(not row.history for row in rows),
        )
    assert counts == {
        "train": (33_891, 18_191, 740, 3_087, 33_891, 1_275),
        "valid": (10_401, 5_495, 356, 2_506, 6_609, 103),
        "test": (7_331, 3_998, 320, 2_203, 4_153, 62),
    }
    everything = published.train + published.valid + published.test
    assert (len({row.user for row in everything}), len({row.target for row in everything})) == (838, 3_255)


def test_not_cold_is_that_of_every_published_row(published, published_folder):
    ours = [warm for split in SPLITS for warm in not_cold(published, getattr(published, split))]
    with_flags = [
        lines_of
        for split in SPLITS
        for lines_of in csv.DictReader(
            gzip.open(published_folder / f"{split}.csv.gz", "rt", encoding="utf-8", newline="")
        )
    ]
    assert ours == [row["not_cold"] == "1" for row in with_flags]


def test_the_published_rows_are_written_back_byte_for_byte(published, published_folder, tmp_path):
    collm.write_published(published, tmp_path)
    for split in SPLITS:
        ours, theirs = (gzip.open(folder / f"{split}.csv.gz").read() for folder in (tmp_path, published_folder))
        assert ours == theirs


def test_the_selection_is_the_published_half_in_its_order(published, published_folder):
    wanted = (published_folder / "valid_small_rows.csv").read_text().split()
    wanted = [int(row) for row in wanted if row.isdecimal()]
    first = len(published.train)
    numbers = {
        id(row): int(fields["row"])
        for row, fields in zip(
            published.valid,
            csv.DictReader(gzip.open(published_folder / "valid.csv.gz", "rt", encoding="utf-8", newline="")),
        )
    }
    assert first and len(published.selection) == 5_200
    assert [numbers[id(row)] for row in published.selection] == wanted
