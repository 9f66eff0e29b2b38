"""MovieLens-100K to TALLRec's movie data set, exactly.

The rule, as TALLRec's code applies it (the paper's "latest 10,000 interactions" is not what it does):
users come in order of first appearance in u.data; each user's ratings are sorted by time, ties in
file order; every rating after a user's first ten is a sample whose history is the ten before it;
of all 90,570 samples the last 10,000 *of that list* are kept, that is the last 108 users, and cut
into 8,000 / 1,000 / 1,000. In effect it is a split by users: no test user occurs in train.

`python -m data.movie --raw DIR --out DIR` prepares it; --published adds TALLRec's JSON, byte for byte.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from data.download import MOVIELENS_100K
from data.interactions import Dataset, Interaction, Item
from data.sources import tallrec
from data.sources.movielens import parse_ratings
from errors import DataError
from files import read_whole

NAME = "movie"
VERSION = 1  # of the rule above; a change makes every prepared copy out of date
FOLDERS = ("ml-100k", "movie")
OPTIONS = ()
ARCHIVE = MOVIELENS_100K
HISTORY = 10  # items
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
    catalogue = parse_items(contents["u.item"], folder / "u.item")
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


write_published = tallrec.write_folder


def parse_items(content: bytes, path: Path) -> dict[int, Item]:
    """u.item: `id|title|...` per line, ISO-8859-1."""
    catalogue = {}
    for number, raw in enumerate(content.splitlines(), start=1):
        line = raw.decode("iso-8859-1")
        fields = line.split("|")
        if len(fields) < 2 or not fields[0].isdecimal() or len(fields[0]) > 10 or not fields[1]:
            raise DataError(f"{path} line {number}: expected `id|title|...`, found {line[:60]!r}")
        if int(fields[0]) in catalogue:
            raise DataError(f"{path} line {number}: item {fields[0]} is there twice")
        catalogue[int(fields[0])] = Item(fields[1])
    return catalogue


def by_user(ratings: Iterable[tuple[int, int, int, int]]) -> dict[int, list[tuple[int, int, int]]]:
    """{user: [(time, item, rating)]}, users and their ratings in order of the file."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for user, item, rating, time in ratings:
        found.setdefault(user, []).append((time, item, rating))
    return found


def build_samples(ratings: dict[int, list[tuple[int, int, int]]]) -> list[Interaction]:
    """Every rating after a user's first ten, with the ten before it as history."""
    samples = []
    for user, rows in ratings.items():
        # The sort must be stable: 44 % of the validation targets tie with a history item in time.
        rows = sorted(rows, key=lambda row: row[0])
        history = [(item, rating > LIKED_ABOVE) for _, item, rating in rows]
        for i in range(HISTORY, len(rows)):
            time, item, rating = rows[i]
            samples.append(Interaction(user, tuple(history[i - HISTORY : i]), item, rating > LIKED_ABOVE, time))
    return samples


if __name__ == "__main__":
    from data.cache import command

    command(NAME)
