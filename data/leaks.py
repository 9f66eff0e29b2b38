"""Leaks: rows that give away their own answer, or the answer to a row of another split."""

from data.interactions import SPLITS, Dataset, Interaction


def leaks(data: Dataset) -> list[str]:
    """A line for each kind of leak in the data set, with the number of rows and the first of them."""
    lines = []
    for split in SPLITS:
        own = [row for row in getattr(data, split) if any(item == row.target for item, _ in row.history)]
        if own:
            lines.append(
                f"{len(own):,} rows of {split} have their target in their own history, first {_shown(data, own[0])}"
            )
    for split, earlier in (("valid", "train"), ("test", "train"), ("test", "valid")):
        seen = set(map(_asked, getattr(data, earlier)))
        again = [row for row in getattr(data, split) if _asked(row) in seen]
        if again:
            lines.append(f"{len(again):,} rows of {split} are also asked in {earlier}, first {_shown(data, again[0])}")
    return lines


def _asked(row: Interaction) -> tuple:
    """What makes two rows the same question: user and target, or history and target where the user is unknown."""
    return (row.user, row.target) if row.user is not None else (row.history, row.target)


def _shown(data: Dataset, row: Interaction) -> str:
    title = repr(data.catalogue[row.target].title)
    return f"user {row.user}, {title}" if row.user is not None else title
