"""What MovieLens-100K and MovieLens-1M share: the file of ratings, one a line."""

import re
from collections.abc import Container, Iterator
from pathlib import Path

from errors import DataError


def parse_ratings(
    content: bytes, path: Path, separator: str, items: Container[int], items_file: str
) -> Iterator[tuple[int, int, int, int]]:
    """(user, item, stars, unix seconds) of every line, in file order. Raises DataError naming file and line."""
    form = re.compile(separator.join([r"(\d{1,10})"] * 4).encode())
    for number, raw in enumerate(content.splitlines(), start=1):
        match = form.fullmatch(raw)
        if match is None:
            raise DataError(
                f"{path} line {number}: expected user, item, rating and time, four numbers with {separator!r} between, "
                f"found {raw[:60].decode('ascii', errors='replace')!r}"
            )
        user, item, rating, time = map(int, match.groups())
        if not 1 <= rating <= 5:
            raise DataError(f"{path} line {number}: rating {rating} is not within 1 to 5")
        if item not in items:
            raise DataError(f"{path} line {number}: item {item} is not in {items_file}")
        yield user, item, rating, time
