"""Users of predict.py and the titles that they name, checked and turned into rows; data/user_files.py reads them.

A title is written `TITLE` or `TITLE::AUTHOR`. Where a separator belongs to the title, a backslash stands before it:
`\\::`, and in a cell of users.csv `\\|`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from data.interactions import Interaction, Item
from data.prompts import as_shown
from data.titles import CONTROL, UNPRINTABLE, author_problem, title_problem
from errors import quoted

TITLES = ("liked", "disliked", "target")
AUTHOR = "::"  # between a title and its author
_AUTHOR = re.compile(r"(?<!\\)::")
# How pandas writes a list of texts, and a cell that is missing.
_LIST = re.compile(r"""[\[({]\s*(['"].*['"]\s*,?\s*)?[\])}]""", re.DOTALL)
MISSING = frozenset(("nan", "NaN", "NaT", "<NA>", "None", "null"))


@dataclass(frozen=True)
class User:
    """What one user named. where: how a message about it begins; line, text: its row of a file."""

    name: str | None
    liked: tuple[Item, ...]
    disliked: tuple[Item, ...]
    target: tuple[Item, ...]
    where: str = "--"
    line: int = 0
    text: str = ""

    @property
    def history(self) -> tuple[Item, ...]:
        """All titles but the targets."""
        return (*self.liked, *self.disliked)


@dataclass(frozen=True)
class BadRow:
    """A row of a file that cannot be scored, and a line for every reason."""

    line: int
    problems: tuple[str, ...]
    text: str


# ---- from text to titles ------------------------------------------------------------------------


def read_item(text: str) -> Item:
    """The title of `TITLE` or `TITLE::AUTHOR`. Raises ValueError with what is wrong with it."""
    if (problem := foreign_form(text)) is not None:
        raise ValueError(problem)
    title, *authors = (part.strip().replace(r"\::", "::").replace(r"\|", "|") for part in _AUTHOR.split(text))
    if len(authors) > 1:
        raise ValueError(r"has `::` twice, which separates a title from its author; write `\::` within a title")
    return checked(Item(title, *authors))


def checked(item: Item) -> Item:
    """The item. Raises ValueError with what is wrong if no prompt can show it."""
    if (problem := title_problem(item.title)) is not None:
        raise ValueError(problem)
    if item.author is not None and (problem := author_problem(item.author)) is not None:
        raise ValueError(f"the author {problem}")
    return item


def foreign_form(text: str) -> str | None:
    """Why this is no title but what pandas writes for a list or for nothing, and what to do; None if it is neither."""
    if _LIST.fullmatch(text.strip()):
        return (
            "is a list as Python writes it; join titles by | (A|B), leave the cell empty for none, "
            'or give a .jsonl file with lists: {"user": "ada", "liked": ["A", "B"], "target": ["C"]}'
        )
    if text.strip() in MISSING:
        return "is how pandas writes a missing value; leave it empty"
    return None


def typed(item: Item) -> str:
    """The item as it is written in flags: read_item(typed(item)) == item."""
    title = item.title.replace("::", r"\::")
    return title if item.author is None else f"{title}{AUTHOR}{item.author}"


def items_of_flags(texts: dict[str, Iterable[str]]) -> tuple[dict[str, tuple[Item, ...]], list[str]]:
    """({"liked": items, ...}, a line for every text that is no title) of the flags of those names."""
    return read_items_of({name: list(of_name) for name, of_name in texts.items()}, "--")


def read_items_of(texts: dict[str, list[str]], where: str) -> tuple[dict[str, tuple[Item, ...]], list[str]]:
    """(items by name, problems). where: the beginning of a problem's line, before one of the names."""
    items, problems = {}, []
    for name, of_name in texts.items():
        found = []
        for text in of_name:
            try:
                found.append(read_item(text))
            except ValueError as error:
                problems.append(_problem(where, name, text, str(error)))
        items[name] = tuple(found)
    return items, list(dict.fromkeys(problems))


def _problem(where: str, name: str, text: str, problem: str) -> str:
    return f"{where}{name}: a title {problem}" if not text.strip() else f"{where}{name} {quoted(text, 90)}: {problem}"


def conflicts(user: User) -> list[str]:
    """A line for every title that is in two of the user's lists, or twice among the targets."""
    problems = []
    for name in TITLES:
        own = getattr(user, name)
        for item in dict.fromkeys(own):
            others = [other for other in TITLES[: TITLES.index(name)] if item in getattr(user, other)]
            start = f"{user.where}{name} {quoted(typed(item), 90)}: is"
            if others:
                problems.append(f"{start} among those {others[0]}, too; leave one of them out")
            elif name == "target" and own.count(item) > 1:
                problems.append(f"{start} named twice; leave one of them out")
    return problems


def name_problem(name: str) -> str | None:
    """Why this cannot be the name of a user, and what to do; None if it can."""
    if not name.strip():
        return "is empty; name the user, within whom targets are ranked"
    if name.strip() in MISSING:
        return f"{name.strip()} is how pandas writes a missing value; name the user, within whom targets are ranked"
    return CONTROL if UNPRINTABLE.search(name) else None


# ---- what a run has shown -----------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What a run showed in its prompts: its items, and how many were in the shortest and in the longest history."""

    items: frozenset[Item]
    history: tuple[int, int]

    @cached_property
    def authors(self) -> dict[str, list[str]]:
        """The authors of each title that has any."""
        found: dict[str, list[str]] = {}
        for item in sorted(self.items, key=typed):
            if item.author:
                found.setdefault(item.title, []).append(item.author)
        return found


def with_authors(user: User, known: Known) -> tuple[User, list[str]]:
    """(the user, whose titles have the authors that the run showed, a line for every title for which that fails).

    A title by several authors is refused unless its author is given.
    """
    authors, filled, problems = known.authors, {}, []
    for name in TITLES:
        items = []
        for item in getattr(user, name):
            found = authors.get(item.title, [])
            if not item.author and len(found) == 1:
                item = replace(item, author=found[0])
            elif not item.author and found:
                names = ", ".join(quoted(author) for author in found[:3])
                problems.append(
                    f"{user.where}{name} {quoted(item.title, 90)}: is by several authors in the run's data ({names}); "
                    "write TITLE::AUTHOR"
                )
            items.append(item)
        filled[name] = tuple(items)
    return replace(user, **filled), problems


def without_doubles(items: Iterable[Item], user: User) -> list[Item]:
    """The items that are not in the user's history. A title without an author is the same as with any."""
    history, titles = set(user.history), {item.title for item in user.history}
    bare = {item.title for item in user.history if item.author is None}
    return [
        item
        for item in dict.fromkeys(items)
        if item not in history and item.title not in bare and not (item.author is None and item.title in titles)
    ]


# ---- rows ---------------------------------------------------------------------------------------


def rows_of_user(user: User, targets: Iterable[Item], wording: str, longest: int | None) -> list[Interaction]:
    """A row for each of these targets; the item ids are the titles as they are typed.

    wording: of Dataset; longest: how many titles, the latest, a history may show at most; None: all.
    """
    liked, disliked, target = (tuple(map(typed, items)) for items in (user.liked, user.disliked, targets))
    rows = user_rows(user.name, liked, disliked, target)
    if not rows:
        return []
    history = as_shown(rows[0], wording).history
    history = history if longest is None else history[max(0, len(history) - longest) :]
    return [replace(row, history=history) for row in rows]


def user_rows(
    user: str | None, liked: tuple[str, ...], disliked: tuple[str, ...], target: tuple[str, ...]
) -> list[Interaction]:
    """A row per target, with titles as item ids. The label is unknown: False holds its place, and nothing reads it.

    The newest likes and dislikes come last, so a prompt that must shrink loses the oldest of the longer list first.
    """
    history = [
        (i - len(titles), title, likes)
        for likes, titles in ((True, liked), (False, disliked))
        for i, title in enumerate(titles)
    ]
    history = tuple((title, likes) for _, title, likes in sorted(history, key=lambda entry: entry[0]))
    return [Interaction(user, history, title, label=False) for title in target]
