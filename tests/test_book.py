"""Book-Crossing: invented files with every trap, and the rows that TALLRec published."""

import csv
import hashlib
import random
from collections import Counter

import numpy as np
import pytest

from data.interactions import Interaction, Item
from data.pairs import encode_pairs
from data.sources import book, tallrec
from errors import DataError
from model.tokenizer import load_tokenizer

BOOKS = """"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"
"1";"Plain";"Ann One";"1990";"P"
"2";"Semi; colon";"Bob; Two";"1991";"P"
"3";"\\"O\\" Is for Outlaw";"SUE";"1992";"P"
"4";"Broken \\"quote\\"; and more";"Dan";"1993";"P"
"5";"Fish &amp; Chips, \xc3\xa9t\xc3\xa9";"Eve";"1994";"P"
"6";"Nobody wrote it";"";"1995";"P"
"7";"N\xeemes";"Fay";"1996";"P"
"1";"Plain again";"Other";"1997";"P"
"8";"Doubled ""inner"" quotes";"Gil";"1998";"P"
"""
KNOWN = ["1", "2", "3", "5", "6", "7", "8"]


def ratings_text(rows, separator=";"):
    return (
        separator.join(['"User-ID"', '"ISBN"', '"Book-Rating"'])
        + "\n"
        + "".join(separator.join(f'"{value}"' for value in row) + "\n" for row in rows)
    )


def random_ratings(users=40, seed=1):
    rng = random.Random(seed)
    rows = [
        (user, isbn, rng.choice([0, 0, 0, 5, 6, 9]))
        for user in range(1, users + 1)
        for isbn in rng.sample([*KNOWN, "none"], rng.randint(1, 8))
    ]
    rng.shuffle(rows)
    return rows


@pytest.fixture
def notices():
    return []


def write(
    folder, books=BOOKS, rows=None, names=("BX-Books.csv", "BX-Book-Ratings.csv"), encoding="latin-1", separator=";"
):
    (folder / names[0]).write_bytes(books.encode(encoding))
    (folder / names[1]).write_bytes(
        ratings_text(random_ratings() if rows is None else rows, separator).encode(encoding)
    )
    return book.raw_files(folder)


# ---- reading ------------------------------------------------------------------------------------


def test_titles_come_out_as_tallrecs_reader_has_them(tmp_path, notices):
    catalogue = book.read_books(write(tmp_path)[0], notices.append)
    assert catalogue == {
        "1": Item("Plain", "Ann One"),
        "2": Item("Semi; colon", "Bob; Two"),
        "3": Item('\\O\\" Is for Outlaw"', "SUE"),  # as in the published prompts
        "5": Item("Fish &amp; Chips, \xc3\xa9t\xc3\xa9", "Eve"),  # mojibake stays
        "6": Item("Nobody wrote it", None),
        "7": Item("N\xeemes", "Fay"),
        "8": Item('Doubled "inner" quotes', "Gil"),
    }
    assert len(notices) == 1 and "1 lines with too many fields" in notices[0] and "BX-Books.csv" in notices[0]


def test_the_title_of_the_published_example_is_reproduced(real_file):
    """The garbled title that the source's escapes give under a reader that knows none is in the published file."""
    text = real_file("tallrec-book/valid.json").read_text()
    assert '\\"\\\\O\\\\\\" Is for Outlaw\\"\\" written by SUE GRAFTON' in text


