"""What CoLLM's two data sets share: histories, and the published rows as CSV.

CoLLM publishes pickles, which this project never loads. The form here has the same rows and columns as
plain CSV, one file per split, gzipped or not.
"""

import csv
import gzip
import io
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from data.interactions import SPLITS, Dataset, Interaction, Item, not_cold
from data.timestamps import EXPECTED, read_times
from errors import DataError, quoted
from files import GZIP_ERRORS, lines, refuse_larger

FLAG_OF_SPLIT = {"train": -1, "valid": 0, "test": 1}  # the published column `flag`
COLUMNS = ["row", "uid", "iid", "label", "timestamp", "his", "his_title", "title", "flag", "not_cold"]


class Rating(NamedTuple):
    """One rating; timestamp: unix seconds, with a fraction where the source has one."""

    user: int
    item: int
    liked: bool
    timestamp: int | Fraction
    split: str


def with_histories(ratings: list[Rating]) -> dict[str, list[Interaction]]:
    """The rows of every split.

    ratings: those of all splits, ordered by user, then time. A row's history is every earlier liked item of its
    user, in whichever split; prompts show the last ten.
    """
    splits: dict[str, list[Interaction]] = {split: [] for split in SPLITS}
    liked_so_far: dict[int, list] = {}
    entries: dict[int, tuple[int, bool]] = {}  # one (item, True) shared by all histories
    for user, item, liked, timestamp, split in ratings:
        history = liked_so_far.setdefault(user, [])
        splits[split].append(Interaction(user, tuple(history), item, liked, math.floor(timestamp)))
        if liked:
            history.append(entries.setdefault(item, (item, True)))
    return splits


def write_published(data: Dataset, folder: Path) -> None:
    """Write train, valid and test.csv.gz, with every column as published."""
    rows = [(split, row, warm) for split in SPLITS for row, warm in _with_not_cold(data, split)]
    rows.sort(key=lambda entry: (entry[1].user, entry[1].timestamp))  # stable: train before valid before test
    lines: dict[str, list] = {split: [] for split in SPLITS}
    for number, (split, row, warm) in enumerate(rows):
        his = [0, *(item for item, _ in row.history)]
        titles = ["", *(data.catalogue[item].title for item, _ in row.history)]
        lines[split].append(
            [
                number,
                row.user,
                row.target,
                int(row.label),
                row.timestamp,
                json.dumps(his, separators=(",", ":")),
                json.dumps(titles, ensure_ascii=False),
                data.catalogue[row.target].title,
                FLAG_OF_SPLIT[split],
                int(warm),
            ]
        )
    for split, rows_of_split in lines.items():
        # mtime 0: the same rows give the same bytes
        with gzip.GzipFile(folder / f"{split}.csv.gz", "wb", compresslevel=6, mtime=0) as file:
            writer = csv.writer(text := io.TextIOWrapper(file, encoding="utf-8", newline=""), lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows_of_split)
            text.close()


def _with_not_cold(data: Dataset, split: str):
    rows = getattr(data, split)
    return zip(rows, not_cold(data, rows))


def published_files(folder: Path) -> list[Path]:
    """The three files if the folder has them, else []."""
    files = [
        next((path for path in (folder / f"{split}.csv", folder / f"{split}.csv.gz") if path.is_file()), None)
        for split in SPLITS
    ]
    return files if all(files) else []


def read_published(folder: Path, name: str, noun: str) -> Dataset:
    """A Dataset from train, valid and test.csv or .csv.gz. Raises DataError naming file, line and column."""
    catalogue: dict[int | str, Item] = {}
    splits = {split: _read_split(path, catalogue) for split, path in zip(SPLITS, published_files(folder))}
    for split, rows in splits.items():
        for row in rows:
            for item, _ in row.history:
                if item not in catalogue:
                    raise DataError(
                        f"{folder}: {split} has item {item} in a history, but no row has its title; "
                        "are all three files complete?"
                    )
    return Dataset(name, "collm-csv", noun, catalogue, **splits, wording="collm")


def _read_split(path: Path, catalogue: dict) -> list[Interaction]:
    rows: list[tuple[int, Interaction]] = []  # without their times
    cells: list[str] = []
    entries: dict[int, tuple[int, bool]] = {}
    if path.suffix == ".gz":  # a plain file is read line by line, so its size does not matter
        refuse_larger(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            reader = csv.DictReader((line.decode() for line in lines(file, path)), strict=True)
            missing = {"uid", "iid", "label", "timestamp", "his", "title"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path} line 1: column {sorted(missing)[0]!r} is missing; expected {', '.join(COLUMNS)}"
                )
            for fields in reader:
                rows.append((reader.line_num, _read_row(fields, f"{path} line {reader.line_num}", catalogue, entries)))
                cells.append(fields["timestamp"] or "")
    except (UnicodeDecodeError, csv.Error, *GZIP_ERRORS) as error:
        raise DataError(f"{path}: cannot be read ({str(error)[:60]}); fetch it again") from None
    if not rows:
        raise DataError(f"{path}: has no rows; fetch it again")
    times = read_times(cells, [line for line, _ in rows], f"{path}, column timestamp")
    for (line, _), cell, tick in zip(rows, cells, times.ticks):
        if tick is None:
            raise DataError(f"{path} line {line}, column timestamp: {EXPECTED}, found {quoted(cell, 40)}")
    return [replace(row, timestamp=times.seconds(tick)) for (_, row), tick in zip(rows, times.ticks)]


def _read_row(fields: dict[str, str], where: str, catalogue: dict, entries: dict) -> Interaction:
    """The row without its time, which the whole column decides."""
    numbers = {}
    for name in ("uid", "iid", "label"):
        try:
            numbers[name] = int(fields[name])
        except (TypeError, ValueError):
            raise DataError(
                f"{where}, column {name}: expected a whole number, found {str(fields[name])[:40]!r}"
            ) from None
    if numbers["label"] not in (0, 1):
        raise DataError(f"{where}, column label: expected 0 or 1, found {numbers['label']}")
    try:
        his = json.loads(fields["his"])
        if not all(type(item) is int for item in his):
            raise TypeError
    except (TypeError, ValueError, RecursionError):
        raise DataError(
            f"{where}, column his: expected a list of item ids, found {str(fields['his'])[:40]!r}"
        ) from None
    title = fields["title"]
    if title is None or catalogue.setdefault(numbers["iid"], Item(title)).title != title:
        raise DataError(f"{where}, column title: item {numbers['iid']} has another title in an earlier row")
    history = tuple(entries.setdefault(item, (item, True)) for item in his if item != 0)  # 0 is padding
    return Interaction(numbers["uid"], history, numbers["iid"], numbers["label"] == 1)
