"""The files of a user's own data: which there may be, and their content, checked line by line."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data.interactions import Item
from data.sources.bad_lines import BadLines
from data.sources.table import read_numbers, read_table
from data.timestamps import EXPECTED, Times, read_times
from data.titles import CONTROL, UNPRINTABLE, author_problem, looks_garbled, title_problem
from errors import DataError, quoted

LAYOUTS = (  # (interactions, items)
    ("interactions.csv", "items.csv"),
    ("ratings.csv", "movies.csv"),  # MovieLens since 2016
    ("ratings.dat", "movies.dat"),  # MovieLens-1M and 10M
)
LIKED = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
LISTED = 5  # items in a notice


@dataclass(frozen=True)
class Entry:
    """One line of the interactions. tick: its time, see Times; zero: it is a rating of 0."""

    line: int
    user: str
    item: str
    tick: int
    value: float
    zero: bool


@dataclass(frozen=True)
class Interactions:
    """The usable lines, in file order. rated: their values are ratings; else 1.0 for liked and 0.0 for disliked."""

    path: Path
    entries: list[Entry]
    times: Times
    rated: bool


def find(folder: Path) -> list[Path]:
    """Interactions and items, if the folder has one of LAYOUTS, gzipped or not, else [].

    Raises DataError if the second file is missing, or there are several.
    """
    found = [(layout, files) for layout in LAYOUTS if (files := _present(folder, layout[0]))]
    if not found:
        return []
    several = [path.name for _, files in found for path in files]
    if len(several) > 1:
        raise DataError(f"{folder}: has {' and '.join(several)}; keep one of them")
    (first, second), (path,) = found[0]
    items = _present(folder, second)
    if not items:
        others = [file for _, of_layout in LAYOUTS for file in _present(folder, of_layout)]
        hint = f" (here is {others[0].name}, which goes with another)" if others else ""
        raise DataError(f"{folder / second}: missing; {first} goes with {second}{hint}, see docs/own-data.md")
    if len(items) > 1:
        raise DataError(f"{folder}: has {' and '.join(item.name for item in items)}; keep one of them")
    return [path, items[0]]


def _present(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


# ---- items --------------------------------------------------------------------------------------


def read_catalogue(path: Path, notice: Callable[[str], None]) -> list[Item]:
    """What a file of items shows, each once; unlike in own data, the column item may be missing.

    Raises DataError with a line for every item that no prompt can show.
    """
    bad = BadLines(skip=None)
    catalogue = read_items(path, bad, notice, ("title",))
    bad.settle(notice)
    if not catalogue:
        raise DataError(f"{path}: has no line below its header; add the items to rank")
    return list(dict.fromkeys(catalogue.values()))


def read_items(
    path: Path, bad: BadLines, notice: Callable[[str], None], needed: tuple[str, ...] = ("item", "title")
) -> dict[int | str, Item]:
    """{item: Item} of the items. Lines that cannot be used go to `bad`.

    needed: the columns that must be there; without a column item, its line is the item's name.
    """
    catalogue: dict[int | str, Item] = {}
    optional = tuple(name for name in ("item", "author") if name not in needed)
    for line, fields in read_table(path, needed, optional, bad, notice):
        item, title, author = (fields.get(name, "").strip() for name in ("item", "title", "author"))
        item = item if "item" in fields else str(line)
        if item in catalogue:
            bad.add(path, line, ", column item", f"{quoted(item)} is listed twice", "an item that is listed twice")
        elif UNPRINTABLE.search(item):
            bad.add(path, line, ", column item", f"{quoted(item)} {CONTROL}", "an item with a control character")
        elif problem := title_problem(title):
            bad.add(path, line, ", column title", problem, "a title that prompts cannot show")
            bad.items.add(item)
        elif author and (problem := author_problem(author)):
            bad.add(path, line, ", column author", problem, "an author that prompts cannot show")
            bad.items.add(item)
        else:
            catalogue[item] = Item(title, author or None)
    _say_of_items(path, catalogue, notice)
    return catalogue


def _say_of_items(path: Path, catalogue: dict[int | str, Item], notice: Callable[[str], None]) -> None:
    """What is odd about the titles, with its number and the first of them."""
    garbled = [item.title for item in catalogue.values() if looks_garbled(f"{item.title} {item.author or ''}")]
    if garbled:
        notice(
            f"{path}: {len(garbled):,} items look as if UTF-8 had been read as Latin-1, first {quoted(garbled[0])}; "
            "save the file again from its source"
        )
    first: dict[Item, int | str] = {}
    same = [(first[shown], item) for item, shown in catalogue.items() if first.setdefault(shown, item) != item]
    if same:
        notice(
            f"{path}: {len(same):,} items have title and author of another, first {quoted(same[0][0])} and "
            f"{quoted(same[0][1])}; prompts cannot tell them apart, so leaks are counted by what is shown"
        )


# ---- interactions -------------------------------------------------------------------------------


def read_interactions(
    path: Path, catalogue: dict, items_path: Path, bad: BadLines, notice: Callable[[str], None]
) -> Interactions:
    """The usable lines. Lines that cannot be used go to `bad`."""
    records = list(read_table(path, ("user", "item", "timestamp"), ("rating", "liked"), bad, notice))
    lines = [line for line, _ in records]
    rated = _is_rated(path, records)
    values = _values(path, records, rated, bad, notice)
    times = read_times([fields["timestamp"] for _, fields in records], lines, f"{path}, column timestamp")
    entries: list[Entry] = []
    missing: dict[str, None] = {}
    for (line, fields), value, tick in zip(records, values, times.ticks):
        item, user = fields["item"].strip(), fields["user"].strip()
        if UNPRINTABLE.search(user):
            bad.add(path, line, ", column user", f"{quoted(user)} {CONTROL}", "a user with a control character")
        elif item in bad.items and item not in catalogue:
            if bad.skip:
                problem = f"{quoted(item)} is left out of {items_path.name}"
                bad.add(path, line, ", column item", problem, f"an item that is left out of {items_path.name}")
        elif item not in catalogue:
            missing[item] = None
            problem = f"{quoted(item)} is not in {items_path.name}{_written_otherwise(item, catalogue)}"
            bad.add(path, line, ", column item", problem, f"an item that {items_path.name} does not have")
        elif tick is None:
            problem = f"{EXPECTED}, found {quoted(fields['timestamp'])}"
            bad.add(path, line, ", column timestamp", problem, "no time")
        elif value is not None:
            entries.append(Entry(line, user, item, tick, value, rated and value == 0))
    if len(missing) > 1:
        shown = ", ".join(quoted(item) for item in list(missing)[:LISTED])
        bad.remarks.append(f"{items_path}: {len(missing):,} items have no line there: {shown}, ...")
    _say_of_times(path, entries, times, notice)
    return Interactions(path, entries, times, rated)


def _written_otherwise(item: str, catalogue: dict) -> str:
    """A hint if the catalogue has the same number: pandas writes 5 as 5.0 if a cell is missing, others 5 as 005."""
    plain = re.sub(r"^0+(?=\d)|[.]0+$", "", item)
    same = next((known for known in (plain, f"{plain}.0") if known in catalogue), None)
    return f" ({quoted(same)} is: write it alike in both files)" if same is not None else ""


def _is_rated(path: Path, records: list) -> bool:
    """Whether the file has ratings; else it says what was liked."""
    fields = records[0][1] if records else {"rating": ""}
    if ("rating" in fields) == ("liked" in fields):
        problem = "has both rating and liked; keep one" if "rating" in fields else "rating or liked is missing"
        raise DataError(f"{path} line 1: {problem}")
    return "rating" in fields


def _values(path: Path, records: list, rated: bool, bad: BadLines, notice: Callable[[str], None]) -> list[float | None]:
    """The rating in each line, or 1.0 for liked and 0.0 for disliked; None where there is none."""
    lines, name = [line for line, _ in records], "rating" if rated else "liked"
    cells = [fields[name] for _, fields in records]
    words = {} if rated else LIKED
    numbers, commas = read_numbers(["0" if _word(cell) in words else cell for cell in cells], lines, f"{path}, {name}")
    if commas:
        notice(f"{path}: column {name} has decimal commas")
    values: list[float | None] = []
    for line, cell, number in zip(lines, cells, numbers):
        value = float(words[_word(cell)]) if _word(cell) in words else number
        if value is None or (not rated and value not in (0, 1)):
            expected = "a number" if rated else "1 or 0 (true, false, yes, no)"
            problem = f"expected {expected}, found {quoted(cell)}"
            bad.add(path, line, f", column {name}", problem, f"no usable {name}")
            value = None
        values.append(value)
    return values


def _word(cell: str) -> str:
    return cell.strip().lower()


def _say_of_times(path: Path, entries: list[Entry], times: Times, notice: Callable[[str], None]) -> None:
    """What was understood, and how many times are equal."""
    if not entries:
        return
    kept = replace(times, ticks=[entry.tick for entry in entries])
    notice(f"{path}: times are read as {times.form}, {kept.span()}")
    count: dict[tuple[str, int], int] = {}
    for entry in entries:
        count[entry.user, entry.tick] = count.get((entry.user, entry.tick), 0) + 1
    equal = sum(number for number in count.values() if number > 1)
    if len(entries) > 1 and len(set(kept.ticks)) == 1:
        notice(
            f"{path}: all {len(entries):,} times are equal, so the order of the file decides histories, "
            "and --split-by time has nothing to go by; --split-by user splits the users"
        )
    elif equal:
        notice(
            f"{path}: {equal:,} of {len(entries):,} times are equal to another of the same user; "
            "such lines keep the order of the file"
        )
