"""A user's own data: a folder with interactions and items, as CSV or as MovieLens publishes them.

  interactions.csv    user, item, timestamp, and one of rating or liked
  items.csv           item, title, and optionally author
  ratings.csv, movies.csv or ratings.dat, movies.dat      the same in MovieLens' layouts

Each user's interactions are sorted by time, ties in file order. Every interaction that has an earlier one
is a row to predict; its history is the ten before it, liked or not. --split-by time (default) sorts the
rows by the time of their target and cuts at 80 and 90 %, so nothing in train is later than anything in
test; rows of the same second may fall on both sides of a cut. --split-by user cuts a seeded order of the
users instead, and no user is in two splits.

`--data DIR` reads such a folder directly, `python prepare.py custom --raw DIR --out DIR` prepares it;
docs/own-data.md has an example and all that is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.interactions import HISTORY, Dataset, Interaction
from data.sources import own_files
from data.sources.bad_lines import BadLines
from data.sources.base import Option, Source
from data.sources.own_files import Entry, Interactions
from errors import DataError

FILES = own_files.LAYOUTS[0]
SPLIT_SEED = 42  # of the users' order
raw_files = own_files.find


@dataclass(frozen=True)
class Row:
    """A row to predict, and the exact time of its target: an Interaction has whole seconds."""

    tick: int
    interaction: Interaction


def build(
    files: list[Path],
    notice: Callable[[str], None],
    **options: str | float | bool | None,
) -> Dataset:
    """The data set from raw_files. options: see SOURCE.

    Raises DataError naming file, line and column of anything malformed.
    """
    values = SOURCE.options_from(options)
    interactions_path, items_path = files
    bad = BadLines(values["skip_bad"])
    catalogue = own_files.read_items(items_path, bad, notice)
    read = own_files.read_interactions(interactions_path, catalogue, items_path, bad, notice)
    bad.settle(notice)
    _refuse_options(read, values)
    entries = without_repeats(read, values["skip_bad"], notice)
    liked = labels(read, entries, values, notice)
    rows = samples(read, liked)
    _refuse_one_label(read, rows)
    splits = split(rows, values["split_by"], interactions_path)
    folder = interactions_path.resolve().parent
    return Dataset(folder.name, "own data", noun_of(files, values["noun"], notice), catalogue, **splits)


def noun_of(files: list[Path], noun: str | None, notice: Callable[[str], None]) -> str:
    """What prompts call an item; of MovieLens' files nobody has to say it."""
    if noun or not files[1].name.startswith("movies."):
        return noun or "item"
    notice(f'{files[1]}: prompts call an item "movie"; --noun WORD changes that')
    return "movie"


# ---- from lines to labels -----------------------------------------------------------------------


def _refuse_options(read: Interactions, values: dict) -> None:
    """Raises DataError for a flag that is missing, or has no effect on these files."""
    ratings = [entry.value for entry in read.entries]
    given = [name for name in ("like_threshold", "zeros") if values[name] is not None]
    if not read.rated and given:
        raise DataError(
            f"--{given[0].replace('_', '-')}: has no effect, since {read.path.name} has a column liked instead of "
            "ratings; leave it out"
        )
    if read.rated and ratings and values["like_threshold"] is None:
        raise DataError(
            f"--like-threshold: {read.path.name} has ratings from {min(ratings):g} to {max(ratings):g}; "
            "say from which rating an item is liked"
        )


def without_repeats(read: Interactions, skip: bool, notice: Callable[[str], None]) -> list[Entry]:
    """The lines; a line that repeats another is counted and listed, and left out if skip."""
    first: dict[tuple, int] = {}
    kept, repeats = [], []
    for entry in read.entries:
        if first.setdefault((entry.user, entry.item, entry.tick, entry.value), entry.line) == entry.line:
            kept.append(entry)
        else:
            repeats.append(entry.line)
    if not repeats:
        return kept
    shown = ", ".join(map(str, repeats[: own_files.LISTED])) + (", ..." if len(repeats) > own_files.LISTED else "")
    what = "are left out (--skip-bad)" if skip else "count twice; --skip-bad leaves the repeats out"
    notice(f"{read.path}: {len(repeats):,} lines repeat an earlier line (lines {shown}); they {what}")
    return kept if skip else read.entries


