"""A user's files in the forms that people have: headers, separators, layouts, times, ratings of 0, bad lines."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from data.interactions import Item
from data.load import load_dataset
from data.sources import book, custom
from errors import DataError, quoted
from tests.test_book import random_ratings
from tests.test_book import write as write_book
from tests.test_custom import GOOD, ITEMS, as_csv, build, invented, write

ROOT = Path(__file__).parent.parent
PLAIN = "item,title\n" + "".join(f"{i},Game {i}\n" for i in range(12))


def heard(folder, **options):
    """(the data set, the notices)."""
    lines = []
    data = custom.build(custom.raw_files(folder), lines.append, **{"like_threshold": 3} | options)
    return data, lines


def same_rows(one, other):
    return (one.train, one.valid, one.test) == (other.train, other.valid, other.test)


@pytest.fixture
def plain(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    return build(write(folder, GOOD, PLAIN), like_threshold=3)


# ---- headers, separators, layouts ---------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "userId,movieId,Rating,Timestamp",
        "User-ID,ISBN,Book-Rating,Date",
        "USER,Item,STARS,created_at",
        "uid,asin,score,ts",
    ],
)
def test_headers_are_matched_without_regard_to_case_and_by_alias(tmp_path, plain, header):
    data, said = heard(write(tmp_path, GOOD.replace("user,item,rating,timestamp", header, 1), PLAIN))
    assert same_rows(data, plain)
    assert any(f"item is {header.split(',')[1]}" in line for line in said)


@pytest.mark.parametrize("separator, word", [(";", "semicolons"), ("\t", "tabs")])
def test_the_separator_is_recognised_and_said(tmp_path, plain, separator, word):
    data, said = heard(write(tmp_path, "\ufeff" + GOOD.replace(",", separator), PLAIN.replace(",", separator)))
    assert same_rows(data, plain) and sum(line.endswith(f"separated by {word}") for line in said) == 2


def test_decimal_commas_are_read_and_said_and_a_mixture_is_refused(tmp_path, plain):
    rows = [(u, i, f"{r},5", t) for u, i, r, t in invented()]
    text = as_csv([]).replace(",", ";") + "".join(";".join(map(str, row)) + "\n" for row in rows)
    data, said = heard(write(tmp_path, text, PLAIN), like_threshold=3.5)
    assert same_rows(data, plain) and any("column rating has decimal commas" in line for line in said)
    write(tmp_path, text + "u1;1;3.5;5\n", PLAIN)
    with pytest.raises(DataError, match="mixes decimal points and commas: line 2 has '.,5', line .* has '3.5'"):
        heard(tmp_path, like_threshold=3.5)


@pytest.mark.parametrize("cell", ["1_0", "\uff14", "\u0664"])
def test_a_number_that_only_python_reads_is_refused(tmp_path, cell):
    rows = "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in invented())
    write(tmp_path, as_csv([]) + rows + f"u1,1,{cell},5\n", PLAIN)
    with pytest.raises(DataError, match="column rating: expected a number, found"):
        heard(tmp_path, like_threshold=3.5)


def test_author_counts_whatever_its_case_and_other_columns_are_listed(tmp_path):
    items = (
        ITEMS.replace("item,title,author", "item,title,Author").replace("\n", ",x\n").replace("Author,x", "Author,Kind")
    )
    data, said = heard(write(tmp_path, GOOD, items))
    assert data.catalogue["1"] == Item("Game 1", "Fay")
    assert any(line.endswith("items.csv: author is Author; columns not used: Kind") for line in said)


@pytest.mark.parametrize(
    "header, message",
    [
        ("user,item,rating,Rating,timestamp", "column rating is there twice"),
        ("user_id,uid,item,rating,timestamp", "columns 'user_id' and 'uid' both mean user; keep one"),
        ("user,item,score,stars,timestamp", "columns 'score' and 'stars' both mean rating"),
    ],
)
def test_two_columns_of_one_meaning_are_refused(tmp_path, header, message):
    write(tmp_path, header + "\n" + ",".join("1" * (header.count(",") + 1)) + "\n", PLAIN)
    with pytest.raises(DataError, match=message):
        heard(tmp_path)


def test_gzipped_files_are_read_and_two_of_a_name_refused(tmp_path, plain):
    write(tmp_path, GOOD, PLAIN)
    for path in list(tmp_path.glob("*.csv")):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match="has interactions.csv and interactions.csv.gz; keep one"):
        custom.raw_files(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    assert same_rows(heard(tmp_path)[0], plain)


@pytest.mark.parametrize("layout", ["csv", "dat"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_the_layouts_of_movielens_are_read_as_own_data(tmp_path, plain, layout, encoding):
    titles = PLAIN.replace("Game 3", "Misérables: 3")
    if layout == "csv":
        if encoding == "latin-1":
            pytest.skip("CSV is UTF-8")
        ratings = GOOD.replace("user,item,", "userId,movieId,", 1)
        movies = titles.replace("\n", ",Drama\n").replace("item,title,Drama", "movieId,title,genres")
    else:
        ratings, movies = (text.split("\n", 1)[1].replace(",", "::") for text in (GOOD, titles))
        movies = movies.replace("\n", "::Drama\n").replace("Misérables: 3", "Misérables:: 3")
    (tmp_path / f"ratings.{layout}").write_text(ratings)
    (tmp_path / f"movies.{layout}").write_bytes(movies.encode(encoding))
    data, said = heard(tmp_path)
    assert same_rows(data, plain) and data.noun == "movie" and any("--noun WORD" in line for line in said)
    assert data.catalogue["3"].title.startswith("Misérables:")
    assert any("read as UTF-8" in line for line in said) == (layout == "dat" and encoding == "utf-8")


# ---- times --------------------------------------------------------------------------------------


def test_history_never_holds_the_future_within_a_second(tmp_path):
    rows = [(f"u{u}", i, i, f"2024-05-{u + 1:02d}T10:00:00.{9 - i}") for u in range(9) for i in range(5)]
    data, said = heard(write(tmp_path, as_csv(rows), PLAIN))
    for row in (*data.train, *data.valid, *data.test):
        assert [int(item) for item, _ in row.history] == list(range(4, int(row.target), -1))
    assert any(
        "times are read as dates with times, as YYYY-MM-DD, without zones: UTC, from 2024-05-01" in s for s in said
    )
    assert not any("equal" in line for line in said)


def test_equal_times_are_counted_and_said(tmp_path):
    rows = [(f"u{u}", i, i, 1700000000 + (u if i > 1 else 99)) for u in range(9) for i in range(5)]
    _, said = heard(write(tmp_path, as_csv(rows), PLAIN))
    assert any("45 of 45 times are equal to another of the same user" in line for line in said)
    _, said = heard(write(tmp_path, as_csv([(*row[:3], 0) for row in rows]), PLAIN))
    assert any("all 45 times are equal" in line and "--split-by user" in line for line in said)


def test_a_column_of_two_forms_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"interactions.csv, column timestamp: mixes forms of time: line \d+ has"):
        heard(write(tmp_path, GOOD + "u1,1,3,2024-05-01\n", PLAIN))


# ---- ratings of 0, likes ------------------------------------------------------------------------


def test_zeros_are_counted_and_dropped_or_disliked_on_request(tmp_path):
    rows = [(u, i, 0 if r == 2 else r, t) for u, i, r, t in invented()]
    zeros = sum(row[2] == 0 for row in rows)
    write(tmp_path, as_csv(rows), PLAIN)
    data, said = heard(tmp_path)
    assert any(f"{zeros} of {len(rows)} ratings are 0; they count as disliked" in line for line in said)
    assert same_rows(data, heard(tmp_path, zeros="dislike")[0]) and same_rows(
        heard(tmp_path, zeros="dislike", like_threshold=0)[0], heard(tmp_path, like_threshold=0.5)[0]
    )
    dropped, said = heard(tmp_path, zeros="drop")
    assert any("they are left out" in line for line in said)
    assert same_rows(dropped, heard(write(tmp_path, as_csv([row for row in rows if row[2]]), PLAIN))[0])


def test_zeros_is_another_name_of_book_zeros(tmp_path):
    files, said = write_book(tmp_path, rows=random_ratings()), []
    chosen = {zeros: book.SOURCE.options_from({"zeros": zeros, "book_zeros": "dislike"}) for zeros in ("drop", None)}
    assert chosen == {"drop": {"book_zeros": "drop"}, None: {"book_zeros": "dislike"}}
    book.build(files, said.append)
    zeros = sum(rating == 0 for _, _, rating in random_ratings())
    assert any(f"{zeros:,} of " in line and "--zeros drop" in line for line in said)


def test_liked_may_be_a_decimal_number(tmp_path):
    rows = [f"u{i % 3},{i % 12},{'1.0' if i % 2 else '0.0'},{i}\n" for i in range(30)]
    data = build(write(tmp_path, "user,item,liked,timestamp\n" + "".join(rows), PLAIN))
    assert {row.timestamp: row.label for row in data.train} == {i: i % 2 == 1 for i in range(3, 24)}


def test_likes_alone_are_refused_without_naming_a_threshold(tmp_path):
    with pytest.raises(DataError, match="all rows are liked; a model learns from both") as refusal:
        build(write(tmp_path, "user,item,liked,timestamp\nu,1,1,5\nu,2,1,6\n", PLAIN))
    assert "threshold" not in str(refusal.value)


# ---- bad lines ----------------------------------------------------------------------------------

BAD = 'u1,nix,3,5\nu1,nox,3,5\nu1,1,x,5\nu1,1,3,soon\nu1,1,3\n"u\n9",1,3,\nu1,3,3,70\n'


def test_bad_lines_are_listed_together_and_left_out_on_request(tmp_path, plain):
    first = GOOD.count("\n") + 1
    write(tmp_path, GOOD + BAD.replace("u1,3,3,70\n", "u1,nix,3,70\n"), PLAIN + '3,Again\n98,"Tom"", ""Dick"\n')
    with pytest.raises(DataError) as refusal:
        heard(tmp_path)
    text = str(refusal.value)
    for problem in (
        "items.csv line 14, column item: '3' is listed twice",
        'items.csv line 15, column title: has `", "`, which separates titles',
        f"line {first}, column item: 'nix' is not in items.csv",
        f"line {first + 2}, column rating: expected a number, found 'x'",
        f"line {first + 3}, column timestamp: expected unix time",
        f"line {first + 4}: has 3 fields",
        f"line {first + 5}, column timestamp: is empty",
        f"line {first + 7}, column item: 'nix'",
        "2 items have no line there: 'nix', 'nox'",
        "9 lines cannot be used: 3 with an item that items.csv does not have,",
    ):
        assert problem in text
    data, said = heard(tmp_path, skip_bad=True)
    assert same_rows(data, plain)
    assert sum(line.startswith("SKIPPED: ") for line in said) == 9 and any("9 lines are left out" in s for s in said)


def test_an_item_that_prompts_cannot_show_is_named_once(tmp_path):
    write(tmp_path, GOOD, PLAIN.replace("Game 3", '"a"", ""b"'))
    with pytest.raises(DataError) as refusal:
        heard(tmp_path)
    assert "\n" not in str(refusal.value) and "items.csv line 5, column title" in str(refusal.value)
    data, said = heard(tmp_path, skip_bad=True)
    assert "3" not in data.catalogue and any("'3' is left out of items.csv" in line for line in said)


def test_repeated_lines_are_counted_and_left_out_on_request(tmp_path, plain):
    line = GOOD.splitlines()[1]
    write(tmp_path, GOOD + f"{line}\n{line}\n", PLAIN)
    data, said = heard(tmp_path)
    n = GOOD.count("\n")
    assert any(f"2 lines repeat an earlier line (lines {n + 1}, {n + 2})" in text for text in said)
    assert not same_rows(data, plain) and same_rows(heard(tmp_path, skip_bad=True)[0], plain)


def test_garbled_titles_and_titles_of_two_items_are_said(tmp_path):
    _, said = heard(write(tmp_path, GOOD, PLAIN.replace("Game 3", "MisÃ©rables").replace("Game 5", "Game 4")))
    assert any("1 items look as if UTF-8 had been read as Latin-1, first 'MisÃ©rables'" in line for line in said)
    assert any("1 items have title and author of another, first '4' and '5'" in line for line in said)


# ---- folders ------------------------------------------------------------------------------------


def test_a_folder_of_something_else_says_what_is_there_and_what_is_read(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="has notes.txt. Three forms are read: .*items.csv.*train.json.*prepared.json"):
        load_dataset(str(tmp_path), None, True, print)
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner, GOOD)
    with pytest.raises(DataError, match="in a folder within it: write --data .*inner"):
        load_dataset(str(tmp_path), None, True, print)
    for name in ("u.data", "u.item"):
        (inner / name).write_text("")
    for name in custom.FILES:
        (inner / name).unlink()
    with pytest.raises(DataError, match="the files of movie: write --data movie --data-dir"):
        load_dataset(str(inner), None, True, print)


def test_a_folder_called_like_a_data_set_is_named(tmp_path):
    (tmp_path / "movie").mkdir()
    write(tmp_path / "movie", GOOD)
    command = [sys.executable, ROOT / "prepare.py", "show", "--data", "movie", "--like-threshold", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "for the folder movie write --data ./movie" in done.stderr


def test_what_is_cut_in_a_message_ends_after_a_word():
    assert quoted("one two three four", 14) == "'one two..." and quoted("abcdefghijklmnop", 10) == "'abcdef..."
    assert quoted("one two", 9) == "'one two'"


# ---- what people really hand over ---------------------------------------------------------------

ROW = "u,1,4,1500000000\n"
ODD = {
    "pandas' floats": (
        "user,item,rating,timestamp\nu,1.0,4,1500000000\n",
        "'1.0' is not in items.csv ('1' is: write it",
    ),
    "padded": ("user,item,rating,timestamp\nu,0011,4,1500000000\n", "'0011' is not in items.csv ('11' is: write it"),
    "another item": ("user,item,rating,timestamp\nu,99,4,1500000000\n", "'99' is not in items.csv; mend the line"),
    "bars": ("user|item|rating|timestamp\nu|1|4|1500000000\n", "commas, semicolons or tabs separate columns"),
    "a workbook": (
        "PK\x03\x04",
        "interactions.csv: is a zip archive or an Excel workbook; unpack it, or save it as CSV",
    ),
}


@pytest.mark.parametrize("content, message", ODD.values(), ids=ODD)
def test_what_other_programs_write_is_refused_with_the_cause(tmp_path, content, message):
    with pytest.raises(DataError) as refusal:
        build(write(tmp_path, content, PLAIN), like_threshold=3)
    assert message in str(refusal.value)


def test_a_column_without_a_name_is_named_as_such_and_files_of_two_layouts_as_mixed(tmp_path):
    lines = as_csv(GOOD).splitlines() if not isinstance(GOOD, str) else GOOD.splitlines()
    indexed = "".join(f"{n if i else ''},{line}\n" for i, (n, line) in enumerate(zip(range(-1, len(lines)), lines)))
    _, said = heard(write(tmp_path, indexed, PLAIN))
    assert any(line.endswith("interactions.csv: columns not used: one without a name") for line in said)
    (tmp_path / "interactions.csv").rename(tmp_path / "ratings.csv")
    with pytest.raises(DataError, match=r"movies.csv: missing; ratings.csv goes with movies.csv \(here is items.csv"):
        custom.raw_files(tmp_path)


# ---- written by hand ----------------------------------------------------------------------------


def test_a_space_after_a_separator_is_no_part_of_a_title_and_quotes_after_it_are_quotes(tmp_path, plain):
    spaced = "item, title\n" + "".join(f'{i}, "Game, {i}"\n' if i % 2 else f"{i},  Game {i}\n" for i in range(12))
    data, said = heard(write(tmp_path, GOOD.replace(",", ", "), spaced))
    assert same_rows(data, plain) and not any("separated" in line for line in said)
    assert data.catalogue["3"] == Item("Game, 3") and data.catalogue["4"] == Item("Game 4")


@pytest.mark.parametrize("line", ["7,", "7,Game, 7"])
def test_an_item_whose_line_is_faulty_is_not_called_unknown(tmp_path, line):
    items = PLAIN.replace("7,Game 7", line)
    with pytest.raises(DataError) as refusal:
        build(write(tmp_path, GOOD, items), like_threshold=3)
    assert "items.csv line 9" in str(refusal.value) and "is not in items.csv" not in str(refusal.value)


def test_the_other_split_is_only_advised_where_it_leaves_no_split_empty(tmp_path):
    rows = [("u", str(i), i % 5, i) for i in range(3)]
    for by in ("time", "user"):
        with pytest.raises(DataError) as refusal:
            build(write(tmp_path, as_csv(rows)), like_threshold=2, split_by=by)
        assert str(refusal.value).endswith("; add interactions")
    rows = [(user, str(i), i % 5, i) for user in "ab" for i in range(8)]
    with pytest.raises(DataError, match="leaves no rows for valid; add interactions, or try --split-by time"):
        build(write(tmp_path, as_csv(rows[:12])), like_threshold=2, split_by="user")


@pytest.mark.parametrize("user", ["\x1b[31mu9", "u\u20289", "u\x009"])
def test_a_user_with_a_control_character_is_refused_with_its_line(tmp_path, user):
    rows = "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in invented())
    write(tmp_path, as_csv([]) + rows + f"{user},1,3,5\n", PLAIN)
    with pytest.raises(
        DataError, match="column user: .* has a line break or another control character; take it out"
    ) as refusal:
        heard(tmp_path, like_threshold=3.5)
    assert str(refusal.value).isprintable()
