"""A file of users for predict.py: CSV, or JSON Lines if its name ends with .jsonl.

users.csv      columns user,liked,disliked,target; several titles in a cell are joined by `|`, see data/users.py
users.jsonl    an object per line with the same keys; titles are lists, and an entry is a title as it is, or
               {"title": ..., "author": ...}
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.interactions import Item
from data.users import TITLES, BadRow, User, checked, conflicts, foreign_form, name_problem, read_items_of, typed
from errors import DataError, quoted
from files import NamedTwice, parse_json, read_whole

_BAR = re.compile(r"(?<!\\)\|")
_SPACED_BAR = re.compile(r"(?<!\\) \| ")


@dataclass
class UserFile:
    """The users of a file in its order, the rows that cannot be used, and what to tell of how it was read."""

    users: list[User] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, user: User, problems: list[str], path: Path) -> None:
        """Put a row where it belongs; what is wrong with it is known, but for what earlier rows say."""
        for earlier in self._same_user.get(user.name, []):
            if problem := _repeats(user, earlier, path):
                problems = [*problems, problem]
        if problems:
            self.bad.append(BadRow(user.line, tuple(problems), user.text))
        else:
            self.users.append(user)
            self._same_user.setdefault(user.name, []).append(user)

    def __post_init__(self):
        self._same_user: dict[str | None, list[User]] = {}


def _repeats(user: User, earlier: User, path: Path) -> str | None:
    """What is wrong if an earlier row of this user asks for the same; None if none does."""
    both = [item for item in user.target if item in earlier.target]
    if both:
        return (
            f"{user.where}target {quoted(typed(both[0]), 90)}: user {quoted(user.name, 90)} has it in line "
            f"{earlier.line} already"
        )
    if not user.target and not earlier.target:
        return f"{path} line {user.line}: user {quoted(user.name, 90)} is in line {earlier.line} already; keep one"
    return None


def read_users(path: Path, with_targets: bool = True) -> UserFile:
    """The users of a file. with_targets: each names titles to score; otherwise none may.

    Raises DataError naming file and line if the file as a whole cannot be read.
    """
    text, found = _decoded(path), UserFile()
    read = _read_lines if path.suffix.lower() == ".jsonl" else _read_csv
    for user, problems in read(text, path, found.notes, with_targets):
        if with_targets and not user.target and not problems:
            form = 'several joined by "|"' if read is _read_csv else 'in a list: "target": ["A"]'
            problems = [f"{user.where}target: is empty; name at least one title to score, {form}"]
        if not with_targets and user.target:
            problems = [*problems, f"{user.where}target: contradicts --catalogue, which is ranked; leave it empty"]
        found.add(user, problems or conflicts(user), path)
    if not found.users and not found.bad:
        below = " below its header" if read is _read_csv else ""
        raise DataError(f"{path}: has no line{below}; add one for each user")
    return found


def _decoded(path: Path) -> str:
    content = read_whole(path)
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line}: not UTF-8; save the file with that encoding") from None


# ---- CSV ----------------------------------------------------------------------------------------


def _records(text: str, path: Path, notes: list[str], known: tuple[str, ...]) -> Iterator[tuple[int, str, list[str]]]:
    """(line at which it begins, its text, its cells) of every record, the header first. known: names of columns."""
    lines = io.StringIO(text, newline="").readlines()
    delimiter = _delimiter(lines[0] if lines else "", known)
    if delimiter != ",":
        notes.append(f"{path}: columns are separated by {delimiter!r}")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    begin = 0
    try:
        for cells in reader:
            if cells:
                yield begin + 1, "".join(lines[begin : reader.line_num]).rstrip("\r\n"), cells
            begin = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{path} line {begin + 1}: not CSV ({error}); write a double quote twice within a quoted cell"
        ) from None


def _delimiter(header: str, known: tuple[str, ...]) -> str:
    """Semicolon or tab if they make more known columns out of the header than the comma does."""
    counts = {sign: sum(name.strip().strip('"').lower() in known for name in header.split(sign)) for sign in ",;\t"}
    return max(counts, key=counts.__getitem__)  # the comma if equal


def _read_csv(text: str, path: Path, notes: list[str], with_targets: bool) -> Iterator[tuple[User, list[str]]]:
    records, spaced = _records(text, path, notes, ("user", *TITLES)), []
    _, _, names = next(records, (1, "", []))
    header = _columns(names, path, notes, with_targets)
    for line, row, cells in records:
        yield _user_of_cells(cells, header, f"{path} line {line}", row, spaced)
    if spaced:
        notes.append(
            f"{path}: ` | ` separates titles in {len(spaced):,} cells, such as {spaced[0]}; "
            r"write `\|` where it belongs to a title"
        )


def _columns(names: list[str], path: Path, notes: list[str], with_targets: bool) -> list[str]:
    """The header, in small letters. Raises DataError if a column is missing or there twice."""
    header = [name.strip().lower() for name in names]
    needed = ("user", *TITLES) if with_targets else ("user", *TITLES[:2])
    wrong = [name for name in ("user", *TITLES) if header.count(name) != 1 and (name in needed or name in header)]
    if wrong:
        raise DataError(
            f"{path} line 1: expected the columns {','.join(needed)}, each once; look at {', '.join(wrong)}"
            + (f" (found {quoted(','.join(header), 90)})" if header else "")
        )
    if others := [name for name in header if name not in ("user", *TITLES)]:
        notes.append(f"{path}: columns that are not used: {quoted(', '.join(others), 200)}")
    return header


def _user_of_cells(
    cells: list[str], header: list[str], where: str, row: str, spaced: list[str]
) -> tuple[User, list[str]]:
    """(a user, what is wrong with the row). spaced: gets a cell in which ` | ` separates titles."""
    user = User("", (), (), (), f"{where}, column ", int(where.rsplit(" ", 1)[1]), row)
    if len(cells) != len(header):
        problem = f"{where}: expected {len(header)} cells, as in the header"
        return user, [f"{problem}; quote a cell that has commas"]
    fields = dict(zip(header, cells))
    texts, problems = {}, []
    if problem := name_problem(fields["user"]):
        problems.append(f"{user.where}user: {problem}")
    for name in TITLES:
        cell = fields.get(name, "").strip()
        parts = [part.strip() for part in _BAR.split(cell)] if cell else []
        if problem := foreign_form(cell):
            problems.append(f"{user.where}{name} {quoted(cell, 90)}: {problem}")
        elif 0 < len(_SPACED_BAR.findall(cell)) < len(parts) - 1:
            problems.append(
                f"{user.where}{name} {quoted(cell, 90)}: has both ` | ` and `|`; "
                r"separate titles alike, and write `\|` where it belongs to a title"
            )
        else:
            texts[name] = parts
            if _SPACED_BAR.search(cell):
                spaced.append(f"line {user.line} {quoted(cell, 90)}, read as {len(parts)} titles")
    items, wrong = read_items_of(texts, user.where)
    return replace(user, name=fields["user"].strip(), **items), problems + wrong


# ---- JSON Lines ---------------------------------------------------------------------------------

EXPECTED = 'expected an object such as {"user": "ada", "liked": ["A"], "disliked": [], "target": ["B"]}'


def _read_lines(text: str, path: Path, notes: list[str], with_targets: bool) -> Iterator[tuple[User, list[str]]]:
    others: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                content, problem = parse_json(line), EXPECTED
            except NamedTwice as error:
                content, problem = None, str(error)
            except (ValueError, RecursionError):
                content, problem = None, EXPECTED
            if isinstance(content, dict):
                yield _user_of_object(content, where, number, line.strip())
                others |= dict.fromkeys(key for key in content if key not in ("user", *TITLES))
            else:
                yield User("", (), (), (), f"{where}, ", number, line.strip()), [f"{where}: {problem}"]
    if others:
        notes.append(f"{path}: keys that are not used: {quoted(', '.join(others), 200)}")


def _user_of_object(content: dict, where: str, number: int, row: str) -> tuple[User, list[str]]:
    name, where = content.get("user", ""), f"{where}, "
    problems, items = [], {}
    if not isinstance(name, str) and type(name) is not int:
        problems.append(f"{where}user: expected a text or a whole number, found {quoted(name)}")
    elif problem := name_problem(str(name)):
        problems.append(f"{where}user: {problem}")
    for key in TITLES:
        entries, found = content.get(key, []), []
        if not isinstance(entries, list):
            problems.append(f"{where}{key}: expected a list of titles, found {quoted(entries)}; [] says none")
            continue
        for entry in entries:
            try:
                found.append(_item_of_entry(entry))
            except ValueError as error:
                problems.append(f"{where}{key} {quoted(entry, 90)}: {error}")
        items[key] = tuple(found)
    return User(str(name).strip(), **(dict.fromkeys(TITLES, ()) | items), where=where, line=number, text=row), problems


def _item_of_entry(entry: object) -> Item:
    """Raises ValueError with what is wrong if it is neither a title nor an object with a title."""
    if isinstance(entry, str):
        return checked(Item(entry.strip()))
    title, author = (entry.get(key) for key in ("title", "author")) if isinstance(entry, dict) else (None, None)
    if not isinstance(title, str) or not isinstance(author, str | None) or set(entry) - {"title", "author"}:
        raise ValueError('expected a title, or {"title": ..., "author": ...}')
    return checked(Item(title.strip(), author.strip() if author is not None else None))
