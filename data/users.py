"""Users of predict.py and their titles, from flags or from a CSV file: rows whose items are titles."""

import csv
import io
import re
from pathlib import Path

from data.interactions import Interaction
from errors import DataError
from files import read_whole

TITLES = ("liked", "disliked", "target")
COLUMNS = ("user", *TITLES)
# Line breaks, other control characters, unpaired surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def title_problems(titles: dict[str, tuple[str, ...]], where: str) -> list[str]:
    """A line for every title of one user that no prompt can hold, or that is in two lists.

    titles: by "liked", "disliked" and "target"; where: the beginning of a line, before one of these names.
    """
    problems = []
    for name, own in titles.items():
        for title in dict.fromkeys(own):
            others = [other for other in TITLES[: TITLES.index(name)] if title in titles[other]]
            if not title.strip():
                problems.append(f"{where}{name}: a title is empty; leave it out")
            elif UNPRINTABLE.search(title):
                problems.append(
                    f"{where}{name} {title[:80]!r}: has a line break or another control character; take it out"
                )
            elif '", "' in f'"{title}"':  # other quotes are as good as in the published prompts
                problems.append(
                    f'{where}{name} {title[:80]!r}: has `", "`, which separates titles in the prompts; '
                    "write it differently"
                )
            elif others:
                problems.append(f"{where}{name} {title[:80]!r}: is among those {others[0]}, too; leave one of them out")
            elif name == "target" and own.count(title) > 1:
                problems.append(f"{where}target {title[:80]!r}: is named twice; leave one of them out")
    return problems


def read_users(path: Path) -> list[Interaction]:
    """A row for every target in a CSV file, in its order. Raises DataError naming file, line and column."""
    content, rows, line = read_whole(path), {}, 0
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8").removeprefix("\ufeff"), newline=""), strict=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        line, wrong = reader.line_num, [name for name in COLUMNS if reader.fieldnames.count(name) != 1]
        if wrong:
            raise DataError(
                f"{path} line 1: expected the columns {','.join(COLUMNS)}, each once; look at {', '.join(wrong)}"
            )
        for cells in reader:
            line = reader.line_num
            if None in cells or None in cells.values():  # surplus and missing cells
                raise DataError(
                    f"{path} line {line}: expected {len(reader.fieldnames)} cells, as in the header; "
                    "quote a cell that has commas"
                )
            for row in _rows_of_line(cells, f"{path} line {line}, column "):
                first, _ = rows.setdefault((row.user, row.target), (line, row))
                if first != line:
                    raise DataError(
                        f"{path} line {line}, column target {row.target[:80]!r}: "
                        f"user {row.user[:80]!r} has it in line {first} already"
                    )
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line}: not UTF-8; save the file with that encoding") from None
    except csv.Error as error:
        raise DataError(
            f"{path} line {line + 1}: not CSV ({error}); write a double quote twice within a quoted cell"
        ) from None
    if not rows:
        raise DataError(f"{path}: has no line below its header; add one for each user")
    return [row for _, row in rows.values()]


def _rows_of_line(cells: dict[str, str], where: str) -> list[Interaction]:
    user = cells["user"].strip()
    titles = {name: tuple(title.strip() for title in cells[name].split("|") if cells[name].strip()) for name in TITLES}
    problems = [] if user else [f"{where}user: is empty; name the user, within whom targets are ranked"]
    if not titles["target"]:
        problems.append(f'{where}target: is empty; name at least one title to score, several joined by "|"')
    problems += title_problems(titles, where)
    if problems:
        raise DataError("\n".join(problems))
    return user_rows(user, **titles)


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
