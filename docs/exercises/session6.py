"""Session 6, measuring. Fill in the three functions, then: python -m docs.exercises.session6"""

import numpy as np

from docs.exercises.checking import report, same, to_do


def contradiction_rate(p_yes_pos: list[float], p_yes_neg: list[float]) -> float:
    """The share of pairs that get the same answer to "will like?" and "will dislike?"; Yes is p > 1/2."""
    return to_do()


def auc_by_counting(labels: list[bool], scores: list[float]) -> float:
    """The share of (liked, not liked) pairs of rows in which the liked row has the higher score; ties count half."""
    return to_do()


def user_auc(labels: list[bool], scores: list[float], users: list) -> float:
    """The unweighted mean over users of the AUC within each user; users with rows of one class only are left out."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def _draws():
    from metrics import Scored

    for seed in (5, 6, 7):
        draw = np.random.default_rng(seed)
        columns = np.log(draw.uniform(0.05, 0.5, (4, 60)).round(1))  # rounded: there are ties
        yield Scored(draw.integers(0, 12, 60).tolist(), draw.random(60) < 0.5, *columns, np.zeros(60), np.zeros(60))


def check_contradiction_rate() -> None:
    """6.1 contradiction_rate equals that of metrics.py"""
    from metrics import metric_values

    for scored in _draws():
        wanted = metric_values(scored)["contradiction_rate"]
        same(contradiction_rate(scored.p_pos.tolist(), scored.p_neg.tolist()), wanted, "60 rows", rtol=1e-9)


def check_auc() -> None:
    """6.2 auc_by_counting equals that of scikit-learn"""
    from metrics import auc

    for scored in _draws():
        counted = auc_by_counting(scored.labels.tolist(), scored.z_pos.tolist())
        same(counted, auc(scored.labels, scored.z_pos), "60 rows", rtol=1e-9)


def check_user_auc() -> None:
    """6.3 user_auc equals metrics.uauc"""
    from metrics import uauc

    for scored in _draws():
        value = user_auc(scored.labels.tolist(), scored.z_pos.tolist(), scored.users)
        same(value, uauc(scored.labels, scored.z_pos, scored.users).value, "60 rows of 12 users", rtol=1e-9)


if __name__ == "__main__":
    report(check_contradiction_rate, check_auc, check_user_auc)
