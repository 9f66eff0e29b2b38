"""MovieLens-100K as the movie data set: invented files by hand, the counts of the real files."""

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from data.interactions import select_shots
from data.sources import movie
from data.sources.movie import build_samples, by_user, parse_items
from data.sources.movielens import encoding_of, parse_ratings
from data.sources.tallrec import write_split
from errors import DataError

ROOT = Path(__file__).parent.parent
ITEMS = Path("u.item")
RATINGS = Path("u.data")
MANY_ITEMS = "".join(f"{i}|Invented {i} (1990)|01-Jan-1990||\n" for i in range(1, 41)).encode()
CATALOGUE = parse_items(MANY_ITEMS, ITEMS)


def ratings(*rows):
    return by_user(
        parse_ratings(
            "".join("\t".join(map(str, row)) + "\n" for row in rows).encode(), RATINGS, "\t", CATALOGUE, "u.item"
        )
    )


@functools.cache
def read_once(folder):
    return movie.build(movie.raw_files(folder), print)


@pytest.fixture
def movielens(real_file):
    return read_once(real_file("ml-100k/u.data").parent)


# ---- invented content ---------------------------------------------------------------------------


def test_a_sample_is_a_rating_after_the_first_ten_with_the_ten_before_it():
    samples = build_samples(ratings(*((7, item, 5, 100 + item) for item in range(1, 14))))
    assert [row.target for row in samples] == [11, 12, 13]
    assert [[item for item, _ in row.history] for row in samples] == [
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        [2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        [3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ]
    assert [(row.user, row.timestamp) for row in samples] == [(7, 111), (7, 112), (7, 113)]


def test_a_user_with_ten_ratings_gives_no_sample():
    assert build_samples(ratings(*((7, item, 5, item) for item in range(1, 11)))) == []


def test_rows_come_in_order_of_time_and_ties_in_order_of_the_file():
    order = [5, 3, 9, 1, 12, 7, 2, 11, 4, 6, 10, 8]
    late_first = [(7, item, 4, 50) for item in order]
    early = [(7, 20, 4, 49)]  # last in the file, first in time
    samples = build_samples(ratings(*late_first, *early))
    assert [item for item, _ in samples[0].history] == [20, 5, 3, 9, 1, 12, 7, 2, 11, 4]
    assert [row.target for row in samples] == [6, 10, 8]


def test_users_come_in_order_of_first_appearance_and_not_of_id_or_time():
    rows = []
    for item in range(1, 12):  # interleaved: 30 appears first, then 4, then 17
        rows += [(30, item, 3, 900 + item), (4, item, 3, 500 + item), (17, item, 3, 100 + item)]
    assert [row.user for row in build_samples(ratings(*rows))] == [30, 4, 17]


def test_liked_is_a_rating_above_three():
    stars = [1, 2, 3, 4, 5, 3, 3, 3, 3, 3]
    rows = [(1, i + 1, rating, i) for i, rating in enumerate(stars)] + [(1, 11, 3, 90), (1, 12, 4, 91)]
    samples = build_samples(ratings(*rows))
    assert [liked for _, liked in samples[0].history] == [False, False, False, True, True] + [False] * 5
    assert [row.label for row in samples] == [False, True]


def test_titles_are_latin_1_and_a_windows_ellipsis_does_not_end_a_line():
    content = "1|Étoile à Nîmes, L' (1969)|x\n2|Wait\x85 (1971)|x\n".encode("iso-8859-1")
    titles = {number: item.title for number, item in parse_items(content, ITEMS).items()}
    assert titles == {1: "Étoile à Nîmes, L' (1969)", 2: "Wait\x85 (1971)"}


def test_windows_line_ends_are_read_as_well():
    assert parse_items(b"1|One (1990)\r\n2|Two (1991)\r\n", ITEMS)[2].title == "Two (1991)"
    assert by_user(parse_ratings(b"3\t1\t5\t77\r\n", RATINGS, "\t", CATALOGUE, "u.item")) == {3: [(77, 1, 5)]}


# ---- refusals -----------------------------------------------------------------------------------

GOOD_RATING = b"1\t2\t3\t4\n"
MALFORMED_RATINGS = {
    "three fields": b"1\t2\t3",
    "five fields": b"1\t2\t3\t4\t5",
    "commas": b"1,2,3,4",
    "header": b"user\titem\trating\ttime",
    "negative": b"-1\t2\t3\t4",
    "fraction": b"1\t2\t3.5\t4",
    "space": b"1\t2\t3\t 4",
    "empty line": b"",
    "other digits": "1\t2\t3\t٤".encode(),
    "binary": b"\xff\x00\x01",
    "endless number": b"1\t2\t3\t" + b"4" * 5000,
    "no stars": b"1\t2\t0\t4",
    "six stars": b"1\t2\t6\t4",
    "unknown item": b"1\t41\t3\t4",
}


@pytest.mark.parametrize("line", MALFORMED_RATINGS.values(), ids=MALFORMED_RATINGS)
def test_a_malformed_rating_is_refused_by_file_and_line(line):
    with pytest.raises(DataError, match=r"^u\.data line 3: ") as refusal:
        list(parse_ratings(GOOD_RATING * 2 + line + b"\n" + GOOD_RATING, RATINGS, "\t", CATALOGUE, "u.item"))
    assert len(str(refusal.value)) < 200 and "\n" not in str(refusal.value)


MALFORMED_ITEMS = {
    "no title": b"2",
    "empty title": b"2||01-Jan-1990",
    "no number": b"x|Two (1991)",
    "tabs": b"2\tTwo (1991)",
    "empty line": b"",
    "endless number": b"2" * 5000 + b"|Two (1991)",
}


@pytest.mark.parametrize("line", MALFORMED_ITEMS.values(), ids=MALFORMED_ITEMS)
def test_a_malformed_item_is_refused_by_file_and_line(line):
    with pytest.raises(DataError, match=r"^u\.item line 2: ") as refusal:
        parse_items(b"1|One (1990)|\n" + line + b"\n3|Three (1992)|\n", ITEMS)
    assert len(str(refusal.value)) < 200


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "u.item").write_bytes(b"")
    assert movie.raw_files(tmp_path) == []
    (tmp_path / "u.item").rename(tmp_path / "u.data")
    with pytest.raises(DataError, match="u.item: missing"):
        movie.raw_files(tmp_path)


def test_too_few_samples_are_refused_with_their_number(tmp_path):
    (tmp_path / "u.item").write_bytes(MANY_ITEMS)
    (tmp_path / "u.data").write_text("".join(f"1\t{item}\t4\t{item}\n" for item in range(1, 31)))
    with pytest.raises(DataError, match=r"u\.data: gives 20 samples, 10,000 are needed"):
        movie.build(movie.raw_files(tmp_path), print)


def big_enough(folder):
    """270 users with 48 ratings each: 10,260 samples."""
    items = "".join(f"{i}|Invented {i} (1990)\n" for i in range(1, 49))
    rows = (f"{u}\t{i}\t{1 + (u + i) % 5}\t{i}\n" for u in range(1, 271) for i in range(1, 49))
    (folder / "u.item").write_text(items)
    (folder / "u.data").write_text("".join(rows))
    return folder


def test_the_last_ten_thousand_samples_are_kept_and_other_files_than_the_published_ones_are_told(tmp_path):
    data = movie.build(movie.raw_files(big_enough(tmp_path)), print)
    assert (len(data.train), len(data.valid), len(data.test)) == (8000, 1000, 1000)
    assert data.source == "movielens-100k (altered files)"
    # 260 samples of 38 a user are dropped at the front: six users and 32 rows of the seventh.
    assert (data.train[0].user, data.train[0].target) == (7, 43)
    assert (data.test[-1].user, data.test[-1].target) == (270, 48)


# ---- the command --------------------------------------------------------------------------------


def prepare(raw, out):
    command = [sys.executable, "prepare.py", "movie", "--raw", str(raw), "--out", str(out), "--published"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_three_splits_or_says_in_one_line_what_is_wrong(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    done = prepare(big_enough(raw), out)
    assert done.returncode == 0, done.stderr
    prepared = ["items.jsonl", "prepared.json", "rows.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*prepared, "test.json", "train.json", "valid.json"])

    content = (raw / "u.data").read_bytes().splitlines(keepends=True)
    (raw / "u.data").write_bytes(b"".join(content[:4] + [b"1\t2\n"] + content[5:]))
    failed = prepare(raw, tmp_path / "other")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1 and f"{raw / 'u.data'} line 5: " in failed.stderr
    assert not (tmp_path / "other").exists()


# ---- the real files -----------------------------------------------------------------------------

COUNTS = {  # datasets.md: rows, positives, users, target items, no preference, no unpreference
    "train": (8000, 4457, 80, 1200, 241, 486),
    "valid": (1000, 658, 14, 536, 1, 128),
    "test": (1000, 528, 16, 544, 60, 62),
}


@pytest.mark.parametrize("split", COUNTS)
def test_counts_of_the_real_split(movielens, split):
    rows = getattr(movielens, split)
    counts = (
        len(rows),
        sum(row.label for row in rows),
        len({row.user for row in rows}),
        len({row.target for row in rows}),
        sum(not any(liked for _, liked in row.history) for row in rows),
        sum(all(liked for _, liked in row.history) for row in rows),
    )
    assert counts == COUNTS[split]
    assert movielens.source == "movielens-100k"


def test_no_test_user_is_in_train_and_every_history_has_ten_items(movielens):
    users = {split: {row.user for row in getattr(movielens, split)} for split in COUNTS}
    assert not users["train"] & users["test"]
    assert len(users["train"] | users["valid"] | users["test"]) == 108
    assert {len(row.history) for split in COUNTS for row in getattr(movielens, split)} == {10}


def test_train_json_is_the_one_that_tallrec_published(movielens, tmp_path):
    write_split(tmp_path / "train.json", movielens.train, movielens)
    digest = hashlib.sha256((tmp_path / "train.json").read_bytes()).hexdigest()
    assert digest == "460a86393450916596057967c7672c909edc9e73c7f61571c6a274659ffbdc53"


def test_valid_json_is_the_published_file_byte_for_byte(movielens, tmp_path, real_file):
    write_split(tmp_path / "valid.json", movielens.valid, movielens)
    assert (tmp_path / "valid.json").read_bytes() == real_file("tallrec-movie/valid.json").read_bytes()


# ---- shots --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed, first", [(0, [7780, 1259, 6745, 6339]), (42, [5117, 7842, 7447])])
def test_shots_are_the_first_of_a_seeded_permutation(seed, first):
    rows = list(range(8000))
    assert select_shots(rows, len(first), seed) == first
    assert select_shots(rows, 64, seed)[: len(first)] == first
    assert sorted(select_shots(rows, None, seed)) == rows


@pytest.mark.parametrize("shots", [0, 8001])
def test_more_shots_than_rows_are_refused_with_the_number_there_is(shots):
    with pytest.raises(DataError, match=rf"--shots {shots}: the training split has 8000 rows"):
        select_shots(list(range(8000)), shots, 0)


# ---- copies of the files ------------------------------------------------------------------------


def test_a_copy_in_utf_8_has_the_same_titles_and_it_is_said():
    content, said = "1|Étoile à Nîmes (1969)|x\n".encode(), []
    for copy in (content, b"\xef\xbb\xbf" + content):
        encoding = encoding_of(copy, ITEMS, said.append)
        assert parse_items(copy, ITEMS, encoding)[1].title == "Étoile à Nîmes (1969)"
    assert said == ["u.item: read as UTF-8; the published file is in Latin-1"] * 2
    assert encoding_of(content.decode().encode("latin-1"), ITEMS, said.append) == "iso-8859-1" and len(said) == 2
    encoding_of(content + b"2|\xc9toile\n", ITEMS, said.append)
    assert "1 lines look like UTF-8, first line 1" in said[2]


def test_the_real_titles_come_out_the_same_after_a_conversion(real_file):
    content = real_file("ml-100k/u.item").read_bytes()
    copy, said = content.decode("latin-1").encode(), []
    assert parse_items(content, ITEMS, encoding_of(content, ITEMS, said.append)) == parse_items(content, ITEMS)
    assert not said
    assert parse_items(copy, ITEMS, encoding_of(copy, ITEMS, said.append)) == parse_items(content, ITEMS)


@pytest.mark.parametrize(
    "times", [("5", "7"), ("2024-05-01", "2024-05-02"), ("1700000000123", "1700000000124"), ("5.25", "5.5")]
)
def test_times_are_read_as_everywhere_and_a_mixture_is_refused(times):
    later, earlier = (f"3\t{item}\t5\t{time}\n".encode() for item, time in ((1, times[1]), (2, times[0])))
    rows = by_user(parse_ratings(later + earlier, RATINGS, "\t", CATALOGUE, "u.item"))[3]
    assert [item for _, item, _ in sorted(rows, key=lambda row: row[0])] == [2, 1]
    with pytest.raises(DataError, match="mixes forms of time: line 1 has .*, line 3 has '20240501'"):
        list(parse_ratings(later + earlier + b"3\t2\t5\t20240501\n", RATINGS, "\t", CATALOGUE, "u.item"))
