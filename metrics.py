"""Metrics of a scored split: ranking, contradiction, calibration, and confidence intervals over users.

Arrays in, numbers and counts out. A row is one (user, target) with its label and the answers of the
model to the positive and the negative prompt. `Scored` holds the results of one forward pass per prompt.

Shape letters: N rows, U users, S bootstrap draws.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from consistency import arbitrage, bundle_columns, ccs_confidence, ccs_consistency, constant_share, relative_consistency
from resampling import BOOTSTRAP_DRAWS, user_resamples, with_intervals

ECE_BINS = 15
ALL_RIGHT = "informative_all_right"
# What may choose a run's best state on validation rows.
SELECTABLE = ("auc", "auc_combined", "informative_consistency", ALL_RIGHT)
DEFAULT_SELECTION = "auc"
CONSTANTS = {  # label: whether it says Yes to "will like?", and to "will dislike?", whoever is asked
    'Yes to "like", No to "dislike"': (True, False),
    'No to "like", Yes to "dislike"': (False, True),
    "the same answer to both": (True, True),  # No to both has the same figures
}


@dataclass(frozen=True)
class Scored:
    """Arrays over N rows: log-probabilities, in nats, at the first answer token, over the full vocabulary.

    users: N hashable values, None where the user is unknown. kl, js: KL and Jensen-Shannon divergence, in
    nats, between the distributions that the positive and the negative prompt give to the first answer
    token. The arrays of the negative prompt, kl and js may be None; their metrics are left out then.
    odds: (N, 2) log-odds of Yes to both prompts, where no more is known; all other arrays are None then.
    score: of a recommender that is no language model, one per row; all other arrays are None then. Only the order of
    its scores counts, so that nothing but AUC and UAUC is measured.
    others: (N, K) log-odds of Yes to the question in other words; same: (K,) bool, whether the same answer is right.
    """

    users: list
    labels: np.ndarray
    log_yes_pos: np.ndarray | None = None
    log_no_pos: np.ndarray | None = None
    log_yes_neg: np.ndarray | None = None
    log_no_neg: np.ndarray | None = None
    kl: np.ndarray | None = None
    js: np.ndarray | None = None
    odds: np.ndarray | None = None
    score: np.ndarray | None = None
    others: np.ndarray | None = None
    same: np.ndarray | None = None

    @property
    def has_answers(self) -> bool:
        """Whether there are probabilities of answers, and not only a score."""
        return self.score is None

    @property
    def has_both(self) -> bool:
        """Whether both prompts were answered."""
        return self.odds is not None or self.log_yes_neg is not None

    @property
    def z_pos(self) -> np.ndarray:
        """Log-odds of Yes against No given the positive prompt, or the score; (N,)."""
        if self.odds is not None:
            return self.odds[:, 0]
        return self.log_yes_pos - self.log_no_pos if self.score is None else self.score

    @property
    def z_neg(self) -> np.ndarray:
        """Log-odds of Yes against No given the negative prompt, (N,)."""
        return self.log_yes_neg - self.log_no_neg if self.odds is None else self.odds[:, 1]

    @property
    def p_pos(self) -> np.ndarray:
        """Probability of Yes among {Yes, No}, positive prompt, (N,)."""
        return sigmoid(self.z_pos)

    @property
    def p_neg(self) -> np.ndarray:
        """Probability of Yes among {Yes, No}, negative prompt, (N,)."""
        return sigmoid(self.z_neg)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), elementwise."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))  # this form cannot overflow


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; NaN if only one class is present (scikit-learn >= 1.6 only warns)."""
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        return float("nan")
    return float(roc_auc_score(labels, scores))


@dataclass(frozen=True)
class UserAuc:
    """UAUC and the users that it averages.

    per_user: {user: (AUC, number of rows)} of the users that have an AUC. one_row, one_class: how many
    users were left out because they have a single row, or rows of a single class.
    """

    per_user: dict
    one_row: int
    one_class: int

    @property
    def value(self) -> float:
        """Unweighted mean over users, NaN without any user."""
        return float(np.mean([a for a, _ in self.per_user.values()])) if self.per_user else float("nan")

    @property
    def weighted(self) -> float:
        """Mean over users, weighted by their number of rows, NaN without any user."""
        if not self.per_user:
            return float("nan")
        values, rows = zip(*self.per_user.values())
        return float(np.average(values, weights=rows))


