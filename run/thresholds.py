"""Where Yes begins: a threshold of the log-odds for each question, chosen on other rows than those that are measured.

A model may rank well and still say Yes to everybody: then its order is worth something, and its threshold of 0 is not.

Shape letters: N rows, W wordings.
"""

import numpy as np

from errors import DataError
from run.answers import Answers


def thresholds_for(answers: Answers, other: Answers, name: str) -> np.ndarray:
    """(W,) log-odds above which an answer counts as Yes: to each question the most answers of `other` are right.

    name: of the file of `other`. Raises DataError if it asks other questions, or has some of the rows of `answers`.
    """
    if (other.questions, other.same.tolist()) != (answers.questions, answers.same.tolist()):
        raise DataError(f"{name}: asks other questions; name answers to the same ones, in the same order")
    if other.fingerprint() == answers.fingerprint():  # also of users that are unknown
        raise DataError(f"{name}: has the rows that are measured; choose thresholds on others")
    known = ({row[:2] for row in one.rows if row[0] is not None} for one in (answers, other))
    if shared := len(set.intersection(*known)):
        raise DataError(f"{name}: has {shared:,} of the users and items that are measured; choose thresholds on others")
    liked = np.array([liked for _, _, liked in other.rows], dtype=bool)
    return np.array([best_threshold(z, liked == same) for z, same in zip(other.odds.T, other.same)])


def best_threshold(z: np.ndarray, yes_is_right: np.ndarray) -> float:
    """The t for which (z > t) == yes_is_right holds most often; of several, the one nearest to 0.

    z: (N,) log-odds; yes_is_right: (N,) bool. t is 0, midway between two values of z, or 1 beyond all of them.
    """
    values, place = np.unique(z, return_inverse=True)
    gain = np.bincount(place, weights=np.where(yes_is_right, -1.0, 1.0))  # of a threshold above each value, not below
    above = np.concatenate([[0.0], np.cumsum(gain)])
    between = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    above, between = np.append(above, above[np.searchsorted(values, 0.0, side="right")]), np.append(between, 0.0)
    best = between[above == above.max()]
    return float(best[np.abs(best).argmin()])
