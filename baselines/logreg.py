"""Two logistic regressions: on which user and which item it is, and on the share of liked items in the history.

Both are scikit-learn's, with C = 1: the sum of the rows' cross-entropies plus half the squared norm of the weights.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from baselines.base import Direct
from baselines.rules import history_share
from data.interactions import Interaction
from errors import DataError

ITERATIONS = 1000


def user_and_item(train: list[Interaction], rows: list[Interaction]) -> np.ndarray:
    """Log-odds b + w_u + v_i of each row, (N,); an unknown user or item adds nothing."""
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = encoder.fit_transform(_names(train))
    return _fitted(columns, train).decision_function(encoder.transform(_names(rows)))


def liked_share(train: list[Interaction], rows: list[Interaction]) -> np.ndarray:
    """Log-odds b + w * share of each row, (N,), of the liked share of the row's own history."""
    return _fitted(history_share(train)[:, None], train).decision_function(history_share(rows)[:, None])


def _names(rows: list[Interaction]) -> np.ndarray:
    """(N, 2): user and item, as text that keeps the number 1 and the text "1" apart."""
    return np.array([(repr(row.user), repr(row.target)) for row in rows])


def _fitted(columns: np.ndarray, train: list[Interaction]) -> LogisticRegression:
    """Raises DataError if the training rows have one label only, which leaves nothing to fit."""
    labels = [row.label for row in train]
    if len(set(labels)) < 2:
        raise DataError("--shots: all training rows that were drawn have one label; draw more, or take another --seed")
    return LogisticRegression(C=1.0, max_iter=ITERATIONS).fit(columns, labels)


LOGREG = Direct("logreg", "logistic regression on which user and which item it is", user_and_item, needs_users=True)
SHARE = Direct("history-logreg", "logistic regression on the liked share of the history", liked_share)
