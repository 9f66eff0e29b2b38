"""Amazon Books (2018, 5-core) to CoLLM's Amazon-Book data set, streamed.

What CoLLM's notebook does: reviews are joined with the metadata (the last entry of an item counts;
titles with "getTime" are broken and dropped), in order of the item's id, then of the file. The year 2017
(UTC) is kept, and of it the items and users with more than 20 reviews; both are counted once, before
either is dropped. Five stars are liked (the paper says four: --amazon-liked 4). Users and items are
numbered from 1 by first appearance in that order. January to November is for training; December, sorted
by time, is halved into validation and test. Our sort is stable and the published one was not, so rows in
the second at which the halves meet may be on the other side.

Both files are streamed. The reviews of the year are kept as arrays and saved when the file has been read,
so that an interrupted preparation resumes after the reviews. It cannot resume within them: a gzip file is
read from its start, which is most of the work.

`python prepare.py amazon-book --raw DIR --out DIR` prepares it; --published adds CoLLM's columns as CSV.
"""

import gzip
import hashlib
import json
import math
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.interactions import SPLITS, Dataset, Item
from data.sources import collm
from data.sources.base import Option, Source
from data.timestamps import UNITS, read_times
from errors import DataError, quoted
from files import GZIP_ERRORS, lines, refuse_special, refuse_unencodable, write_file

