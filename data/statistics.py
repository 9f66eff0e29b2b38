"""What a data set looks like, split by split: counts, history lengths, token lengths."""

from collections import Counter

import numpy as np

from data.interactions import Dataset, not_cold
from data.pairs import encode_pairs

PERCENTILES = (0, 50, 95, 100)
UNBOUNDED = 10**9  # tokens


def describe_split(data: Dataset, split: str, tokenizer, template: str, max_len: int, at_most: int) -> dict:
    """Figures of one split, ready for JSON.

    tokens: of the longer of both rows (prompt, answer, EOS); counted on every n-th row if there
    are more than at_most, and how many were counted is part of the result.
    """
    rows = getattr(data, split)
    counted = rows[:: max(1, -(-len(rows) // at_most))]
    tokens = [pair.length for pair in encode_pairs(counted, data, tokenizer, template, UNBOUNDED)[0]]
    users = Counter(row.user for row in rows)
    return {
        "rows": len(rows),
        "positive": sum(row.label for row in rows),
        "users": None if None in users else len(users),
        "items": len({row.target for row in rows}),
        "cold": len(rows) - sum(not_cold(data, rows)),
        "no_history": sum(not row.history for row in rows),
        "history": _percentiles([len(row.history) for row in rows]),
        "history_lengths": dict(sorted(Counter(len(row.history) for row in rows).items())),
        "rows_per_user": None if None in users else _percentiles(list(users.values())),
        "tokens": _percentiles(tokens),
        "token_lengths": dict(sorted(Counter(tokens).items())),
        "tokens_counted_on": len(counted),
        "longer_than_max_len": sum(length > max_len for length in tokens),
        "max_len": max_len,
    }


def _percentiles(values: list[int]) -> dict[str, int]:
    """Those of PERCENTILES, each one of the values (the lower where two are as near)."""
    found = np.percentile(values, PERCENTILES, method="lower")
    return {str(percent): int(value) for percent, value in zip(PERCENTILES, found)}
