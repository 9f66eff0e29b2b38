"""What a data set looks like, split by split: counts, history lengths, token lengths."""

from collections import Counter

import numpy as np

from data.interactions import SPLITS, Dataset, not_cold
from data.leaks import leaks
from data.pairs import encode_pairs
from protocols import Tokenizer

PERCENTILES = (0, 50, 95, 100)
UNBOUNDED = 10**9  # tokens


def describe(data: Dataset, tokenizer: Tokenizer, template: str, max_len: int, at_most: int) -> dict:
    """Figures of the whole data set, ready for JSON; template, max_len and at_most: see describe_split."""
    return {
        "data": data.name,
        "data_source": data.source,
        "noun": data.noun,
        "wording": data.wording,
        "template": template,
        "selection": len(data.selection_rows()),
        "leaks": leaks(data),
        "splits": {split: describe_split(data, split, tokenizer, template, max_len, at_most) for split in SPLITS},
    }


def describe_split(data: Dataset, split: str, tokenizer: Tokenizer, template: str, max_len: int, at_most: int) -> dict:
    """Figures of one split, ready for JSON.

    tokens: of the longer row of a pair (prompt, answer, EOS). If the split has more rows than at_most, only
    every n-th is counted; tokens_counted_on says how many were. longer_than_max_len: rows with more tokens.
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
    """PERCENTILES of the values; a percentile between two values is the lower one."""
    percentiles = np.percentile(values, PERCENTILES, method="lower")
    return {str(percent): int(value) for percent, value in zip(PERCENTILES, percentiles)}
