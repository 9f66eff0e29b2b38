"""Measures of consistency between answers to several wordings of one question. docs/measures.md explains each.

Arrays in, arrays and numbers out. z is the log-odds of Yes among {Yes, No}, p = 1 / (1 + exp(-z)) its probability; the
sign + is that of "will like?", - that of "will dislike?". a = p+ and b = 1 - p- both estimate that the user likes the
target. Every finite z has finite measures.

Shape letters: N rows, W wordings, S bootstrap draws.
"""

import numpy as np

from resampling import user_resamples, with_intervals


def arbitrage(z_pos: np.ndarray, z_neg: np.ndarray) -> np.ndarray:
    """-2 log(sqrt(ab) + sqrt((1 - a)(1 - b))), in nats, (N,): what a bettor could take from two prices of one event.

    0 if and only if a = b; twice the Bhattacharyya distance of the two Bernoulli distributions. Paleka et al., ICLR
    2025, arXiv 2412.18544. Written here as log(1 + (sinh((z+ + z-) / 4) / cosh((z+ - z-) / 4))^2), which is the same
    and cancels nothing: both cosh of the half-angles are divided out.
    """
    log_ratio = _log_abs_sinh((z_pos + z_neg) / 4) - _log_cosh((z_pos - z_neg) / 4)
    return np.logaddexp(0.0, 2 * log_ratio)


def _log_cosh(x: np.ndarray) -> np.ndarray:
    return np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - np.log(2.0)


def _log_abs_sinh(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # log 0 = -inf is the right value at 0
        return np.abs(x) + np.log(-np.expm1(-2 * np.abs(x))) - np.log(2.0)


def ccs_consistency(p_pos: np.ndarray, p_neg: np.ndarray) -> np.ndarray:
    """(p+ - (1 - p-))^2, (N,): 0 if the two answers agree. Burns et al., ICLR 2023, arXiv 2212.03827."""
    return (p_pos + p_neg - 1) ** 2


def ccs_confidence(p_pos: np.ndarray, p_neg: np.ndarray) -> np.ndarray:
    """min(p+, p-)^2, (N,): 0 if one of the answers is a certain No; 1/4 where neither says anything. Burns et al."""
    return np.minimum(p_pos, p_neg) ** 2


def relative_consistency(rows: np.ndarray, right: np.ndarray, both_right: np.ndarray) -> np.ndarray:
    """Probability that answers of the same accuracy, placed at random, have at most so many pairs both right; (S,).

    rows: n pairs; right: A of their 2n answers are right; both_right: c pairs; whole numbers, (S,) each.
    sum over i <= c of C(n, i) C(n - i, A - 2i) 2^(A - 2i) / C(2n, A): arXiv 2310.13781. Contradiction falls with
    accuracy by itself; this takes that out. About 1/2 if both answers are right independently of each other.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 2 * np.max(rows, initial=0) + 1)))])
    found = np.empty(len(rows))
    for draw, (n, a, c) in enumerate(zip(*(np.asarray(x).astype(int).tolist() for x in (rows, right, both_right)))):
        i = np.arange(max(0, a - n), c + 1)  # fewer than A - n pairs both right leave no room for the others
        log_ways = (log_factorial[n] - log_factorial[i] - log_factorial[a - 2 * i] - log_factorial[n - a + i]) + (
            a - 2 * i
        ) * np.log(2.0)
        log_all = log_factorial[2 * n] - log_factorial[a] - log_factorial[2 * n - a]
        found[draw] = min(1.0, np.exp(log_ways - log_all).sum())
    return found


def constant_share(liked: np.ndarray) -> np.ndarray:
    """Share of rows that the best constant has both right, elementwise. liked: share of rows with the label liked.

    The constants that contradict themselves have nothing right; the others are right where users like, or dislike.
    """
    return np.maximum(liked, 1 - liked)


# ---- more than two wordings ---------------------------------------------------------------------


def bundle_columns(z: np.ndarray, labels: np.ndarray, same: np.ndarray) -> dict[str, np.ndarray]:
    """What is right and what is consistent of each row, over a bundle of wordings of one question; bool, (N,) each.

    z: (N, W) log-odds of Yes; labels: (N,), whether the user likes the target; same: (W,), True where Yes says that
    they do, False where No does (a negation). all_right: every answer is the right one. all_consistent: the answers
    say one thing, right or wrong. right_K: the answer to wording K, from 0. As CondaQA's group consistency.
    """
    says_liked = (z > 0) == same  # (N, W)
    right = says_liked == np.asarray(labels, dtype=bool)[:, None]
    columns = {
        "all_right": right.all(1),
        "all_consistent": (says_liked == says_liked[:, :1]).all(1),
    }
    return columns | {f"right_{k}": column for k, column in enumerate(right.T)}


def bundle_metrics(z: np.ndarray, labels: np.ndarray, same: np.ndarray, users: list, seed: int = 0) -> dict:
    """Means of bundle_columns over rows, and informative_all_right, with 95 % intervals from resampling users.

    informative_all_right: share of rows with every answer right, less that of the best constant, in the same resample.
    The best constant answers each wording as if everybody liked the target, or as if nobody did.
    """
    values, draws = _bundle_values(z, labels, same, user_resamples(users, seed)[0])
    return with_intervals(values, draws)


def bundle_change(before: np.ndarray, after: np.ndarray, labels: np.ndarray, same: np.ndarray, users: list) -> dict:
    """after - before of bundle_metrics, (N, W) each, with intervals from the same resamples of the users."""
    weights, _ = user_resamples(users, 0)
    (first, of_first), (last, of_last) = (_bundle_values(z, labels, same, weights) for z in (before, after))
    changes = {name: last[name] - first[name] for name in first}
    return with_intervals(changes, {name: of_last[name] - of_first[name] for name in changes})


def _bundle_values(
    z: np.ndarray, labels: np.ndarray, same: np.ndarray, weights: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(value, (S,) draws) of every figure of a bundle. weights: (S, N)."""
    liked, total = np.asarray(labels, dtype=np.float64), weights.sum(1)
    columns = {name: column.astype(np.float64) for name, column in bundle_columns(z, labels, same).items()}
    values = {name: float(column.mean()) for name, column in columns.items()}
    draws = {name: weights @ column / total for name, column in columns.items()}
    values["informative_all_right"] = values["all_right"] - float(constant_share(liked.mean()))
    draws["informative_all_right"] = draws["all_right"] - constant_share(weights @ liked / total)
    return values, draws
