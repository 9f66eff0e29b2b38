"""Worked examples in front of a prompt (in-context learning): which training rows, and for which row.

Source: Dai et al. 2023 ask a language model with up to five of them. CoLLM's table has such a row without a script, so
how many there are, that they are balanced, and how they are drawn is decided by us.
"""

from dataclasses import replace

from data.interactions import Dataset, Interaction, select_shots
from errors import DataError, notice


def with_examples(data: Dataset, count: int, seed: int) -> Dataset:
    """The data set whose prompts begin with `count` worked examples, half of them liked; 0 leaves them as they are.

    They are the first of a seeded permutation of the training rows, in its order; the same for all rows, but never of
    the row's own user. Raises DataError if the training rows of other users do not have so many.
    """
    if count == 0:
        return data
    order = select_shots(data.train, None, seed)
    if any(row.user is None for row in order):
        notice("--examples: the data do not say whose a row is, so an example may be of the row's own user")

    def chosen(user: int | str | None) -> tuple[Interaction, ...]:
        found: list[Interaction] = []
        left = {True: count // 2, False: count // 2}
        for row in order:
            if left[row.label] and (user is None or row.user != user):
                found.append(row)
                left[row.label] -= 1
                if not any(left.values()):
                    return tuple(found)
        raise DataError(
            f"--examples {count}: the training rows of other users than {user} have fewer liked, or fewer disliked, "
            "targets; choose fewer"
        )

    for_all = chosen(None)
    own = {row.user: chosen(row.user) for row in for_all if row.user is not None}  # who gave them has others
    return replace(data, examples=lambda row: own.get(row.user, for_all))
