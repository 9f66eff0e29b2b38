"""The bootstrap behind every interval: users are drawn again, and all their rows come with them. And McNemar's test.

Rows of one user are alike, so that resampling rows would give intervals that are too narrow. Shape letters: N rows,
U users, S draws.
"""

import numpy as np

BOOTSTRAP_DRAWS = 1000


def user_resamples(users: list, seed: int) -> tuple[np.ndarray, dict]:
    """How often each draw contains each row and each user: (S, N) and {user: (S,)}.

    Each row of an unknown user (None) counts as a separate user.
    """
    clusters = [("row", i) if user is None else ("user", user) for i, user in enumerate(users)]
    index = {cluster: u for u, cluster in enumerate(dict.fromkeys(clusters))}
    drawn = np.random.default_rng(seed).multinomial(
        len(index), np.full(len(index), 1 / len(index)), size=BOOTSTRAP_DRAWS
    )  # (S, U)
    weights = drawn[:, [index[cluster] for cluster in clusters]].astype(np.float64)  # (S, N)
    return weights, {name: drawn[:, u] for (kind, name), u in index.items() if kind == "user"}


def with_intervals(values: dict[str, float], draws: dict[str, np.ndarray]) -> dict:
    """The values and, under "interval_95", the 2.5 and 97.5 percentiles of their draws without NaN.

    A value of NaN becomes None and has no interval.
    """
    result: dict = {name: None if np.isnan(value) else value for name, value in values.items()}
    result["interval_95"] = {}
    for name, value in result.items():
        if name != "interval_95" and value is not None:
            present = draws[name][~np.isnan(draws[name])]
            result["interval_95"][name] = [float(bound) for bound in np.percentile(present, (2.5, 97.5))]
    return result


def two_sided_p(draws: np.ndarray) -> float:
    """How sure resampling is that a difference is not 0: p of the bootstrap test that belongs to with_intervals.

    draws: (S,), the difference in each resample of the users; those that are NaN do not count. It is twice the share of
    the draws on the side of 0 where fewer lie, so that the 95 % interval leaves 0 out where p is below about .05
    (Efron and Tibshirani 1993, section 15.4). The data themselves count as one draw more, so p is never 0 (as Phipson
    and Smyth 2010 say of permutations). With few users it is too small, as the interval is too
    narrow. NaN without any draw.
    """
    present = draws[~np.isnan(draws)]
    fewer = min((present <= 0).sum(), (present >= 0).sum())
    return min(1.0, 2 * (1 + int(fewer)) / (1 + len(present))) if len(present) else float("nan")


def mcnemar(before: np.ndarray, after: np.ndarray) -> dict:
    """McNemar's exact test of two yes-or-no outcomes on the same rows, (N,) bool each.

    only_before, only_after: the discordant rows, in which one outcome is true. p: two-sided, of the binomial test with
    probability 1/2 that a discordant row is of one kind. The test takes rows as independent of each other.
    """
    only_before, only_after = int((before & ~after).sum()), int((after & ~before).sum())
    n, fewer = only_before + only_after, min(only_before, only_after)
    term = below = 1  # C(n, 0), and the sum of C(n, k) for k up to `fewer`, as whole numbers of any size
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        below += term
    return {"only_before": only_before, "only_after": only_after, "p": min(1.0, 2 * below / 2**n)}
