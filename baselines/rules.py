"""Rows without learning: what a result must beat before it means anything.

On the published movie test split the history share alone has AUC 0.726, above the paper's figures
for 16 and 64 shots; so every result table prints these rows beside the learned ones.
"""

import numpy as np

from data.interactions import Interaction

PSEUDO_COUNT = 5  # rows of the global mean added to every item's


def history_share(rows: list[Interaction]) -> np.ndarray:
    """The share of liked items in each row's own history, 0.5 without history; (N,)."""
    return np.array([np.mean([liked for _, liked in row.history]) if row.history else 0.5 for row in rows])


def item_mean(train: list[Interaction], rows: list[Interaction]) -> np.ndarray:
    """The target's smoothed mean label over the training rows, the global mean if it has none; (N,)."""
    overall = np.mean([row.label for row in train])
    total, count = {}, {}
    for row in train:
        total[row.target] = total.get(row.target, 0) + row.label
        count[row.target] = count.get(row.target, 0) + 1
    return np.array(
        [
            (total.get(row.target, 0) + PSEUDO_COUNT * overall) / (count.get(row.target, 0) + PSEUDO_COUNT)
            for row in rows
        ]
    )


def all_rules(train: list[Interaction], rows: list[Interaction]) -> dict[str, np.ndarray]:
    """Scores of every rule by the name it has in tables."""
    share, mean = history_share(rows), item_mean(train, rows)
    return {
        "history share": share,
        f"item mean of {len(train):,} training rows": mean,
        "history share + item mean": share + mean,
    }
