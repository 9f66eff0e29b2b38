"""Leaks: rows that give away their own answer, or the answer to a row of another split.

Items are compared by what prompts show, title and author: the same book under two ids is the same question.
"""

from data.interactions import SPLITS, Dataset, Interaction


def leaks(data: Dataset) -> list[str]:
    """A line for each kind of leak in the data set, with the number of rows and the first of them."""
    first: dict[tuple, int | str] = {}
    shown = {item: first.setdefault(_shown(item, data), item) for item in data.catalogue}  # the first id of the same
    lines = []
    for split in SPLITS:
        own = [row for row in getattr(data, split) if any(shown[item] == shown[row.target] for item, _ in row.history)]
        if own:
            by_id = sum(any(item == row.target for item, _ in row.history) for row in own)
            lines.append(
                f"{len(own):,} rows of {split} have their target in their own history{_other_ids(len(own) - by_id)}, "
                f"first {_first(data, own[0])}"
            )
    for split, earlier in (("valid", "train"), ("test", "train"), ("test", "valid")):
        seen = {_asked(row, shown) for row in getattr(data, earlier)}
        again = [row for row in getattr(data, split) if _asked(row, shown) in seen]
        if again:
            same = {_asked(row, None) for row in getattr(data, earlier)}
            by_id = sum(_asked(row, None) in same for row in again)
            lines.append(
                f"{len(again):,} rows of {split} are also asked in {earlier}{_other_ids(len(again) - by_id)}, "
                f"first {_first(data, again[0])}"
            )
    return lines


def _shown(item: int | str, data: Dataset) -> tuple:
    """What a prompt shows of an item, as CoLLM's does without spaces around; the id of one without a title."""
    entry = data.catalogue[item]
    return (entry.title.strip(), entry.author) if entry.title.strip() else (item,)


def _other_ids(rows: int) -> str:
    return f" ({rows:,} under another id with the same title and author)" if rows else ""


def _asked(row: Interaction, shown: dict | None) -> tuple:
    """What makes two rows the same question: user and target, or history and target where the user is unknown.

    shown: what stands for each item; None: its id.
    """
    target = shown[row.target] if shown else row.target
    if row.user is not None:
        return row.user, target
    return (tuple((shown[item], liked) for item, liked in row.history) if shown else row.history), target


def _first(data: Dataset, row: Interaction) -> str:
    title = repr(data.catalogue[row.target].title)
    return f"user {row.user}, {title}" if row.user is not None else title
