"""MovieLens-1M to CoLLM's ML-1M data set, exactly.

Reconstructed from the published rows: twenty calendar months (UTC) are kept, 2001-06 to 2002-03 for
training, to 2002-08 for validation, to 2003-01 for testing; a rating of 4 or 5 is liked. Rows are
grouped by item in order of the items' first appearance in ratings.dat, the three splits are put one
after the other, and all rows are sorted stably by user and time: only this order gives the published
ties. Users and items are numbered from 1 by first appearance in that order.

`python prepare.py ml-1m --raw DIR --out DIR` prepares it; --published adds CoLLM's columns as CSV.
"""

import math
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np

from data.download import Archive
from data.interactions import SPLITS, Dataset, Interaction, Item
from data.sources import collm
from data.sources.base import Source
from data.sources.movielens import PUBLISHED_ENCODING, encoding_of, parse_ratings
from errors import DataError, quoted
from files import read_gzip, read_whole

NAME = "ml-1m"
LIKED_FROM = 4  # stars
LARGEST_RATINGS = 2**28  # bytes of ratings.dat; the published one has 24.6 MB
FIRST_MONTHS = (("train", 2001, 6), ("valid", 2002, 4), ("test", 2002, 9), (None, 2003, 2))
PUBLISHED_ROWS = (33_891, 10_401, 7_331)
SELECTION_SEED = 2023


def raw_files(folder: Path) -> list[Path]:
    """ratings.dat (or .gz) and movies.dat if the folder has them, else []."""
    for ratings in (folder / "ratings.dat", folder / "ratings.dat.gz"):
        if ratings.is_file() and (folder / "movies.dat").is_file():
            return [ratings, folder / "movies.dat"]
    return []


def build(files: list[Path], notice: Callable[[str], None]) -> Dataset:
    """The data set from raw_files. Raises DataError naming the file and line of anything malformed."""
    ratings_path, movies_path = files
    movies = read_whole(movies_path)
    titles = parse_movies(movies, movies_path, encoding_of(movies, movies_path, notice))
    content = read_gzip(ratings_path, LARGEST_RATINGS) if ratings_path.suffix == ".gz" else read_whole(ratings_path)
    kept = in_window(parse_ratings(content, ratings_path, "::", titles, "movies.dat"))
    ratings, numbered = number(kept)
    splits = collm.with_histories(ratings)
    if not all(splits.values()):
        raise DataError(f"{ratings_path}: a split has no rows; is it the whole file?")
    catalogue: dict[int | str, Item] = {i: Item(titles[item]) for item, i in numbered.items()}
    published = tuple(map(len, splits.values())) == PUBLISHED_ROWS
    source = "movielens-1m" if published else "movielens-1m (altered files)"
    return Dataset(NAME, source, "movie", catalogue, **splits, wording="collm", selection=selection(splits["valid"]))


def read_published(folder: Path) -> Dataset | None:
    """The data set from CoLLM's rows as CSV, or None if the folder has none."""
    if not collm.published_files(folder):
        return None
    data = collm.read_published(folder, NAME, "movie")
    return Dataset(**vars(data) | {"selection": selection(data.valid)})


def selection(valid: list[Interaction]) -> list[Interaction]:
    """The half of the validation rows on which CoLLM chooses its best state.

    As pandas' valid.sample(frac=0.5, random_state=2023) draws it.
    """
    order = np.random.RandomState(SELECTION_SEED).permutation(len(valid))
    return [valid[i] for i in order[: round(0.5 * len(valid))]]


def parse_movies(content: bytes, path: Path, encoding: str = PUBLISHED_ENCODING) -> dict[int, str]:
    """movies.dat: `id::title::genres` per line; {id: title}.

    Raises DataError with the number of another line.
    """
    titles = {}
    for number, raw in enumerate(content.splitlines(), start=1):
        fields = raw.decode(encoding).split("::")
        if (
            len(fields) != 3
            or not (fields[0].isascii() and fields[0].isdecimal())
            or len(fields[0]) > 10
            or not fields[1]
        ):
            raise DataError(f"{path} line {number}: expected `id::title::genres`, found {quoted(raw.decode(encoding))}")
        titles[int(fields[0])] = fields[1]
    return titles


def in_window(ratings: Iterable[tuple[int, int, int, int | Fraction]]) -> list[collm.Rating]:
    """The ratings of the twenty months, with the raw ids, in the order that decides ties."""
    starts = [int(datetime(year, month, 1, tzinfo=timezone.utc).timestamp()) for _, year, month in FIRST_MONTHS]
    by_item: dict[int, list] = {}
    for user, item, rating, time in ratings:
        of_item = by_item.setdefault(item, [])  # by first appearance in the whole file, not in the window
        if starts[0] <= time < starts[-1]:
            split = FIRST_MONTHS[np.searchsorted(starts, math.floor(time), side="right") - 1][0]
            of_item.append(collm.Rating(user, item, rating >= LIKED_FROM, time, split))
    grouped = [rating for of_item in by_item.values() for rating in of_item]
    one_after_the_other = [rating for split in SPLITS for rating in grouped if rating.split == split]
    return sorted(one_after_the_other, key=lambda rating: (rating.user, rating.timestamp))


def number(ratings: list[collm.Rating]) -> tuple[list[collm.Rating], dict[int, int]]:
    """The ratings with users and items numbered from 1 by first appearance, and {raw item: number}."""
    users: dict[int, int] = {}
    items: dict[int, int] = {}
    numbered = [
        rating._replace(
            user=users.setdefault(rating.user, len(users) + 1), item=items.setdefault(rating.item, len(items) + 1)
        )
        for rating in ratings
    ]
    return numbered, items


SOURCE = Source(
    name=NAME,
    summary="MovieLens-1M as CoLLM's ML-1M data",
    raw_names="ratings.dat and movies.dat",
    folders=("ml-1m", "collm-ml-1m"),
    raw_files=raw_files,
    build=build,
    archive=Archive(
        "MovieLens-1M",
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "c4d9eecfca2ab87c1945afe126590906",  # as GroupLens states it in the .md5 file beside the archive
        {"ml-1m/README": "README", "ml-1m/movies.dat": "movies.dat", "ml-1m/ratings.dat": "ratings.dat"},
    ),
    read_published=read_published,
    write_published=collm.write_published,
)
