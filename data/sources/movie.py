"""MovieLens-100K to TALLRec's movie data set, exactly.

What TALLRec's code does (it is not the paper's "latest 10,000 interactions"): users come in order of
first appearance in u.data; each user's ratings are sorted by time, ties in file order; every rating
after a user's first ten is a sample whose history is the ten before it; of all 90,570 samples the last
10,000 *of that list* are kept, that is the last 108 users, and cut into 8,000 / 1,000 / 1,000. The
result is a split by users: no test user occurs in train.

`python prepare.py movie --raw DIR --out DIR` prepares it; --published adds TALLRec's JSON, byte for byte.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from data.download import Archive
from data.interactions import HISTORY, Dataset, Interaction, Item
from data.sources import tallrec
from data.sources.base import Source
from data.sources.movielens import PUBLISHED_ENCODING, encoding_of, parse_ratings
from data.sources.stand_in import stand_in
from errors import DataError, quoted
from files import read_whole

NAME = "movie"
LIKED_ABOVE = 3  # stars
SPLIT_SIZES = (8000, 1000, 1000)
PUBLISHED_MD5 = {"u.data": "6e47046882bad158b0efbb84cd5cb987", "u.item": "c9e7f390115d79079537301d5204f3f7"}


def raw_files(folder: Path) -> list[Path]:
    """u.data and u.item if the folder has the first, else []. Raises DataError if it lacks the second."""
    files = [folder / name for name in PUBLISHED_MD5]
    if not files[0].is_file():
        return []
    if not files[1].is_file():
        raise DataError(f"{files[1]}: missing; MovieLens-100K has u.data and u.item")
    return files


def build(files: list[Path], notice: Callable[[str], None]) -> Dataset:
    """The data set from raw_files.

    source is "movielens-100k", or "movielens-100k (altered files)" if the checksums are not those
    of the published files. Raises DataError naming the file and line of anything malformed.
    """
    contents = {path.name: read_whole(path) for path in files}
    folder = files[0].parent
    published = all(hashlib.md5(contents[name]).hexdigest() == md5 for name, md5 in PUBLISHED_MD5.items())
    encoding = encoding_of(contents["u.item"], folder / "u.item", notice)
    catalogue = parse_items(contents["u.item"], folder / "u.item", encoding)
    samples = build_samples(by_user(parse_ratings(contents["u.data"], folder / "u.data", "\t", catalogue, "u.item")))
    kept = sum(SPLIT_SIZES)
    if len(samples) < kept:
        raise DataError(
            f"{folder / 'u.data'}: gives {len(samples):,} samples, {kept:,} are needed; is it the whole file?"
        )
    samples = samples[-kept:]
    train, valid = SPLIT_SIZES[0], SPLIT_SIZES[0] + SPLIT_SIZES[1]
    return Dataset(
        NAME,
        "movielens-100k" if published else "movielens-100k (altered files)",
        "movie",
        catalogue,
        train=samples[:train],
        valid=samples[train:valid],
        test=samples[valid:],
    )


def read_published(folder: Path) -> Dataset | None:
    """The data set from TALLRec's JSON, or None if the folder has none."""
    return tallrec.read_folder(folder, NAME) if (folder / "train.json").exists() else None


def parse_items(content: bytes, path: Path, encoding: str = PUBLISHED_ENCODING) -> dict[int, Item]:
    """u.item: `id|title|...` per line.

    Raises DataError with the number of another line, or of one with a known id.
    """
    catalogue = {}
    for number, raw in enumerate(content.splitlines(), start=1):
        line = raw.decode(encoding)
        fields = line.split("|")
        if (
            len(fields) < 2
            or not (fields[0].isascii() and fields[0].isdecimal())
            or len(fields[0]) > 10
            or not fields[1]
        ):
            raise DataError(f"{path} line {number}: expected `id|title|...`, found {quoted(line)}")
        if int(fields[0]) in catalogue:
            raise DataError(f"{path} line {number}: item {fields[0]} is listed twice")
        catalogue[int(fields[0])] = Item(fields[1])
    return catalogue


def by_user(
    ratings: Iterable[tuple[int, int, int, int | Fraction]],
) -> dict[int, list[tuple[int | Fraction, int, int]]]:
    """{user: [(time, item, rating)]}, users and their ratings in order of the file."""
    of_user: dict[int, list[tuple[int | Fraction, int, int]]] = {}
    for user, item, rating, time in ratings:
        of_user.setdefault(user, []).append((time, item, rating))
    return of_user


def build_samples(ratings: dict[int, list[tuple[int | Fraction, int, int]]]) -> list[Interaction]:
    """Every rating after a user's first ten, with the ten before it as history."""
    samples = []
    for user, rows in ratings.items():
        # The sort must be stable: 44 % of the validation targets tie with a history item in time.
        rows = sorted(rows, key=lambda row: row[0])
        history = [(item, rating > LIKED_ABOVE) for _, item, rating in rows]
        for i in range(HISTORY, len(rows)):
            time, item, rating = rows[i]
            samples.append(
                Interaction(user, tuple(history[i - HISTORY : i]), item, rating > LIKED_ABOVE, math.floor(time))
            )
    return samples


SOURCE = Source(
    name=NAME,
    summary="MovieLens-100K as TALLRec's movie data",
    raw_names="u.data and u.item",
    folders=("ml-100k", "movie"),
    raw_files=raw_files,
    build=build,
    archive=Archive(
        "MovieLens-100K",
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "0e33842e24a9c977be4e0107933c0723",  # as GroupLens states it in the .md5 file beside the archive
        {"ml-100k/README": "README", "ml-100k/u.item": "u.item", "ml-100k/u.data": "u.data"},
    ),
    read_published=read_published,
    write_published=tallrec.write_folder,
    stand_in=stand_in,
)
