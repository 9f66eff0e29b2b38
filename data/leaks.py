"""Rows that give their own answer away, or that of another split; of any data set."""

from data.interactions import Dataset, Interaction


def leaks(data: Dataset) -> list[str]:
    """A line for every way in which a row gives its own answer away, or that of another split; of any data set."""
    found = []
    for split in ("train", "valid", "test"):
        own = [row for row in getattr(data, split) if any(item == row.target for item, _ in row.history)]
        if own:
            found.append(
                f"{len(own):,} rows of {split} have their target in their own history, first {_shown(data, own[0])}"
            )
    for split, earlier in (("valid", "train"), ("test", "train"), ("test", "valid")):
        seen = set(map(_asked, getattr(data, earlier)))
        again = [row for row in getattr(data, split) if _asked(row) in seen]
        if again:
            found.append(f"{len(again):,} rows of {split} are also asked in {earlier}, first {_shown(data, again[0])}")
    return found


def _asked(row: Interaction) -> tuple:
    """What makes two rows the same question: the user and the target, or the whole prompt where the user is unknown."""
    return (row.user, row.target) if row.user is not None else (row.history, row.target)


def _shown(data: Dataset, row: Interaction) -> str:
    return (
        f"user {row.user}, {data.catalogue[row.target].title!r}"
        if row.user is not None
        else repr(data.catalogue[row.target].title)
    )
