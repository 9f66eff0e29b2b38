"""Metrics against pair counting, scikit-learn and numbers computed by hand; intervals against their meaning."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import metrics
from metrics import Scored, auc, evaluate, paired_change, sigmoid, uauc, user_resamples, weighted_auc

RNG = np.random.default_rng(7)


def counted_auc(labels, scores):
    """The share of (liked, disliked) pairs in the right order, ties half."""
    pairs = [(p, n) for p, a in zip(scores, labels) for n, b in zip(scores, labels) if a and not b]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


def scored(z_pos, labels, users=None, z_neg=None, mass=0.8):
    """A Scored with these log-odds, Yes and No together having `mass` of the vocabulary."""

    def split(z):
        z = np.asarray(z, dtype=np.float64)
        return np.log(mass) - np.logaddexp(0, -z), np.log(mass) - np.logaddexp(0, z)

    negative = {}
    if z_neg is not None:
        yes, no = split(z_neg)
        negative = {
            "log_yes_neg": yes,
            "log_no_neg": no,
            "kl": np.full(len(labels), 0.2),
            "js": np.full(len(labels), 0.1),
        }
    users = list(range(len(labels))) if users is None else users
    return Scored(users, np.array(labels, dtype=bool), *split(z_pos), **negative)


# ---- AUC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("distinct", [1000, 4, 1], ids=["no ties", "many ties", "all tied"])
def test_auc_is_the_share_of_ordered_pairs_and_equals_scikit_learn(distinct):
    labels = RNG.random(60) < 0.4
    scores = RNG.integers(distinct, size=60) / distinct - 0.5
    assert auc(labels, scores) == pytest.approx(counted_auc(labels, scores), abs=1e-12)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_auc_of_one_class_is_undefined(label):
    assert math.isnan(auc(np.full(5, label), np.arange(5.0)))


@pytest.mark.parametrize("kind", [bool, int], ids=["bool labels", "0/1 labels"])
def test_weighted_auc_equals_scikit_learn_with_sample_weights(kind):
    labels = (RNG.random(50) < 0.5).astype(kind)
    scores = RNG.integers(8, size=50).astype(float)  # ties
    weights = RNG.integers(0, 4, size=(20, 50)).astype(float)
    expected = [roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auc(labels, scores, weights), expected, atol=1e-12)


def test_weighted_auc_with_integer_weights_equals_that_of_repeated_rows():
    labels, scores = np.array([1, 0, 1, 0], dtype=bool), np.array([0.3, 0.3, 0.1, 0.7])
    weights = np.array([[2.0, 1.0, 0.0, 3.0]])
    repeated = np.repeat(np.arange(4), [2, 1, 0, 3])
    assert weighted_auc(labels, scores, weights)[0] == pytest.approx(counted_auc(labels[repeated], scores[repeated]))


def test_weighted_auc_is_nan_where_a_draw_has_one_class():
    labels, scores = np.array([True, False]), np.array([1.0, 0.0])
    result = weighted_auc(labels, scores, np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    assert result[0] == 1.0 and np.isnan(result[1:]).all()


# ---- UAUC ---------------------------------------------------------------------------------------

#         a: AUC 1 (2 rows)   b: one row   c: one class   d: AUC 3/4 (4 rows)   unknown users
USERS = ["a", "a", "b", "c", "c", "d", "d", "d", "d", None, None]
LABELS = np.array([1, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0], dtype=bool)
SCORES = np.array([0.9, 0.1, 0.5, 0.2, 0.3, 0.8, 0.7, 0.6, 0.1, 0.0, 1.0])


def test_uauc_is_the_unweighted_mean_over_users_with_both_classes():
    result = uauc(LABELS, SCORES, USERS)
    assert result.per_user == {"a": (1.0, 2), "d": (0.75, 4)}
    assert (result.one_row, result.one_class) == (1, 1)
    assert result.value == pytest.approx(0.875)
    assert result.weighted == pytest.approx((2 * 1.0 + 4 * 0.75) / 6)


def test_uauc_without_any_eligible_user_is_undefined():
    result = uauc(LABELS[:1], SCORES[:1], ["a"])
    assert math.isnan(result.value) and math.isnan(result.weighted)


def test_evaluate_counts_rows_users_and_users_left_out():
    assert evaluate(scored(SCORES, LABELS, USERS))["counts"] == {
        "rows": 11,
        "positive": 7,
        "users": 4,
        "users_in_uauc": 2,
        "users_with_one_row": 1,
        "users_with_one_class": 1,
    }


# ---- contradiction and calibration --------------------------------------------------------------

#                 yes/no: right  yes/yes     no/no    no/yes  yes/no
P_POS = np.array([0.9, 0.7, 0.8, 0.3, 0.2, 0.2, 0.6])
P_NEG = np.array([0.2, 0.3, 0.7, 0.4, 0.1, 0.9, 0.1])
ANSWERED = np.array([True, True, True, True, True, True, False])


def logit(p):
    return np.log(p / (1 - p))


def seven_rows():
    return evaluate(scored(logit(P_POS), ANSWERED, z_neg=logit(P_NEG), mass=0.5))


def test_contradiction_is_the_same_answer_to_opposite_questions():
    result = seven_rows()
    assert result["contradiction_rate"] == pytest.approx(3 / 7)
    assert result["yes_yes"] == pytest.approx(1 / 7)
    assert result["no_no"] == pytest.approx(2 / 7)


def test_group_accuracy_counts_pairs_with_both_answers_right():
    result = seven_rows()
    assert result["group_accuracy"] == pytest.approx(2 / 7)
    assert result["accuracy"] == pytest.approx(3 / 7)


def test_violation_is_the_mean_distance_of_the_sum_of_both_probabilities_from_one():
    assert seven_rows()["violation"] == pytest.approx((0.1 + 0.0 + 0.5 + 0.3 + 0.7 + 0.1 + 0.3) / 7)


def test_brier_score_kl_js_and_answer_mass_are_means_over_rows():
    result = seven_rows()
    assert result["brier"] == pytest.approx((0.1**2 + 0.3**2 + 0.2**2 + 0.7**2 + 0.8**2 + 0.8**2 + 0.6**2) / 7)
    assert result["answer_mass"] == pytest.approx(0.5)
    assert (result["kl"], result["js"]) == (pytest.approx(0.2), pytest.approx(0.1))


def test_negative_and_combined_auc_reverse_the_sign_of_the_negative_prompt():
    result = seven_rows()
    z_pos, z_neg = logit(P_POS), logit(P_NEG)
    assert result["auc_negative"] == pytest.approx(counted_auc(ANSWERED, 1 - P_NEG))
    assert result["auc_combined"] == pytest.approx(counted_auc(ANSWERED, z_pos - z_neg))


def test_without_negative_prompts_their_metrics_are_left_out():
    result = evaluate(scored(logit(P_POS), ANSWERED))
    assert {"contradiction_rate", "auc_negative", "auc_combined", "kl", "violation"}.isdisjoint(result)
    assert result["auc"] == pytest.approx(counted_auc(ANSWERED, P_POS))


def test_calibration_error_by_hand(monkeypatch):
    monkeypatch.setattr(metrics, "ECE_BINS", 2)
    p = np.array([0.9, 0.1, 0.6, 0.2])  # bins {.1, .2} and {.6, .9}
    labels = np.array([True, False, False, True])
    expected = 0.5 * abs((0.1 + 0.2) / 2 - 0.5) + 0.5 * abs((0.6 + 0.9) / 2 - 0.5)
    assert metrics.expected_calibration_error(labels, p) == pytest.approx(expected)


def test_calibration_bins_hold_equal_numbers_of_rows():
    p = RNG.random(150)
    labels = RNG.random(150) < p**2
    order = np.argsort(p)
    bins = [abs(p[part].mean() - labels[part].mean()) for part in np.split(order, 15)]
    assert metrics.expected_calibration_error(labels, p) == pytest.approx(np.mean(bins))


def test_calibration_error_with_unit_weights_equals_that_without_weights():
    p, labels = RNG.random(40), RNG.random(40) < 0.5
    weighted = metrics.expected_calibration_error(labels, p, np.ones((3, 40)))
    np.testing.assert_allclose(weighted, metrics.expected_calibration_error(labels, p), rtol=1e-12)


def test_calibration_error_of_fewer_rows_than_bins_is_the_mean_distance():
    p, labels = np.array([0.25, 0.75, 0.5]), np.array([False, True, True])
    assert metrics.expected_calibration_error(labels, p) == pytest.approx((0.25 + 0.25 + 0.5) / 3)


# ---- numbers that are hard to represent ---------------------------------------------------------


def test_published_score_ranks_differently_where_answer_mass_differs():
    # By odds row 0 ranks above row 1; by the difference of probabilities below it.
    yes, no = np.array([0.09, 0.5]), np.array([0.01, 0.3])
    both = Scored([1, 2], np.array([True, False]), np.log(yes), np.log(no))
    result = evaluate(both)
    assert (result["auc"], result["auc_published_score"]) == (1.0, 0.0)


@pytest.mark.filterwarnings("error")
def test_extreme_log_odds_do_not_overflow_and_keep_their_order():
    z = np.array([-2000.0, -800.0, 800.0, 2000.0])
    result = evaluate(scored(z, [False, False, True, True], z_neg=-z))
    assert result["auc"] == result["auc_combined"] == 1.0
    assert result["brier"] == result["ece"] == result["contradiction_rate"] == 0.0
    np.testing.assert_array_equal(sigmoid(z), [0, 0, 1, 1])


def test_sigmoid_is_one_over_one_plus_exp_of_minus_z():
    z = np.linspace(-20, 20, 41)
    np.testing.assert_allclose(sigmoid(z), 1 / (1 + np.exp(-z)), rtol=1e-6)


def test_undefined_metrics_are_none_and_have_no_interval():
    result = evaluate(scored([0.1, 0.2, 0.3], [True, True, True], users=[None, None, None]))
    for name in ("auc", "uauc", "uauc_weighted", "auc_published_score"):
        assert result[name] is None and name not in result["interval_95"]
    assert result["brier"] is not None and len(result["interval_95"]["brier"]) == 2
    assert result["counts"]["users"] == 0


def test_every_value_has_an_interval_of_two_finite_numbers():
    result = seven_rows()
    for name, value in result.items():
        if name not in ("interval_95", "counts"):
            low, high = result["interval_95"][name] if value is not None else (0, 0)
            assert np.isfinite([low, high]).all() and low <= high


# ---- intervals ----------------------------------------------------------------------------------


def clustered(users=20, rows=10):
    """Rows whose correctness depends on the user: for half of the users every answer is right."""
    labels = np.tile([True, False], users * rows // 2)
    right = np.repeat(np.arange(users) % 2 == 0, rows)
    z = np.where(labels, 1.0, -1.0) * np.where(right, 1, -1) + 0.01 * np.random.default_rng(0).normal(size=users * rows)
    return z, labels, np.repeat(np.arange(users), rows).tolist()


def width(interval):
    return interval[1] - interval[0]


def test_intervals_resample_users_not_rows():
    z, labels, users = clustered()
    by_user = evaluate(scored(z, labels, users))["interval_95"]["accuracy"]
    by_row = evaluate(scored(z, labels, list(range(len(users)))))["interval_95"]["accuracy"]
    unknown = evaluate(scored(z, labels, [None] * len(users)))["interval_95"]["accuracy"]
    # sqrt(10 rows a user) times wider: further rows of a user add no information.
    assert width(by_user) / width(by_row) == pytest.approx(math.sqrt(10), rel=0.15)
    assert unknown == by_row  # each row of an unknown user is a separate user
    assert width(by_user) == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 20), rel=0.15)  # 20 tosses of a coin


@pytest.mark.parametrize("z_pos, z_neg, row", [(1, -1, 0), (-1, 1, 1), (1, 1, 2), (-1, -1, 2)])
def test_a_constant_has_the_figures_of_a_model_that_always_answers_so(z_pos, z_neg, row):
    labels, users = RNG.random(60) < 0.7, [i % 9 for i in range(60)]
    model = evaluate(scored(np.full(60, z_pos), labels, users, z_neg=np.full(60, z_neg)))
    constant = list(metrics.constants(labels, users).values())[row]
    for name in ("contradiction_rate", "group_accuracy", "informative_consistency", "auc"):
        assert constant[name] == pytest.approx(model[name], abs=1e-15)
        interval = model["interval_95"][name]
        assert constant["interval_95"].get(name, interval) == pytest.approx(interval, abs=1e-12)
        assert name in constant["interval_95"] or width(interval) == 0


def test_a_resample_draws_whole_users_and_keeps_their_number():
    users = ["a", "b", "b", None, "c", "b", None]
    weights, user_weights = user_resamples(users, seed=3)
    assert weights.shape == (metrics.BOOTSTRAP_DRAWS, 7)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], user_weights["b"])
    assert set(user_weights) == {"a", "b", "c"}
    assert (weights[:, [0, 1, 3, 4, 6]].sum(1) == 5).all()
    assert weights.mean(0) == pytest.approx(np.ones(7), abs=0.1)


def test_bootstrap_draws_are_the_metrics_of_the_resampled_rows():
    users = np.repeat(np.arange(6), [2, 6, 4, 4, 2, 6]).tolist()
    labels = np.tile([True, False], 12)
    z = RNG.normal(size=24) + labels
    data = scored(z, labels, users, z_neg=-0.5 * z + 0.2)
    draws, (weights, _) = metrics.bootstrap_metrics(data, seed=5), user_resamples(users, seed=5)
    for draw in range(5):
        again = np.repeat(np.arange(len(users)), weights[draw].astype(int))
        assert draws["auc"][draw] == pytest.approx(counted_auc(labels[again], z[again]))
        assert draws["accuracy"][draw] == pytest.approx(((z > 0) == labels)[again].mean())
        named = [(users[row], copy) for row, copy in zip(again, _copy_numbers(again))]
        per_user = uauc(labels[again], z[again], named)
        assert draws["uauc"][draw] == pytest.approx(per_user.value)
        assert draws["uauc_weighted"][draw] == pytest.approx(per_user.weighted)


def _copy_numbers(rows):
    """0, 1, ... for the repetitions of each row, so that every copy of a user is a separate user."""
    seen: dict = {}
    numbers = []
    for row in rows.tolist():
        numbers.append(seen.get(row, 0))
        seen[row] = seen.get(row, 0) + 1
    return numbers


def test_a_change_is_paired_on_the_same_resampled_users():
    z, labels, users = clustered()
    before, after = scored(z, labels, users), scored(z + np.where(labels, 1e-3, -1e-3), labels, users)
    change = paired_change(before, after)
    # The answers stay the same; without pairing, the interval would be that of two independent samples.
    assert change["accuracy"] == 0.0 and change["interval_95"]["accuracy"] == [0.0, 0.0]
    assert width(evaluate(after)["interval_95"]["accuracy"]) > 0.3


def test_a_change_is_after_minus_before():
    labels, users = np.tile([True, False], 20), list(range(40))
    right = scored(np.where(labels, 1.0, -1.0), labels, users)
    wrong = scored(np.where(labels, -1.0, 1.0), labels, users)
    assert paired_change(wrong, right)["auc"] == 1.0
    assert paired_change(right, wrong)["interval_95"]["accuracy"] == [-1.0, -1.0]


def test_a_change_of_an_undefined_metric_is_none():
    one_class = scored([0.1, 0.2], [True, True])
    assert paired_change(one_class, one_class)["auc"] is None


def test_only_the_same_seed_gives_the_same_intervals():
    z, labels, users = clustered()
    data = scored(z, labels, users)
    assert evaluate(data, seed=1) == evaluate(data, seed=1)
    assert evaluate(data, seed=1)["interval_95"] != evaluate(data, seed=2)["interval_95"]
