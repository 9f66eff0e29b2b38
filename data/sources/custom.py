"""A user's own data: a folder with interactions.csv and items.csv.

  interactions.csv    user, item, timestamp, and one of rating or liked; other columns are ignored
  items.csv           item, title, and optionally author

Each user's interactions are sorted by time, ties in file order. Every interaction that has an earlier one
is a row to predict; its history is the ten before it, liked or not. --split-by time (default) sorts the
rows by the time of their target and cuts at 80 and 90 %, so nothing in train is later than anything in
test; rows of the same second may fall on both sides of a cut. --split-by user cuts a seeded order of the
users instead, and no user is in two splits.

`--data DIR` reads such a folder directly, `python prepare.py custom --raw DIR --out DIR` prepares it;
docs/own-data.md has an example.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from data.interactions import HISTORY, Dataset, Interaction, Item
from data.sources.base import Option, Source
from errors import DataError
from files import read_whole

FILES = ("interactions.csv", "items.csv")
SPLIT_SEED = 42  # of the users' order
LIKED = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def raw_files(folder: Path) -> list[Path]:
    """The two files if the folder has the first, else []. Raises DataError if it lacks the second."""
    files = [folder / name for name in FILES]
    if not files[0].is_file():
        return []
    if not files[1].is_file():
        raise DataError(
            f"{files[1]}: missing; own data consist of interactions.csv and items.csv, see docs/own-data.md"
        )
    return files


def build(
    files: list[Path],
    notice: Callable[[str], None],
    like_threshold: float | None = None,
    noun: str | None = None,
    split_by: str = "time",
) -> Dataset:
    """The data set from raw_files. Raises DataError naming file, line and column of anything malformed."""
    interactions_path, items_path = files
    catalogue = read_items(items_path)
    rows = samples(read_interactions(interactions_path, catalogue, like_threshold))
    labels = {row.label for row in rows}
    if len(labels) == 1:
        raise DataError(
            f"{interactions_path}: all rows are {'liked' if labels.pop() else 'disliked'}; check --like-threshold"
        )
    splits = by_user(rows) if split_by == "user" else by_time(rows)
    for split, rows_of_split in splits.items():
        if not rows_of_split:
            other = "time" if split_by == "user" else "user"
            raise DataError(
                f"{interactions_path}: leaves no rows for {split}; add interactions, or try --split-by {other}"
            )
    folder = interactions_path.resolve().parent
    return Dataset(folder.name, "own data", noun or "item", catalogue, **splits)


# ---- from interactions to splits ----------------------------------------------------------------


def samples(of_user: dict[str, list[tuple[int, str, bool]]]) -> list[Interaction]:
    """Every interaction that has an earlier one, user by user. of_user: {user: [(time, item, liked)]} in file order."""
    rows = []
    for user, interactions in of_user.items():
        ordered = sorted(interactions, key=lambda entry: entry[0])  # stable
        history = [(item, liked) for _, item, liked in ordered]
        for i in range(1, len(ordered)):
            time, item, liked = ordered[i]
            rows.append(Interaction(user, tuple(history[max(0, i - HISTORY) : i]), item, liked, time))
    return rows


def by_time(rows: list[Interaction]) -> dict[str, list[Interaction]]:
    """The splits: rows in order of their time, cut at 80 and 90 %."""
    return _cut(sorted(rows, key=lambda row: row.timestamp))


def by_user(rows: list[Interaction]) -> dict[str, list[Interaction]]:
    """The splits: users in a seeded order, cut at 80 and 90 %, each with all their rows."""
    of_user: dict[str, list[Interaction]] = {}
    for row in rows:
        of_user.setdefault(row.user, []).append(row)
    users = list(of_user)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(users))
    return {
        split: [row for user in part for row in of_user[user]]
        for split, part in _cut([users[i] for i in order]).items()
    }


def _cut(entries: list) -> dict[str, list]:
    """The first 80 %, the next 10 % and the rest."""
    train, valid = int(len(entries) * 0.8), int(len(entries) * 0.9)
    return {"train": entries[:train], "valid": entries[train:valid], "test": entries[valid:]}


# ---- reading ------------------------------------------------------------------------------------


def read_items(path: Path) -> dict[int | str, Item]:
    """{item: Item} of items.csv."""
    catalogue: dict[int | str, Item] = {}
    for line, fields in _records(path, ("item", "title"), ("author",)):
        item, author = fields["item"].strip(), fields.get("author", "").strip() or None
        if item in catalogue:
            raise DataError(f"{path} line {line}, column item: {item!r} is listed twice")
        for name in ("title", "author"):
            if "\n" in fields.get(name, "") or "\r" in fields.get(name, ""):
                raise DataError(
                    f"{path} line {line}, column {name}: has a line break, which a prompt cannot show; "
                    "write it in one line"
                )
        catalogue[item] = Item(fields["title"].strip(), author)
    return catalogue


def read_interactions(
    path: Path, catalogue: dict, like_threshold: float | None
) -> dict[str, list[tuple[int, str, bool]]]:
    """{user: [(time, item, liked)]} of interactions.csv, in file order."""
    of_user: dict[str, list[tuple[int, str, bool]]] = {}
    ratings = []
    for line, fields in _records(path, ("user", "item", "timestamp"), ("rating", "liked")):
        where = f"{path} line {line}, column"
        if ("rating" in fields) == ("liked" in fields):
            problem = "has both rating and liked; keep one" if "rating" in fields else "rating or liked is missing"
            raise DataError(f"{path} line 1: {problem}")
        if "liked" in fields:
            liked = _yes_or_no(fields["liked"], path, f"{where} liked", like_threshold)
        else:
            rating = _number(fields["rating"], f"{where} rating")
            ratings.append(rating)
            liked = like_threshold is not None and rating >= like_threshold
        item = fields["item"].strip()
        if item not in catalogue:
            raise DataError(f"{where} item: {item[:40]!r} is not in items.csv")
        entry = (unix_seconds(fields["timestamp"], f"{where} timestamp"), item, liked)
        of_user.setdefault(fields["user"].strip(), []).append(entry)
    if ratings and like_threshold is None:
        raise DataError(
            f"--like-threshold: {path.name} has ratings from {min(ratings):g} to {max(ratings):g}; "
            "say from which rating an item is liked"
        )
    return of_user


def _yes_or_no(text: str, path: Path, where: str, like_threshold: float | None) -> bool:
    """A cell of the column liked."""
    if like_threshold is not None:
        raise DataError(
            f"--like-threshold: has no effect, since {path.name} has a column liked instead of ratings; leave it out"
        )
    liked = LIKED.get(text.strip().lower())
    if liked is None:
        raise DataError(f"{where}: expected 1 or 0 (true, false, yes, no), found {text[:40]!r}")
    return liked


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: expected a number, found {text[:40]!r}")
    return value


def unix_seconds(text: str, where: str) -> int:
    """Unix seconds of a number, or of an ISO date or time; UTC unless the text has a time zone."""
    text = text.strip()
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError:
        raise DataError(
            f"{where}: expected unix seconds or a date such as 2024-05-01 or 2024-05-01T12:30:00, found {text[:40]!r}"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())


def _records(path: Path, needed: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line at which it begins, the named fields) of every record. Needed fields are not empty."""
    try:
        text = read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start:,}); save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = _columns(header, needed, optional, path)
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                if len(fields) != len(header):
                    raise DataError(
                        f"{path} line {line}: has {len(fields)} fields, the header has {len(header)}; "
                        "put quotes around a title with a comma"
                    )
                record = {name: fields[column] for name, column in columns.items()}
                for name in needed:
                    if not record[name].strip():
                        raise DataError(f"{path} line {line}, column {name}: is empty")
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {line}: {error}; is a quote left open?") from None


def _columns(header: list[str], needed: tuple[str, ...], optional: tuple[str, ...], path: Path) -> dict[str, int]:
    """{name: number of its column} of the named columns that the file has."""
    for name in (*needed, *optional):
        if header.count(name) > 1:
            raise DataError(f"{path} line 1: column {name} is there twice; keep one")
        if name in needed and name not in header:
            columns = repr(", ".join(header)[:80]) if header else "an empty file"
            raise DataError(f"{path} line 1: column {name} is missing; found {columns}")
    return {name: header.index(name) for name in (*needed, *optional) if name in header}


SOURCE = Source(
    name="custom",
    summary="your own data",
    raw_names="interactions.csv and items.csv",
    folders=(),
    raw_files=raw_files,
    build=build,
    options=(
        Option("like_threshold", "own data: rating from which an item is liked", type=float),
        Option("noun", "own data: what the prompts call an item; item if not given"),
        Option(
            "split_by",
            "own data: time: no test row is older than a training row; user: no user is in two splits",
            default="time",
            choices=("time", "user"),
        ),
    ),
)