def test_the_dialect_with_commas_and_utf_8_gives_the_same(tmp_path, notices):
    rows = [
        ("ISBN", "Book-Title", "Book-Author", "Year", "Publisher"),
        *(
            (isbn, item.title, item.author or "", "1990", "P")
            for isbn, item in book.read_books(write(tmp_path)[0], notices.append).items()
        ),
    ]
    other = tmp_path / "other"
    other.mkdir()
    with open(other / "Books.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (other / "Ratings.csv").write_text(ratings_text(random_ratings(), ","))
    first, second = (book.build(book.raw_files(folder), notices.append) for folder in (tmp_path, other))
    assert first.fingerprint() == second.fingerprint() and first.catalogue == second.catalogue


def test_the_other_names_of_the_columns_are_known(tmp_path, notices):
    books = BOOKS.replace("Book-Title", "Title").replace("Book-Author", "Author")
    assert len(book.read_books(write(tmp_path, books)[0], notices.append)) == 7


def test_a_copy_in_utf_8_is_said(tmp_path, notices):
    book.read_books(write(tmp_path, encoding="utf-8")[0], notices.append)
    assert any("BX-Books.csv: read as UTF-8" in line for line in notices)


BAD_BOOKS = {
    "after a cell of two lines": (
        BOOKS + '"8b";"Two\nlines";"X";"1990";"P"\n"9";"";"X";"1990";"P"\n',
        "line 13: book 9 has",
    ),
    "no title": (BOOKS + '"9";"";"X";"1990";"P"\n', "line 11: book 9 has no title"),
    "cut off": (BOOKS + '"9";"Half', "line 11: has 2 fields, the header has 5"),
    "no column": (
        BOOKS.replace("Book-Author", "Writer"),
        "line 1: column Book-Author is missing; found 'ISBN, Book-Title, Writer",
    ),
    "empty": ("", "line 1: column ISBN is missing"),
}


@pytest.mark.parametrize("books, message", BAD_BOOKS.values(), ids=BAD_BOOKS)
def test_a_malformed_book_file_is_named_with_its_line(tmp_path, notices, books, message):
    with pytest.raises(DataError, match="BX-Books.csv") as refusal:
        book.build(write(tmp_path, books), notices.append)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "row, message",
    [
        (("x", "1", 5), "a user number"),
        ((1, "1", "y"), "and a rating"),
        ((1, "1", 11), "rating 11 is not within 0 to 10"),
    ],
)
def test_a_malformed_rating_is_named_with_its_line(tmp_path, notices, row, message):
    files = write(tmp_path, rows=[(1, "2", 3), row])
    with pytest.raises(DataError, match=f"BX-Book-Ratings.csv line 3: .*{message}"):
        book.build(files, notices.append)


def test_too_few_users_are_refused(tmp_path, notices):
    with pytest.raises(DataError, match="1 users have more than 3 rows"):
        book.build(
            write(tmp_path, rows=[(1, isbn, 5) for isbn in KNOWN] + [(2, isbn, 5) for isbn in KNOWN[:3]]),
            notices.append,
        )


# ---- from ratings to samples --------------------------------------------------------------------


def brute_force(rows, known, drop):
    """{user: Interaction}: nested loops, as data/sources/book.py describes it."""
    rows = [row for row in rows if row[1] in known and not (drop and row[2] == 0)]
    order = []
    for _, isbn, _ in rows:
        if isbn not in order:
            order.append(isbn)
    samples = {}
    for user in {row[0] for row in rows}:
        mine = [(isbn, rating > 5) for wanted in order for of, isbn, rating in rows if of == user and isbn == wanted]
        if len(mine) <= 3:
            continue
        random.seed(42)
        random.shuffle(mine)
        samples[user] = Interaction(user, tuple(mine[: min(len(mine) - 1, 10)]), mine[-1][0], mine[-1][1])
    return samples


@pytest.mark.parametrize("zeros", ["dislike", "drop"])
def test_every_user_with_more_than_three_rows_gives_the_sample_of_nested_loops(tmp_path, notices, zeros):
    rows = random_ratings(60)
    data = book.build(write(tmp_path, rows=rows), notices.append, zeros)
    expected = brute_force(rows, KNOWN, zeros == "drop")
    assert {row.user: row for row in (*data.train, *data.valid, *data.test)} == expected
    n = len(expected)
    assert (len(data.train), len(data.valid)) == (int(n * 0.8), int(n * 0.9) - int(n * 0.8))
    assert (data.noun, data.wording, "dropped" in data.source) == ("book", "tallrec", zeros == "drop")