def uauc(labels: np.ndarray, scores: np.ndarray, users: list) -> UserAuc:
    """AUC within each user.

    A user with one row, or with rows of one class only, has no AUC: such users are left out and counted.
    Rows of unknown users (None) are left out.
    """
    rows_of: dict = {}
    for i, user in enumerate(users):
        if user is not None:
            rows_of.setdefault(user, []).append(i)
    per_user, one_row, one_class = {}, 0, 0
    for user, rows in rows_of.items():
        value = auc(labels[rows], scores[rows])
        if len(rows) == 1:
            one_row += 1
        elif np.isnan(value):
            one_class += 1
        else:
            per_user[user] = (value, len(rows))
    return UserAuc(per_user, one_row, one_class)


# ---- values and intervals -----------------------------------------------------------------------


def evaluate(scored: Scored, seed: int = 0) -> dict:
    """Every metric by name, "interval_95" with the [low, high] of each from resampling users, and "counts".

    A metric that is undefined (one class, unknown users) is None. Metrics that need negative prompts are
    left out where there are none.
    """
    users = uauc(scored.labels, scored.z_pos, scored.users)
    result = with_intervals(metric_values(scored), bootstrap_metrics(scored, seed))
    result["counts"] = {
        "rows": len(scored.labels),
        "positive": int(scored.labels.sum()),
        "users": len({user for user in scored.users if user is not None}),
        "users_in_uauc": len(users.per_user),
        "users_with_one_row": users.one_row,
        "users_with_one_class": users.one_class,
    }
    return result


def metric_values(scored: Scored) -> dict[str, float]:
    """Every metric of the rows without resampling, NaN where it is undefined."""
    users = uauc(scored.labels, scored.z_pos, scored.users)
    return {
        **{name: auc(scored.labels, scores) for name, scores in rankings(scored).items()},
        "uauc": users.value,
        "uauc_weighted": users.weighted,
        **({"ece": expected_calibration_error(scored.labels, scored.p_pos)} if scored.has_answers else {}),
        **{name: float(column.mean()) for name, column in row_metrics(scored).items()},
        **{name: float(value[0]) for name, value in pair_metrics(scored, np.ones((1, len(scored.labels)))).items()},
    }


def rankings(scored: Scored) -> dict[str, np.ndarray]:
    """The scores whose AUC is measured, (N,) each."""
    if not scored.has_answers:
        return {"auc": scored.score}
    scores = {"auc": scored.z_pos}
    if scored.odds is None:
        scores["auc_published_score"] = np.exp(scored.log_yes_pos) - np.exp(scored.log_no_pos)
    if scored.has_both:
        scores |= {"auc_negative": -scored.z_neg, "auc_combined": scored.z_pos - scored.z_neg}
    return scores


def row_metrics(scored: Scored) -> dict[str, np.ndarray]:
    """The metrics that are means over rows: their value for each row, (N,) each; none of a score."""
    if not scored.has_answers:
        return {}
    said_yes = scored.z_pos > 0  # as P(Yes) > 1/2, but for rounding
    columns = {
        "accuracy": said_yes == scored.labels,
        "brier": (scored.p_pos - scored.labels) ** 2,
    }
    if scored.odds is None:
        columns["answer_mass"] = np.exp(scored.log_yes_pos) + np.exp(scored.log_no_pos)
    if scored.has_both:
        said_yes_neg = scored.z_neg > 0
        columns |= {
            "contradiction_rate": said_yes == said_yes_neg,  # the same answer to opposite questions
            "yes_yes": said_yes & said_yes_neg,
            "no_no": ~said_yes & ~said_yes_neg,
            "violation": np.abs(scored.p_pos + scored.p_neg - 1),
            "arbitrage": arbitrage(scored.z_pos, scored.z_neg),
            "ccs_consistency": ccs_consistency(scored.p_pos, scored.p_neg),
            "ccs_confidence": ccs_confidence(scored.p_pos, scored.p_neg),
            "group_accuracy": (said_yes == scored.labels) & (said_yes_neg != scored.labels),
            "kl": scored.kl,
            "js": scored.js,
        }
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items() if column is not None}