def labels(
    read: Interactions, entries: list[Entry], values: dict, notice: Callable[[str], None]
) -> list[tuple[Entry, bool]]:
    """Every line that counts, with whether its item is liked."""
    threshold = values["like_threshold"] if read.rated else 1.0
    zeros = sum(entry.zero for entry in entries)
    liked = [
        (entry, entry.value >= threshold and not (entry.zero and values["zeros"] == "dislike"))
        for entry in entries
        if not (entry.zero and values["zeros"] == "drop")
    ]
    if zeros:
        what = {
            "drop": "they are left out",
            "dislike": "they count as disliked",
            None: f'they count as {"liked" if threshold <= 0 else "disliked"}. If 0 means "not rated", '
            "--zeros drop leaves them out; --zeros dislike keeps them as disliked",
        }[values["zeros"]]
        notice(f"{read.path}: {zeros:,} of {len(entries):,} ratings are 0; {what}")
    return liked


# ---- from labels to splits ----------------------------------------------------------------------


def samples(read: Interactions, liked: list[tuple[Entry, bool]]) -> list[Row]:
    """Every interaction that has an earlier one, user by user."""
    of_user: dict[str, list[tuple[Entry, bool]]] = {}
    for entry, label in liked:
        of_user.setdefault(entry.user, []).append((entry, label))
    rows = []
    for user, lines in of_user.items():
        ordered = sorted(lines, key=lambda line: line[0].tick)  # stable
        history = [(entry.item, label) for entry, label in ordered]
        for i in range(1, len(ordered)):
            entry, label = ordered[i]
            seen = tuple(history[max(0, i - HISTORY) : i])
            time = read.times.seconds(entry.tick)
            rows.append(Row(entry.tick, Interaction(user, seen, entry.item, label, time)))
    return rows


def _refuse_one_label(read: Interactions, rows: list[Row]) -> None:
    found = {row.interaction.label for row in rows}
    if len(found) == 1:
        word = "liked" if found.pop() else "disliked"
        advice = "check --like-threshold"
        if not read.rated:
            advice = "a model learns from both; clicks or purchases alone do not say what was disliked"
        raise DataError(f"{read.path}: all rows are {word}; {advice}")


def split(rows: list[Row], by: str, path: Path) -> dict[str, list[Interaction]]:
    """The splits. Raises DataError if one is empty."""
    splits, other = (by_user(rows), by_time(rows)) if by == "user" else (by_time(rows), by_user(rows))
    if empty := next((name for name, of_split in splits.items() if not of_split), None):
        advice = f", or try --split-by {'time' if by == 'user' else 'user'}" * all(other.values())
        raise DataError(f"{path}: leaves no rows for {empty}; add interactions{advice}")
    return splits


def by_time(rows: list[Row]) -> dict[str, list[Interaction]]:
    """The splits: rows in order of their time, cut at 80 and 90 %."""
    return _cut([row.interaction for row in sorted(rows, key=lambda row: row.tick)])


def by_user(rows: list[Row]) -> dict[str, list[Interaction]]:
    """The splits: users in a seeded order, cut at 80 and 90 %, each with all their rows."""
    of_user: dict[int | str | None, list[Interaction]] = {}
    for row in rows:
        of_user.setdefault(row.interaction.user, []).append(row.interaction)
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


SOURCE = Source(
    name="custom",
    summary="your own data",
    raw_names="interactions.csv and items.csv (or MovieLens' ratings.csv and movies.csv, ratings.dat and movies.dat)",
    folders=(),
    raw_files=raw_files,
    build=build,
    version=2,
    options=(
        Option("like_threshold", "own data: rating from which an item is liked", type=float),
        Option("noun", "own data: what the prompts call an item; item if not given"),
        Option(
            "split_by",
            "own data: time: no test row is older than a training row; user: no user is in two splits",
            default="time",
            choices=("time", "user"),
        ),
        Option(
            "zeros",
            "own data and book: a rating of 0 counts as disliked, or the line is left out; default: as other ratings",
            choices=("dislike", "drop"),
        ),
        Option(
            "skip_bad", "own data: leave out lines that cannot be used, and repeated lines", default=False, type=bool
        ),
    ),
)