NAME = "amazon-book"
VERSION = 1  # of the above; a change makes every prepared copy and every saved pass out of date
REVIEWS = ("Books_5.json.gz", "Books_5.json")
METADATA = ("meta_Books.json.gz", "meta_Books.json")
START, DECEMBER, END = (
    int(datetime(*day, tzinfo=timezone.utc).timestamp()) for day in ((2017, 1, 1), (2017, 12, 1), (2018, 1, 1))
)
MORE_REVIEWS_THAN = 20
SAVED = {"user": "i", "item": "i", "stars": "f", "time": "i", "users": "U", "items": "U"}  # arrays: name, dtype.kind
# What numpy and zipfile raise on a damaged file, which may also state any size.
DAMAGE = (
    *(ValueError, TypeError, KeyError, SyntaxError, OSError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
_TIME = re.compile(rb'"unixReviewTime": ?(\d{9,11})[,}]')  # 1973 or later: no other form of time has so many digits
PUBLISHED_ROWS = (727_463, 25_747, 25_747)


def raw_files(folder: Path) -> list[Path]:
    """The reviews and the metadata, gzipped or not, if the folder has them, else []."""
    files = [
        next((folder / name for name in names if (folder / name).is_file()), None) for names in (REVIEWS, METADATA)
    ]
    return files if all(files) else []


def build(files: list[Path], notice: Callable[[str], None], amazon_liked: int = 5, work: Path | None = None) -> Dataset:
    """The data set from raw_files.

    work: folder in which the reviews that were read are saved until the data set is complete. Raises
    DataError naming the file and line of anything malformed.
    """
    reviews_path, metadata_path = files
    saved = _saved_pass(work, reviews_path) if work else None
    reviews = _load_pass(saved) if saved else None
    if reviews:
        notice(f"{saved}: resumes after the reviews, which were read before")
    else:
        reviews = read_year(reviews_path)
        if saved:
            _save_pass(saved, reviews, notice)
    titles = read_titles(metadata_path, set(reviews["items"]))
    data = select(reviews, titles, amazon_liked, reviews_path)
    if saved and saved.exists():
        saved.unlink(missing_ok=True)
    return data


def read_published(folder: Path) -> Dataset | None:
    """The data set from CoLLM's rows as CSV, or None if the folder has none."""
    return collm.read_published(folder, NAME, "book") if collm.published_files(folder) else None


# ---- reading ------------------------------------------------------------------------------------


def read_year(path: Path) -> dict:
    """All reviews of 2017, in file order.

    Returns user and item (positions in users and items), stars and time (unix seconds), each (N,), and the lists
    users and items. Raises DataError with the number of a line that cannot be read.
    """
    columns = {"user": array("i"), "item": array("i"), "stars": array("f"), "time": array("q")}
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    seconds: tuple[int, str] | None = None  # line and text of the first time that is surely in unix seconds
    for number, raw in _lines(path, "reviews"):
        # Most lines are of other years; parsing those as JSON takes five times as long as this. Within
        # a review's text a quote is written \", so only the key itself can match.
        match = _TIME.search(raw)
        if match and seconds is None:
            seconds = (number, match[1].decode())
        if match and not START <= int(match[1]) < END:
            continue
        try:
            review = json.loads(raw)
            time, user, item, stars = (
                review["unixReviewTime"],
                review["reviewerID"],
                review["asin"],
                float(review["overall"]),
            )
            if not (type(time) is int and type(user) is type(item) is str and math.isfinite(stars)):
                raise TypeError
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise DataError(
                f"{path} line {number}: expected a review as JSON with reviewerID, asin, overall and unixReviewTime, "
                f"found {raw[:60]!r}"
            ) from None
        if not match:
            refuse_other_form(path, (number, str(time)), seconds)
        if START <= time < END:
            columns["user"].append(users.setdefault(user, len(users)))
            columns["item"].append(items.setdefault(item, len(items)))
            columns["stars"].append(stars)
            columns["time"].append(time)
    arrays = {
        name: np.frombuffer(column, column.typecode) if column else np.array([], column.typecode)
        for name, column in columns.items()
    }
    return arrays | {"users": list(users), "items": list(items)}


def refuse_other_form(path: Path, cell: tuple[int, str], seconds: tuple[int, str] | None) -> None:
    """Raises DataError unless a time is read as unix seconds, too: as another form it would be of another year.

    cell: its line and text; seconds: those of a time that is surely in unix seconds, if there is one.
    """
    lines_, cells = zip(*(entry for entry in (seconds, cell) if entry))
    times = read_times(cells, lines_, f"{path}, unixReviewTime")
    if times.form != UNITS["s"][0] or times.ticks[-1] is None:
        form = "no time" if times.ticks[-1] is None else f"{times.form}, not unix seconds"
        where = f"{path} line {cell[0]}: unixReviewTime {quoted(cell[1])[1:-1]}"
        raise DataError(f"{where} is {form}; is it the file of another release?")


def read_titles(path: Path, wanted: set[str]) -> dict[str, str]:
    """{item: title} of the wanted items; the last entry of an item counts, broken titles are ignored.

    Raises DataError with the number of a line that cannot be read.
    """
    titles: dict[str, str] = {}
    for number, raw in _lines(path, "metadata"):
        try:
            entry = json.loads(raw)
            item, title = entry["asin"], entry.get("title") or ""
            if not (type(item) is type(title) is str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(
                f"{path} line {number}: expected an item as JSON with asin and title, found {raw[:60]!r}"
            ) from None
        if item in wanted and "getTime" not in title:
            refuse_unencodable(title, f"{path} line {number}")
            titles[item] = " ".join(title.split("\n"))
    return titles


def _lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """(number, line) of a file, gzipped or not; shows progress by the bytes read."""
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=what, disable=None) as bar,
    ):
        unpacked = gzip.open(file) if path.suffix == ".gz" else file
        try:
            for number, line in enumerate(lines(unpacked, path), start=1):
                if number % 10_000 == 0:
                    bar.update(file.tell() - bar.n)
                yield number, line
        except GZIP_ERRORS as error:
            raise DataError(f"{path}: not a whole gzip file ({str(error)[:60]}); fetch it again") from None


# ---- from reviews to splits ---------------------------------------------------------------------


def select(reviews: dict, titles: dict[str, str], liked_from: int, path: Path) -> Dataset:
    """The three splits of the reviews of a year, as read_year returns them. path: named in a DataError."""
    items = reviews["items"]
    titled = np.array([item in titles for item in items], dtype=bool)
    rank = np.empty(len(items), dtype=np.int64)  # of each item among all ids, sorted
    rank[sorted(range(len(items)), key=items.__getitem__)] = np.arange(len(items))
    rows = np.flatnonzero(titled[reviews["item"]]) if items else np.array([], dtype=np.int64)
    rows = rows[np.argsort(rank[reviews["item"][rows]], kind="stable")]
    often_item = np.bincount(reviews["item"][rows], minlength=len(items)) > MORE_REVIEWS_THAN
    often_user = np.bincount(reviews["user"][rows], minlength=len(reviews["users"])) > MORE_REVIEWS_THAN
    rows = rows[often_item[reviews["item"][rows]] & often_user[reviews["user"][rows]]]

    time = reviews["time"][rows]
    train, late = np.flatnonzero(time < DECEMBER), np.flatnonzero(time >= DECEMBER)
    late = late[np.argsort(time[late], kind="stable")]
    order = np.concatenate([train, late])
    names = ["train"] * len(train) + ["valid"] * (len(late) // 2) + ["test"] * (len(late) - len(late) // 2)
    if not set(SPLITS) <= set(names):
        raise DataError(
            f"{path}: gives {len(train):,} rows of 2017 before December and {len(late):,} in it; is it the whole file?"
        )

    user, item = _numbered(reviews["user"][rows]), _numbered(reviews["item"][rows])
    liked = reviews["stars"][rows] >= liked_from
    ratings = [
        collm.Rating(*values, split)
        for *values, split in zip(
            user[order].tolist(), item[order].tolist(), liked[order].tolist(), time[order].tolist(), names
        )
    ]
    ratings.sort(key=lambda rating: (rating.user, rating.timestamp))
    catalogue = {
        int(item[i]): Item(titles[items[reviews["item"][rows[i]]]]) for i in np.unique(item, return_index=True)[1]
    }
    splits = collm.with_histories(ratings)
    source = (
        "amazon-books-2018"
        if tuple(map(len, splits.values())) == PUBLISHED_ROWS
        else "amazon-books-2018 (altered files)"
    )
    if liked_from != 5:
        source += f", liked from {liked_from} stars"
    return Dataset(NAME, source, "book", catalogue, **splits, wording="collm")


def _numbered(values: np.ndarray) -> np.ndarray:
    """The values replaced by 1, 2, ... in order of first appearance; (N,) int64."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    return rank[inverse]


# ---- resuming an interrupted preparation ---------------------------------------------------------


def _saved_pass(work: Path, path: Path) -> Path:
    """Where the reviews read from `path` are saved: a name made of the file's place, size and time of change."""
    stat = path.stat()
    key = hashlib.sha256(f"{VERSION} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    return work / f"{NAME}-reviews-{key}.npz"


def _save_pass(path: Path, reviews: dict, notice: Callable[[str], None]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # ids become fixed-width text: nothing is pickled
            np.savez(file, **{name: np.array(values) for name, values in reviews.items()})

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, write)
    except OSError as error:
        notice(f"{path}: cannot be written ({error.strerror}); an interrupted preparation would start again")


def _load_pass(path: Path) -> dict | None:
    """What was saved, None if nothing was."""
    try:
        refuse_special(path)
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in SAVED}
        if any(array.ndim != 1 or array.dtype.kind != SAVED[name] for name, array in arrays.items()):
            raise ValueError("an array of another kind")
        for name in ("user", "item"):
            if not len(arrays["time"]) == len(arrays["stars"]) == len(arrays[name]) or not all(
                (arrays[name] >= 0) & (arrays[name] < len(arrays[name + "s"]))
            ):
                raise ValueError(f"{name} does not fit the other arrays")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({str(error)[:60]!r}); delete it and run again") from None
    return arrays | {name: arrays[name].tolist() for name in ("users", "items")}


SOURCE = Source(
    name=NAME,
    summary="Amazon Books of 2017 as CoLLM's Amazon-Book data",
    raw_names="Books_5.json.gz and meta_Books.json.gz",
    folders=("amazon-book",),
    raw_files=raw_files,
    build=build,
    version=VERSION,
    options=(
        Option(
            "amazon_liked",
            "stars from which a book is liked; the published data say 5, the paper 4",
            default=5,
            type=int,
            choices=("5", "4"),
        ),
    ),
    resumable=True,
    by_hand=(
        "The Amazon reviews are not downloaded: some 10 GB, without a published checksum. "
        "(1) Get Books_5.json.gz and meta_Books.json.gz from https://nijianmo.github.io/amazon/index.html "
        "(2018; 5-core reviews and metadata of Books); "
        "(2) put them into {folder}/amazon-book; (3) run this command again"
    ),
    read_published=read_published,
    write_published=collm.write_published,
)