def test_three_rows_are_too_few_and_four_are_enough(tmp_path, notices):
    rows = [(user, isbn, 6) for user in range(1, 21) for isbn in KNOWN[: 3 if user == 7 else 4]]
    data = book.build(write(tmp_path, rows=rows), notices.append)
    assert {row.user for row in (*data.train, *data.valid, *data.test)} == set(range(1, 21)) - {7}


def test_the_split_is_the_same_each_time_and_not_the_order_of_the_file(tmp_path, notices):
    files = write(tmp_path, rows=random_ratings(60))
    first, second = book.build(files, notices.append), book.build(files, notices.append)
    assert first == second
    users = [row.user for row in first.train]
    assert users != sorted(users)


def test_history_keeps_ten_of_many_rows(tmp_path, notices):
    books = "ISBN;Book-Title;Book-Author\n" + "".join(f"{i};T{i};A\n" for i in range(30))
    rows = [(user, str(i), 7) for user in range(12) for i in range(30)]
    data = book.build(write(tmp_path, books, rows), notices.append)
    assert {len(row.history) for row in data.train} == {10}


# ---- what is published --------------------------------------------------------------------------


def test_the_published_rows_are_read_and_written_back_byte_for_byte(tmp_path, real_file):
    path = real_file("tallrec-book/valid.json")
    rows, catalogue, noun = tallrec.read_split(path)
    data = book.Dataset("book", "x", noun, catalogue, rows, rows, rows)
    tallrec.write_split(tmp_path / "x.json", rows, data)
    digest = hashlib.sha256((tmp_path / "x.json").read_bytes()).hexdigest()
    assert digest == "484165aefc7941fd9f19cc9f42144832d5cee7424b15dc661b753d7705769aa2"


def test_the_published_rows_have_the_published_counts(real_file):
    rows, catalogue, noun = tallrec.read_split(real_file("tallrec-book/valid.json"))
    assert (len(rows), sum(row.label for row in rows), noun) == (2427, 1011, "book")
    lengths = Counter(len(row.history) for row in rows)
    assert lengths == {3: 395, 4: 266, 5: 190, 6: 159, 7: 147, 8: 123, 9: 84, 10: 1063}
    assert sum(not any(liked for _, liked in row.history) for row in rows) == 289
    assert sum(all(liked for _, liked in row.history) for row in rows) == 175
    assert all(item.title and item.author for item in catalogue.values())


def test_written_and_read_again_the_samples_are_the_same(tmp_path, notices):
    data = book.build(write(tmp_path), notices.append)
    tallrec.write_folder(data, tmp_path)
    again = book.read_published(tmp_path)

    def shown(dataset, rows):
        # The published form lists likes before dislikes.
        return [
            (
                sorted((dataset.catalogue[item].title, liked) for item, liked in row.history),
                dataset.catalogue[row.target].title,
                row.label,
            )
            for row in rows
        ]

    assert [shown(data, rows) for rows in (data.train, data.test)] == [
        shown(again, rows) for rows in (again.train, again.test)
    ]


def test_lengths_of_the_published_rows_with_llamas_tokenizer(real_file):
    tokenizer = load_tokenizer(real_file("llama-tokenizer/tokenizer.model").parent, 32000)
    rows, catalogue, noun = tallrec.read_split(real_file("tallrec-book/valid.json"))
    data = book.Dataset("book", "x", noun, catalogue, rows, rows, rows)
    pairs, truncated = encode_pairs(rows, data, tokenizer, "released", 512)
    lengths = [len(pair.positive) for pair in pairs]
    assert truncated == 0
    assert (min(lengths), np.median(lengths), round(np.percentile(lengths, 95)), max(lengths)) == (161, 282, 375, 476)
    # 55 prompts hold further Yes or No tokens in their titles; the answer is found by its place all the same.
    # (The instruction itself has two.)
    assert sum(sum(token in (8241, 3782) for token in pair.positive.prompt) > 2 for pair in pairs) == 55
    assert all(list(pair.positive.answer) == [8241 if row.label else 3782, 29889, 2] for row, pair in zip(rows, pairs))
