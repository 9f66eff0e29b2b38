"""Book-Crossing to TALLRec's book data set.

What TALLRec's code does: ratings are joined with books on the ISBN, which groups them by book in order
of the books' first appearance among the ratings; users with more than three rows are kept; a rating
above 5 is liked. Each user gives one sample: the rows are shuffled with random.seed(42), the last is the
target, and the first ten of the others are the history. There are no timestamps.

Two things to know. A rating of 0 means "not rated" but counts as disliked there, 62 % of the file;
--book-zeros drop leaves those rows out. And TALLRec's order of users, which decides the 8:1:1 split,
was never seeded. Ours is (SPLIT_SEED), so the splits are not the published ones; those are read from
the published train, valid and test.json.

`python prepare.py book --raw DIR --out DIR` prepares it; --published adds TALLRec's JSON.
"""

import csv
import io
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from data.interactions import HISTORY, Dataset, Interaction, Item
from data.sources import tallrec
from data.sources.base import Option, Source
from errors import DataError, quoted
from files import plain_number, read_whole

NAME = "book"
BOOKS = ("BX-Books.csv", "BX_Books.csv", "Books.csv")
RATINGS = ("BX-Book-Ratings.csv", "BX_Book_Ratings.csv", "Ratings.csv")
# Copies in circulation name the same columns in two ways.
COLUMNS = {
    "isbn": ("ISBN",),
    "title": ("Book-Title", "Title"),
    "author": ("Book-Author", "Author"),
    "user": ("User-ID",),
    "rating": ("Book-Rating", "Rating"),
}
LIKED_ABOVE = 5  # of 10
MORE_ROWS_THAN = 3
SHUFFLE_SEED = 42  # TALLRec's, of each user's rows
SPLIT_SEED = 42  # ours, of the users
PUBLISHED_USERS = 24_266


def raw_files(folder: Path) -> list[Path]:
    """The two CSV files if the folder has them, else []."""
    files = [next((folder / name for name in names if (folder / name).is_file()), None) for names in (BOOKS, RATINGS)]
    return files if all(files) else []


def build(files: list[Path], notice: Callable[[str], None], book_zeros: str = "dislike") -> Dataset:
    """The data set from raw_files. Raises DataError naming the file and line of anything malformed."""
    books_path, ratings_path = files
    catalogue = read_books(books_path, notice)
    ratings = list(read_ratings(ratings_path, notice))
    if zeros := sum(rating == 0 for _, _, rating in ratings):
        what = "count as disliked, as in TALLRec; --zeros drop leaves them out"
        what = what if book_zeros == "dislike" else "are left out"
        notice(f'{ratings_path}: {zeros:,} of {len(ratings):,} ratings are 0, which means "not rated"; they {what}')
    by_user = join(ratings, catalogue, book_zeros)
    users = [user for user, rows in by_user.items() if len(rows) > MORE_ROWS_THAN]
    if len(users) < 10:
        raise DataError(
            f"{ratings_path}: {len(users)} users have more than {MORE_ROWS_THAN} rows with a known book; "
            "is it the whole file?"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(users))
    samples = [sample(users[i], by_user[users[i]]) for i in order]
    train, valid = int(len(users) * 0.8), int(len(users) * 0.9)
    source = "book-crossing" if len(users) == PUBLISHED_USERS else "book-crossing (altered files)"
    if book_zeros == "drop":
        source = "book-crossing, zeros dropped"
    used = {item for row in samples for item in (row.target, *(item for item, _ in row.history))}
    return Dataset(
        NAME,
        source,
        "book",
        {isbn: catalogue[isbn] for isbn in catalogue if isbn in used},
        train=samples[:train],
        valid=samples[train:valid],
        test=samples[valid:],
    )


def read_published(folder: Path) -> Dataset | None:
    """The data set from TALLRec's JSON, or None if the folder has none."""
    return tallrec.read_folder(folder, NAME) if (folder / "train.json").exists() else None


def join(
    ratings: Iterable[tuple[int, str, int]], catalogue: dict[str, Item], book_zeros: str
) -> dict[int, list[tuple[str, bool]]]:
    """{user: [(isbn, liked)]}, in the order that pandas 1's inner merge gives: book by book."""
    by_book: dict[str, list[tuple[int, bool]]] = {}
    for user, isbn, rating in ratings:
        if isbn in catalogue and (rating != 0 or book_zeros == "dislike"):
            by_book.setdefault(isbn, []).append((user, rating > LIKED_ABOVE))
    by_user: dict[int, list[tuple[str, bool]]] = {}
    for isbn, rows in by_book.items():
        for user, liked in rows:
            by_user.setdefault(user, []).append((isbn, liked))
    return by_user


