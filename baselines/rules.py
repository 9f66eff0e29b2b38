"""Scores without any learning: what a result must beat before it means anything.

On the published movie test split the history share alone has AUC 0.726, above the paper's figures
for 16 and 64 shots. So every result table prints these rows below the learned ones.
"""

from collections.abc import Callable

import numpy as np

from baselines.base import Direct
from data.interactions import Interaction

PSEUDO_COUNT = 5  # rows of the global mean added to every item's


def history_share(rows: list[Interaction]) -> np.ndarray:
    """The share of liked items in each row's own history, 0.5 without history; (N,)."""
    return np.array([np.mean([liked for _, liked in row.history]) if row.history else 0.5 for row in rows])


def item_mean(train: list[Interaction], rows: list[Interaction]) -> np.ndarray:
    """The target's smoothed mean label over the training rows, the global mean if it has none; (N,)."""
    return _smoothed_mean(train, rows, lambda row: row.target)


def user_mean(train: list[Interaction], rows: list[Interaction]) -> np.ndarray:
    """The user's smoothed mean label over the training rows, the global mean if it has none; (N,)."""
    return _smoothed_mean(train, rows, lambda row: row.user)


def _smoothed_mean(
    train: list[Interaction], rows: list[Interaction], of: Callable[[Interaction], int | str]
) -> np.ndarray:
    overall = np.mean([row.label for row in train])
    total, count = {}, {}
    for row in train:
        total[of(row)] = total.get(of(row), 0) + row.label
        count[of(row)] = count.get(of(row), 0) + 1
    return np.array(
        [(total.get(of(row), 0) + PSEUDO_COUNT * overall) / (count.get(of(row), 0) + PSEUDO_COUNT) for row in rows]
    )


def all_rules(train: list[Interaction], rows: list[Interaction]) -> dict[str, np.ndarray]:
    """The scores of every rule, by the rule's name in tables: shares of liked items, or the mean of two such shares.

    The history share is left out if histories have liked items only, since it is then the same for all. The user
    mean is left out where the split is by user, since no user of `rows` is then in `train`.
    """
    mean = item_mean(train, rows)
    scores = {f"item mean of {len(train):,} training rows": mean}
    if any(not liked for row in rows for _, liked in row.history):
        share = history_share(rows)
        scores = {"history share": share, **scores, "history share + item mean": (share + mean) / 2}
    known = {row.user for row in train} - {None}
    if np.mean([row.user in known for row in rows]) > 0.5:
        of_user = user_mean(train, rows)
        scores |= {"user mean": of_user, "item mean + user mean": (mean + of_user) / 2}
    return scores


METHODS = (
    Direct(
        "history-share", "the share of liked items in the row's own history", lambda train, rows: history_share(rows)
    ),
    Direct("item-mean", "the item's smoothed mean label in training", item_mean),
    Direct("user-mean", "the user's smoothed mean label in training", user_mean, needs_users=True),
    Direct(
        "history-share+item-mean",
        "the mean of both",
        lambda train, rows: (history_share(rows) + item_mean(train, rows)) / 2,
    ),
    Direct(
        "item-mean+user-mean",
        "the mean of both",
        lambda train, rows: (item_mean(train, rows) + user_mean(train, rows)) / 2,
        needs_users=True,
    ),
)
