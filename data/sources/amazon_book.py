"""Amazon Books (2018, 5-core) to CoLLM's Amazon-Book data set, streamed.

The rule, replayed from CoLLM's notebook: reviews are joined with the metadata (the last entry of an
item counts, titles with "getTime" are broken and dropped), in order of the item's id, then of the
file. The year 2017 (UTC) is kept; then items and users with more than 20 reviews in it, both counted
once, before either is dropped. Five stars are liked (the paper says four: --amazon-liked 4). Users and
items are numbered from 1 by first appearance in that order. January to November is for training;
December, sorted by time, is halved into validation and test. Our sort is stable, the published one was
not, so rows of the second on which the halves meet may lie on the other side.

Both files are streamed. What the reviews of the year come to is kept as arrays, and saved when all are
read, so that a broken preparation goes on from there. Within that pass there is nothing to gain from
going on in the middle: a gzip file is read from its start, and that is most of the work.

`python -m data.amazon_book --raw DIR --out DIR` prepares it; --published adds CoLLM's columns as CSV.
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

from data.interactions import Dataset, Item
from data.sources import collm
from errors import DataError
from files import GZIP_ERRORS, lines, refuse_special, refuse_unencodable, write_file

NAME = "amazon-book"
VERSION = 1  # of the rule above; a change makes every prepared copy out of date
FOLDERS = ("amazon-book",)
OPTIONS = ("amazon_liked",)
ARCHIVE = None  # by hand: data.download.BY_HAND
RESUMABLE = True
REVIEWS = ("Books_5.json.gz", "Books_5.json")
METADATA = ("meta_Books.json.gz", "meta_Books.json")
START, DECEMBER, END = (
    int(datetime(*day, tzinfo=timezone.utc).timestamp()) for day in ((2017, 1, 1), (2017, 12, 1), (2018, 1, 1))
)
MORE_REVIEWS_THAN = 20
SAVED = {
    "user": "i",
    "item": "i",
    "stars": "f",
    "time": "i",
    "users": "U",
    "items": "U",
}  # arrays of a saved pass, kind by name
_TIME = re.compile(rb'"unixReviewTime": ?(\d{1,12})[,}]')
PUBLISHED_ROWS = (727_463, 25_747, 25_747)


def raw_files(folder: Path) -> list[Path]:
    """The reviews and the metadata, gzipped or not, if the folder has them, else []."""
    found = [
        next((folder / name for name in names if (folder / name).is_file()), None) for names in (REVIEWS, METADATA)
    ]
    return [path for path in found if path] if all(found) else []


def build(files: list[Path], notice: Callable[[str], None], amazon_liked: int = 5, work: Path | None = None) -> Dataset:
    """The data set from raw_files. work: folder that a finished pass is saved in until all are done.

    Raises DataError naming the file and line of anything malformed.
    """
    reviews_path, metadata_path = files
    saved = _saved_pass(work, reviews_path) if work else None
    reviews = _load_pass(saved) if saved else None
    if reviews:
        notice(f"{saved}: goes on behind the reviews, which were read before")
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


write_published = collm.write_published


# ---- reading ------------------------------------------------------------------------------------


def read_year(path: Path) -> dict:
    """All reviews of 2017: user, item (places in users and items), stars, time, each (N,), in file order."""
    columns = {"user": array("i"), "item": array("i"), "stars": array("f"), "time": array("q")}
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    for number, raw in _lines(path, "reviews"):
        # Most lines are of other years; parsing those as JSON takes five times as long as this. Within
        # a review's text a quote is written \", so only the key itself can match.
        found = _TIME.search(raw)
        if found and not START <= int(found[1]) < END:
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
                f"{path} line {number}: expected a review as JSON with reviewerID, asin, overall and unixReviewTime, found {raw[:60]!r}"
            ) from None
        if START <= time < END:
            columns["user"].append(users.setdefault(user, len(users)))
            columns["item"].append(items.setdefault(item, len(items)))
            columns["stars"].append(stars)
            columns["time"].append(time)
    found = {
        name: np.frombuffer(column, column.typecode) if column else np.array([], column.typecode)
        for name, column in columns.items()
    }
    return found | {"users": list(users), "items": list(items)}


def read_titles(path: Path, wanted: set[str]) -> dict[str, str]:
    """{item: title} of the wanted items; the last entry counts, and a broken one is as if it were not there."""
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
    """(number, line) of a file, gzipped or not, with progress by the bytes that were read of it."""
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


# ---- what is kept -------------------------------------------------------------------------------


def select(reviews: dict, titles: dict[str, str], liked_from: int, path: Path) -> Dataset:
    """The three splits of the reviews of a year."""
    items = reviews["items"]
    titled = np.array([item in titles for item in items], dtype=bool)
    place = np.empty(len(items), dtype=np.int64)  # of each item in order of its id
    place[sorted(range(len(items)), key=items.__getitem__)] = np.arange(len(items))
    rows = np.flatnonzero(titled[reviews["item"]]) if items else np.array([], dtype=np.int64)
    rows = rows[np.argsort(place[reviews["item"][rows]], kind="stable")]
    often_item = np.bincount(reviews["item"][rows], minlength=len(items)) > MORE_REVIEWS_THAN
    often_user = np.bincount(reviews["user"][rows], minlength=len(reviews["users"])) > MORE_REVIEWS_THAN
    rows = rows[often_item[reviews["item"][rows]] & often_user[reviews["user"][rows]]]

    time = reviews["time"][rows]
    train, late = np.flatnonzero(time < DECEMBER), np.flatnonzero(time >= DECEMBER)
    late = late[np.argsort(time[late], kind="stable")]
    order = np.concatenate([train, late])
    names = ["train"] * len(train) + ["valid"] * (len(late) // 2) + ["test"] * (len(late) - len(late) // 2)
    if not {"train", "valid", "test"} <= set(names):
        raise DataError(
            f"{path}: leaves {len(train):,} rows of 2017 before December and {len(late):,} in it; is it the whole file?"
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


# ---- going on after a break ---------------------------------------------------------------------


def _saved_pass(work: Path, path: Path) -> Path:
    stat = path.stat()
    key = hashlib.sha256(f"{VERSION} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    return work / f"{NAME}-reviews-{key}.npz"


def _save_pass(path: Path, reviews: dict, notice: Callable[[str], None]) -> None:

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file, **{name: np.array(values) for name, values in reviews.items()}
            )  # names as fixed-width text, not pickled

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, write)
    except OSError as error:
        notice(f"{path}: the reviews cannot be kept there ({error.strerror}); after a break they would be read again")


def _load_pass(path: Path) -> dict | None:
    """What was saved, None if nothing was."""
    try:
        refuse_special(path)
        with np.load(path, allow_pickle=False) as saved:
            found = {name: saved[name] for name in SAVED}
        if any(array.ndim != 1 or array.dtype.kind != SAVED[name] for name, array in found.items()):
            raise ValueError("an array of another kind")
        for name in ("user", "item"):
            if not len(found["time"]) == len(found["stars"]) == len(found[name]) or not all(
                (found[name] >= 0) & (found[name] < len(found[name + "s"]))
            ):
                raise ValueError(f"{name} does not fit the others")
    except (FileNotFoundError, NotADirectoryError):
        return None
    # numpy and zipfile raise whatever the bytes of a damaged file make them do; sizes in it may be anything.
    except (
        ValueError,
        TypeError,
        KeyError,
        SyntaxError,
        OSError,
        EOFError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path}: cannot be read ({str(error)[:60]!r}); delete it and run again") from None
    return found | {name: found[name].tolist() for name in ("users", "items")}


if __name__ == "__main__":
    from data.cache import command

    command(NAME)
