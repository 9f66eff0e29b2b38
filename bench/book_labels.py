"""Two looks at TALLRec's published book rows.

    python -m bench.book_labels path/to/book/valid.json [DIR of MovieLens-100K]

Order. If each user's rows were shuffled k times with random.seed(42), undoing that puts every user's rows
into one common order (that of the ratings file), so two books that two users share come in the same order.
Only users with nothing but likes, or nothing but dislikes, show this: the published form loses the order
between the two.

Labels. If a label belongs to its book, labels of one book by different users agree: the mean product of
(label - that user's mean label) over all pairs of users of a book is positive. For comparison, the same
with labels permuted within users and, as a control, the same on MovieLens.
"""

import argparse
import itertools
import random
from pathlib import Path

import numpy as np

from data.interactions import Interaction
from data.sources import movie, tallrec

PERMUTATIONS = 200


def unshuffled(shuffled: list, times: int) -> list:
    """The list from which so many calls of random.Random(42).shuffle made `shuffled`."""
    for _ in range(times):
        came_from = list(range(len(shuffled)))
        random.Random(42).shuffle(came_from)
        before = [None] * len(shuffled)
        for place, value in zip(came_from, shuffled):
            before[place] = value
        shuffled = before
    return shuffled


def agreeing_pairs(rows: list[Interaction], times: int) -> tuple[int, int]:
    """(pairs of books that more than one user has in order, those that all have in the same order)."""
    seen: dict[tuple, list[bool]] = {}
    for row in rows:
        if len(row.history) >= 10 or len({liked for _, liked in row.history}) != 1:
            continue  # rows beyond the tenth are not shown
        order = unshuffled([*(item for item, _ in row.history), row.target], times)
        for first, second in itertools.combinations(order, 2):
            seen.setdefault(tuple(sorted((first, second))), []).append(first < second)
    several = [orders for orders in seen.values() if len(orders) > 1]
    return len(several), sum(len(set(orders)) == 1 for orders in several)


def label_agreement(rows: list[Interaction], rng: np.random.Generator | None = None) -> tuple[float, int]:
    """(mean product of residuals, pairs of users); rng: permute the labels within each user first."""
    residuals: dict[int | str, list[float]] = {}
    for row in rows:
        labels = np.array([liked for _, liked in row.history] + [row.label], dtype=float)
        if rng is not None:
            rng.shuffle(labels)
        for (item, _), residual in zip((*row.history, (row.target, True)), labels - labels.mean()):
            residuals.setdefault(item, []).append(residual)
    total = pairs = 0
    for values in map(np.array, residuals.values()):
        total += (values.sum() ** 2 - (values**2).sum()) / 2
        pairs += len(values) * (len(values) - 1) // 2
    return float(total / pairs), pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("book", type=Path, help="TALLRec's data/book/valid.json")
    parser.add_argument("movielens", type=Path, nargs="?", help="folder with u.data and u.item, for the control")
    args = parser.parse_args()
    rows = tallrec.read_split(args.book)[0]
    for times in range(6):
        pairs, agree = agreeing_pairs(rows, times)
        print(f"shuffles undone: {times}; {agree} of {pairs} pairs of books come in one order for all users")
    rows_of = {"book": rows}
    if args.movielens:
        data = movie.build(movie.raw_files(args.movielens), print)
        last_of_user = {row.user: row for row in (*data.train, *data.valid, *data.test)}
        rows_of["movie, one row a user"] = list(last_of_user.values())
    for name, some_rows in rows_of.items():
        value, pairs = label_agreement(some_rows)
        permuted = [label_agreement(some_rows, np.random.default_rng(seed))[0] for seed in range(PERMUTATIONS)]
        print(
            f"{name}: labels of one item agree by {value:+.5f} over {pairs:,} pairs of users; "
            f"permuted within users {np.mean(permuted):+.5f} ± {np.std(permuted):.5f}"
        )


if __name__ == "__main__":
    main()
