"""Whether a difference would hold for other users, and for other seeds.

Both questions are asked, each with its standard test. A difference counts only if both agree, so the p of a table is
the larger one: the intersection-union test (Berger 1982), whose level needs no correction. Seeds matter: with a small
base the runs of one setting may differ by far more than other users would change them.
"""

import math

import numpy as np

from resampling import two_sided_p


def paired_t_p(changes: np.ndarray) -> float:
    """Two-sided p of Student's paired t-test over seeds. changes: (R,), the difference of the two runs of each seed.

    NaN with fewer than two seeds: one run says nothing of other seeds.
    """
    if len(changes) < 2:
        return float("nan")
    error = float(changes.std(ddof=1)) / math.sqrt(len(changes))
    if error == 0:
        return 1.0 if changes.mean() == 0 else 0.0
    return student_p(float(changes.mean()) / error, len(changes) - 1)


def student_p(t: float, freedom: int) -> float:
    """The probability that |T| of Student's distribution exceeds |t|: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))


def both_p(changes: np.ndarray, draws: np.ndarray) -> tuple[float, float, float]:
    """(p for a table, p over users, p over seeds). changes: (R,), by seed; draws: (S,), of their mean.

    With one seed the first is that over users. Each is NaN where it cannot be told.
    """
    users, seeds = two_sided_p(draws), paired_t_p(changes)
    return max(users, users if math.isnan(seeds) else seeds), users, seeds