def pair_metrics(scored: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    """What is no mean over rows, under S sets of row weights, (S, N) to (S,) each; none of a score.

    Shares of rows, less that of the constant with most right there. informative_consistency: both answers right;
    informative_asked_once: the first, whose opposite is taken for the second; informative_combined: the surer of both,
    whose opposite is taken for the other; informative_all_right: these two and all answers in other words.
    """
    if not scored.has_answers:
        return {}
    rows, right_pos = weights.sum(1), (scored.z_pos > 0) == scored.labels
    best = constant_share(weights @ scored.labels / rows)
    found = {"informative_asked_once": weights @ right_pos / rows - best}
    if scored.has_both:
        right_neg = (scored.z_neg > 0) != scored.labels
        right, both = weights @ (right_pos + 1.0 * right_neg), weights @ (right_pos & right_neg)
        found["relative_consistency"] = relative_consistency(rows, right, both)
        found["informative_consistency"] = both / rows - best
        found["informative_combined"] = weights @ ((scored.z_pos > scored.z_neg) == scored.labels) / rows - best
        if scored.others is not None:
            z, same = np.column_stack((scored.z_pos, scored.z_neg, scored.others)), [True, False, *scored.same]
            found[ALL_RIGHT] = weights @ bundle_columns(z, scored.labels, np.array(same))["all_right"] / rows - best
    return found


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """ECE with ECE_BINS bins of equally many rows: the sum over bins of share * |mean p - mean label|.

    weights: (S, N), row weights of S draws; the bins stay those of the unweighted rows. Returns a float
    without weights and (S,) with weights.
    """
    order = np.argsort(probabilities, kind="stable")
    gap = (probabilities - labels)[order]
    starts = _bin_starts(len(labels))
    if weights is None:
        return float(np.abs(np.add.reduceat(gap, starts)).sum() / len(labels))
    return np.abs(np.add.reduceat(gap * weights[:, order], starts, axis=1)).sum(1) / weights.sum(1)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(mean probability, share of positive labels) of each bin of expected_calibration_error, (bins, 2)."""
    bins = np.split(np.argsort(probabilities, kind="stable"), _bin_starts(len(labels))[1:])
    return np.array([(probabilities[rows].mean(), labels[rows].mean()) for rows in bins])


def _bin_starts(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows, ECE_BINS + 1).astype(int)[:-1])


def bootstrap_metrics(scored: Scored, seed: int = 0) -> dict[str, np.ndarray]:
    """Every metric of `evaluate` on S resamples of the users, (S,) each.

    The same users and seed give the same resamples, so that two runs can be compared draw by draw.
    """
    weights, user_weights = user_resamples(scored.users, seed)  # (S, N), {user: (S,)}
    total = weights.sum(1)
    draws = {name: weights @ column / total for name, column in row_metrics(scored).items()}
    draws |= pair_metrics(scored, weights)
    if scored.has_answers:
        draws["ece"] = expected_calibration_error(scored.labels, scored.p_pos, weights)
    for name, scores in rankings(scored).items():
        draws[name] = weighted_auc(scored.labels, scores, weights)
    draws["uauc"], draws["uauc_weighted"] = resampled_uauc(
        uauc(scored.labels, scored.z_pos, scored.users), user_weights
    )
    return draws


def paired_change(before: Scored, after: Scored, seed: int = 0) -> dict:
    """after - before for every metric that both have, with 95 % intervals from the same resamples of the users."""
    values_before, values_after = metric_values(before), metric_values(after)
    draws_before, draws_after = bootstrap_metrics(before, seed), bootstrap_metrics(after, seed)
    changes = {name: values_after[name] - values_before[name] for name in values_after if name in values_before}
    return with_intervals(changes, {name: draws_after[name] - draws_before[name] for name in changes})


def constants(labels: np.ndarray, users: list, seed: int = 0) -> dict[str, dict]:
    """The figures of each of CONSTANTS, by its label, with intervals where users differ.

    They are contradiction_rate, group_accuracy, auc and informative_consistency. No contradiction says nothing by
    itself: a constant reaches it and has a row's both answers right as often as users like, or dislike. What is the
    same for all rows has no interval.
    """
    weights, _ = user_resamples(users, seed)  # (S, N)
    best = constant_share(weights @ labels / weights.sum(1))
    found = {}
    for label, (like, dislike) in CONSTANTS.items():
        right = ((labels == like) & (labels != dislike)).astype(np.float64)
        share, draws = right.mean(), weights @ right / weights.sum(1)
        values = {
            "group_accuracy": float(share),
            "informative_consistency": float(share - constant_share(labels.mean())),
        }
        found[label] = with_intervals(values, {"group_accuracy": draws, "informative_consistency": draws - best})
        if like == dislike:
            del found[label]["interval_95"]["group_accuracy"]
        ranked = None if labels.all() or not labels.any() else 0.5
        found[label] |= {"contradiction_rate": float(like == dislike), "auc": ranked}
    return found


def ranking_metrics(labels: np.ndarray, scores: np.ndarray, users: list, seed: int = 0) -> dict:
    """AUC and UAUC, with intervals, of scores that have one polarity only, such as the rules without learning."""
    weights, user_weights = user_resamples(users, seed)
    per_user = uauc(labels, scores, users)
    values = {"auc": auc(labels, scores), "uauc": per_user.value}
    draws = {"auc": weighted_auc(labels, scores, weights), "uauc": resampled_uauc(per_user, user_weights)[0]}
    return with_intervals(values, draws)


def share_metrics(labels: np.ndarray, shares: np.ndarray, users: list, seed: int = 0) -> dict:
    """ranking_metrics, and informative_asked_once where an item is called liked above a half; shares: (N,), 0 to 1."""
    weights, _ = user_resamples(users, seed)
    right = (shares > 0.5) == labels
    value = {"informative_asked_once": float(right.mean() - constant_share(labels.mean()))}
    best = constant_share(weights @ labels / weights.sum(1))
    decided = with_intervals(value, {"informative_asked_once": weights @ right / weights.sum(1) - best})
    ranked = ranking_metrics(labels, shares, users, seed)
    return ranked | value | {"interval_95": ranked["interval_95"] | decided["interval_95"]}


def agreement(scored: Scored, z_other: np.ndarray, same_wanted: bool, seed: int = 0) -> dict:
    """How answers to another wording, log-odds z_other (N,), agree with those to the positive prompt.

    same_wanted: True if the other wording is a paraphrase, False if it is a negation.
    same_answer_rate: share of rows with the same answer. inconsistent_rate: share of rows with the same
    answer to a negation, or another answer to a paraphrase. right_rate: share of rows with the right answer.
    arbitrage: mean over rows, nats. auc: of the ranking by the other wording, with the sign reversed for a negation.
    All with intervals.
    """
    same = (scored.z_pos > 0) == (z_other > 0)
    columns = {
        "same_answer_rate": same.astype(np.float64),
        "inconsistent_rate": (same != same_wanted).astype(np.float64),
        "right_rate": ((z_other > 0) == (scored.labels == same_wanted)).astype(np.float64),
        "arbitrage": arbitrage(scored.z_pos, -z_other if same_wanted else z_other),
    }
    ranking = z_other if same_wanted else -z_other
    weights, _ = user_resamples(scored.users, seed)  # (S, N)
    values = {name: float(column.mean()) for name, column in columns.items()} | {"auc": auc(scored.labels, ranking)}
    draws = {name: weights @ column / weights.sum(1) for name, column in columns.items()}
    return with_intervals(values, draws | {"auc": weighted_auc(scored.labels, ranking, weights)})


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under S sets of row weights, (S, N) to (S,); NaN where a draw has one class only.

    It is the weight of the (positive, negative) pairs in the right order, ties counted half, divided by the
    weight of all pairs.
    """
    labels = np.asarray(labels, dtype=bool)
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)  # first row of each run of equal scores
    positive = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)  # (S, runs)
    negative = np.add.reduceat(weights[:, order] * ~labels[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    pairs = positive.sum(1) * negative.sum(1)
    return np.divide((positive * below).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def resampled_uauc(per_user: UserAuc, user_weights: dict) -> tuple[np.ndarray, np.ndarray]:
    """UAUC, unweighted and weighted by rows, if user u is drawn user_weights[u] times; (S,) each."""
    if not per_user.per_user:
        nothing = np.full(BOOTSTRAP_DRAWS, np.nan)
        return nothing, nothing
    drawn = np.stack([user_weights[user] for user in per_user.per_user], axis=1)  # (S, U)
    values, rows = (np.array(column, dtype=np.float64) for column in zip(*per_user.per_user.values()))
    plain, weighted = drawn.sum(1), drawn @ rows
    return (
        np.divide(drawn @ values, plain, out=np.full(len(drawn), np.nan), where=plain > 0),
        np.divide(drawn @ (values * rows), weighted, out=np.full(len(drawn), np.nan), where=weighted > 0),
    )
