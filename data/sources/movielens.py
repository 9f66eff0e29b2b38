"""What MovieLens-100K and MovieLens-1M share: the file of ratings, one a line, and the encoding of titles."""

import re
from collections.abc import Callable, Container, Iterator
from fractions import Fraction
from pathlib import Path

from data.timestamps import read_times
from errors import DataError, quoted

PUBLISHED_ENCODING = "iso-8859-1"


def encoding_of(content: bytes, path: Path, notice: Callable[[str], None]) -> str:
    """The encoding of a file of titles: Latin-1 as published, or UTF-8, into which copies are often converted.

    A text in Latin-1 that has other characters than ASCII is practically never valid UTF-8.
    """
    if content.isascii():
        return PUBLISHED_ENCODING
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        if both := [i for i, line in enumerate(content.splitlines(), start=1) if _is_utf_8_alone(line)]:
            notice(
                f"{path}: read as Latin-1, but {len(both):,} lines look like UTF-8, first line {both[0]}; "
                "save the whole file in one encoding"
            )
        return PUBLISHED_ENCODING
    notice(f"{path}: read as UTF-8; the published file is in Latin-1")
    return "utf-8-sig"


def _is_utf_8_alone(line: bytes) -> bool:
    try:
        return not line.isascii() and bool(line.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def parse_ratings(
    content: bytes, path: Path, separator: str, items: Container[int], items_file: str
) -> Iterator[tuple[int, int, int, int | Fraction]]:
    """(user, item, stars, unix seconds) of every line, in file order. Raises DataError naming file and line.

    The seconds are whole numbers if the file has no fractions of seconds.
    """
    form = re.compile(separator.join([r"(\d{1,10})"] * 3 + [r"([0-9][0-9A-Za-z:/.+ -]{0,39})"]).encode())
    rows, cells = [], []
    for number, raw in enumerate(content.splitlines(), start=1):
        match = form.fullmatch(raw)
        if match is None:
            raise DataError(
                f"{path} line {number}: expected user, item, rating and time, four numbers with {separator!r} between, "
                f"found {quoted(raw.decode('ascii', errors='replace'))}"
            )
        user, item, rating = map(int, match.groups()[:3])
        if not 1 <= rating <= 5:
            raise DataError(f"{path} line {number}: rating {rating} is not within 1 to 5")
        if item not in items:
            raise DataError(f"{path} line {number}: item {item} is not in {items_file}")
        rows.append((user, item, rating))
        cells.append(match[4].decode())
    times = read_times(cells, range(1, len(cells) + 1), f"{path}, the times")
    for number, (row, tick) in enumerate(zip(rows, times.ticks), start=1):
        if tick is None:
            raise DataError(f"{path} line {number}: {quoted(cells[number - 1])} is no time; write unix seconds")
        yield *row, tick if times.per_second == 1 else Fraction(tick, times.per_second)