def sample(user: int, rows: list[tuple[str, bool]]) -> Interaction:
    """The one sample of a user: the last of the shuffled rows is the target."""
    rows = list(rows)
    random.Random(SHUFFLE_SEED).shuffle(rows)
    *history, (target, liked) = rows
    return Interaction(user, tuple(history[:HISTORY]), target, liked)


def read_books(path: Path, notice: Callable[[str], None]) -> dict[str, Item]:
    """{isbn: Item}; author None where it is missing.

    Raises DataError with the number of a line without a title.
    """
    catalogue: dict[str, Item] = {}
    for line, isbn, title, author in _records(path, ("isbn", "title", "author"), notice):
        # A prompt has all titles in one line.
        title, author = " ".join(title.splitlines()), " ".join(author.splitlines())
        if not title:
            raise DataError(f"{path} line {line}: book {isbn} has no title")
        catalogue.setdefault(isbn, Item(title, author or None))
    return catalogue


def read_ratings(path: Path, notice: Callable[[str], None]) -> Iterator[tuple[int, str, int]]:
    """(user, isbn, rating from 0 to 10), in file order.

    Raises DataError with the number of a line that is none.
    """
    for line, user, isbn, rating in _records(path, ("user", "isbn", "rating"), notice):
        try:
            user_number, value = int(plain_number(user)), int(plain_number(rating))
        except ValueError:
            raise DataError(
                f"{path} line {line}: expected a user number and a rating, found {user[:20]!r} and {rating[:20]!r}"
            ) from None
        if not 0 <= value <= 10:
            raise DataError(f"{path} line {line}: rating {rating} is not within 0 to 10")
        yield user_number, isbn, value


def _records(path: Path, wanted: tuple[str, ...], notice: Callable[[str], None]) -> Iterator[tuple]:
    """(line, the wanted fields) of every record.

    The header tells which of two dialects the copy has: `;` between fields and Latin-1 (the original), or `,` and
    UTF-8. In the original a quote within a title is written \\", which closes the field for a CSV reader without
    escapes. TALLRec's reader is one, and so is this one: the backslash and the quote stay in the title, and a line
    that gets too many fields in this way is left out.
    """
    text = _decoded(read_whole(path), path, notice)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in text.split("\n", 1)[0] else ",")
    skipped, line = 0, 1
    try:
        header = [name.strip() for name in next(reader, [])]
        places = [_place(path, header, COLUMNS[name]) for name in wanted]
        line = reader.line_num + 1
        for fields in reader:
            if len(fields) > len(header):
                skipped += 1
            elif len(fields) == len(header):
                yield line, *(fields[place] for place in places)
            elif fields:
                raise DataError(
                    f"{path} line {line}: has {len(fields)} fields, the header has {len(header)}; is the file cut off?"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {line}: {error}; is a quote left open?") from None
    if skipped:
        notice(
            f"{path}: {skipped:,} lines with too many fields (a quote and a {reader.dialect.delimiter} within a title) "
            "left out, as TALLRec's reader does"
        )


def _decoded(content: bytes, path: Path, notice: Callable[[str], None]) -> str:
    """Latin-1 as in the original, or UTF-8, into which copies are often converted."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
    if not content.isascii():
        notice(f"{path}: read as UTF-8; the original is in Latin-1")
    return text


def _place(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise DataError(f"{path} line 1: column {names[0]} is missing; found {quoted(', '.join(header), 80)}")


SOURCE = Source(
    name=NAME,
    summary="Book-Crossing as TALLRec's book data",
    raw_names="BX-Books.csv and BX-Book-Ratings.csv",
    folders=("book", "book-crossing"),
    raw_files=raw_files,
    build=build,
    options=(
        Option(
            "book_zeros",
            "a book rated 0 was not rated; TALLRec counts it as disliked",
            default="dislike",
            choices=("dislike", "drop"),
            alias="zeros",
        ),
    ),
    by_hand=(
        "Book-Crossing is not downloaded: its site is gone and states no licence. "
        "(1) Get BX-Books.csv and BX-Book-Ratings.csv (or Books.csv and Ratings.csv) from a copy that you may use, "
        "or TALLRec's data/book/train.json, valid.json and test.json; "
        "(2) put them into {folder}/book; (3) run this command again"
    ),
    read_published=read_published,
    write_published=tallrec.write_folder,
)
