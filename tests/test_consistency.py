"""Measures of consistency against brute force: enumeration, float64 formulas as printed, resampling by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import consistency
from consistency import (
    arbitrage,
    bundle_columns,
    bundle_metrics,
    ccs_confidence,
    ccs_consistency,
    constant_share,
    relative_consistency,
)
from metrics import Scored, evaluate, metric_values, paired_change, sigmoid
from resampling import user_resamples

RNG = np.random.default_rng(11)
EXTREME = np.array([0.0, 1e-300, 1e-8, 1.0, 40.0, 800.0, 1e5, 1e300])
NAMES = (
    *("arbitrage", "ccs_consistency", "ccs_confidence", "relative_consistency"),
    *("informative_consistency", "informative_asked_once", "informative_combined"),
)


def answers(z_pos, z_neg, labels, users=None):
    users = [None] * len(labels) if users is None else users
    return Scored(users, np.asarray(labels, dtype=bool), odds=np.stack([z_pos, z_neg], axis=1).astype(np.float64))


def some_answers(rows=60, users=9):
    return answers(*RNG.normal(size=(2, rows)) * 3, RNG.random(rows) < 0.6, [i % users for i in range(rows)])


# ---- arbitrage ----------------------------------------------------------------------------------


def test_arbitrage_is_the_formula_of_the_paper():
    z_pos, z_neg = RNG.normal(size=(2, 500)) * 3
    a, b = 1 / (1 + np.exp(-z_pos)), 1 - 1 / (1 + np.exp(-z_neg))
    printed = -2 * np.log(np.sqrt(a * b) + np.sqrt((1 - a) * (1 - b)))
    np.testing.assert_allclose(arbitrage(z_pos, z_neg), printed, atol=1e-12)


def test_arbitrage_is_what_the_best_bettor_takes_whatever_happens():
    """Against prices a and b of one event, log wealth is won on both outcomes alike: the maximum over the price x of
    -[log score of a and b] + 2 log score of x, in the worse outcome, is reached at x = sigmoid((z+ - z-) / 2).
    """
    z_pos, z_neg = 1.3, 0.4
    a, b = sigmoid(np.array([z_pos, -z_neg]))
    x = np.linspace(1e-6, 1 - 1e-6, 200_001)
    worst = np.minimum(2 * np.log(x / np.sqrt(a * b)), 2 * np.log((1 - x) / np.sqrt((1 - a) * (1 - b))))
    assert worst.max() == pytest.approx(arbitrage(np.array(z_pos), np.array(z_neg)), abs=1e-4)
    assert x[worst.argmax()] == pytest.approx(sigmoid(np.array((z_pos - z_neg) / 2)), abs=1e-5)


def test_arbitrage_is_zero_without_a_difference_and_small_ones_are_not_lost():
    z = RNG.normal(size=50) * 5
    assert (arbitrage(z, -z) == 0).all()
    d = 1e-9  # for equal odds, log(1 + sinh(d / 4)^2) is d^2 / 16: the formula as printed gives 0 or noise
    assert arbitrage(np.array([d]), np.array([0.0]))[0] == pytest.approx(d * d / 16, rel=1e-6)


def test_no_finite_log_odds_give_anything_but_finite_measures():
    z_pos, z_neg = (np.array(side) for side in zip(*itertools.product([*EXTREME, *-EXTREME], repeat=2)))
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(arbitrage(z_pos, z_neg)).all() and (arbitrage(z_pos, z_neg) >= 0).all()
    np.testing.assert_allclose(arbitrage(z_pos, z_neg), arbitrage(-z_neg, -z_pos))
    result = evaluate(answers(z_pos, z_neg, np.arange(len(z_pos)) % 2))
    assert all(math.isfinite(bound) for name in NAMES for bound in (result[name], *result["interval_95"][name]))


def test_ccs_terms_of_known_answers():
    p_pos, p_neg = np.array([0.9, 0.5, 0.9, 1.0]), np.array([0.1, 0.5, 0.9, 0.0])
    np.testing.assert_allclose(ccs_consistency(p_pos, p_neg), [0, 0, 0.64, 0], atol=1e-15)
    np.testing.assert_allclose(ccs_confidence(p_pos, p_neg), [0.01, 0.25, 0.81, 0], atol=1e-15)


# ---- relative consistency -----------------------------------------------------------------------


@pytest.mark.parametrize("n", range(7))
def test_relative_consistency_is_the_share_of_all_placements(n):
    """All ways to place A right answers among the 2n of n pairs, counted one by one."""
    for right in range(2 * n + 1):
        placed = [
            sum(2 * i in cells and 2 * i + 1 in cells for i in range(n))
            for cells in map(set, itertools.combinations(range(2 * n), right))
        ]
        for both in range(max(0, right - n), right // 2 + 1):
            share = sum(found <= both for found in placed) / len(placed)
            found = relative_consistency(*(np.array([x], dtype=float) for x in (n, right, both)))
            assert found[0] == pytest.approx(share, abs=1e-12)


def test_relative_consistency_of_many_pairs_needs_no_large_numbers():
    n = 20_000
    few, usual, all_ = (relative_consistency([n], [n], [both])[0] for both in (0, n // 4, n // 2))
    assert few == pytest.approx(0, abs=1e-300) and 0.4 < usual < 0.6 and all_ == pytest.approx(1, abs=1e-9)


def test_relative_consistency_of_a_model_is_that_of_its_counts():
    scored = some_answers()
    right = ((scored.z_pos > 0) == scored.labels).astype(int), ((scored.z_neg > 0) != scored.labels).astype(int)
    counted = relative_consistency([60], [int(sum(right).sum())], [int((right[0] * right[1]).sum())])[0]
    assert metric_values(scored)["relative_consistency"] == counted


# ---- informative consistency --------------------------------------------------------------------


def test_a_constant_wins_nothing_and_a_model_that_knows_wins_what_a_constant_has_wrong():
    labels = np.array([1, 1, 1, 0, 0], dtype=bool)
    knows = np.where(labels, 2.0, -2.0)
    ones = np.ones(5)
    for z_pos, z_neg, expected in ((ones, -ones, 0.0), (-ones, ones, -0.2), (ones, ones, -0.6), (knows, -knows, 0.4)):
        assert metric_values(answers(z_pos, z_neg, labels))["informative_consistency"] == pytest.approx(expected)


def test_who_asks_once_and_takes_the_opposite_is_measured_as_if_the_model_had_answered_that():
    scored = some_answers()
    opposite = answers(scored.z_pos, -scored.z_pos, scored.labels, scored.users)
    once, both = evaluate(scored), evaluate(opposite)
    assert once["informative_asked_once"] == pytest.approx(both["informative_consistency"])
    interval = both["interval_95"]["informative_consistency"]
    assert once["interval_95"]["informative_asked_once"] == pytest.approx(interval)
    assert once["informative_asked_once"] > once["informative_consistency"]  # this model's second answers are no better


def test_who_believes_the_surer_answer_is_measured_as_if_the_model_had_said_that_twice():
    scored = some_answers()
    surer = np.where(np.abs(scored.z_pos) > np.abs(scored.z_neg), scored.z_pos, -scored.z_neg)  # where they contradict
    agree = (scored.z_pos > 0) != (scored.z_neg > 0)
    decided = np.where(agree, scored.z_pos, surer)
    combined, both = evaluate(scored), evaluate(answers(decided, -decided, scored.labels, scored.users))
    assert combined["informative_combined"] == pytest.approx(both["informative_consistency"])
    interval = both["interval_95"]["informative_consistency"]
    assert combined["interval_95"]["informative_combined"] == pytest.approx(interval)
    assert combined["informative_combined"] >= combined["informative_consistency"]


def test_all_right_counts_rows_with_every_answer_right():
    scored, z, same = some_answers(), RNG.normal(size=(60, 3)), np.array([True, False, False])
    whole = replace(scored, others=z, same=same)
    right = ((scored.z_pos > 0) == scored.labels) & ((scored.z_neg > 0) != scored.labels)
    for k in range(3):
        right &= (z[:, k] > 0) == (scored.labels if same[k] else ~scored.labels)
    best = max(scored.labels.mean(), 1 - scored.labels.mean())
    assert evaluate(whole)["informative_all_right"] == pytest.approx(right.mean() - best)
    assert "informative_all_right" not in evaluate(scored)


def test_asked_once_needs_no_negative_prompt_but_answers():
    labels = np.array([True, False, True])
    alone = Scored([None] * 3, labels, log_yes_pos=np.log([0.9, 0.2, 0.6]), log_no_pos=np.log([0.1, 0.8, 0.4]))
    assert metric_values(alone)["informative_asked_once"] == pytest.approx(1 / 3)
    assert "informative_asked_once" not in metric_values(Scored([None] * 3, labels, score=np.ones(3)))


def test_intervals_take_the_best_constant_of_the_same_resample():
    scored, other = some_answers(), some_answers()
    weights, _ = user_resamples(scored.users, 0)

    def of_draw(these, draw):
        rows = np.repeat(np.arange(60), draw.astype(int))  # the drawn rows, as often as drawn
        liked, z_pos, z_neg = these.labels[rows], these.z_pos[rows], these.z_neg[rows]
        both = ((z_pos > 0) == liked) & ((z_neg > 0) != liked)
        return both.mean() - max(liked.mean(), 1 - liked.mean())

    found = evaluate(scored)["interval_95"]["informative_consistency"]
    assert found == pytest.approx(np.percentile([of_draw(scored, draw) for draw in weights], (2.5, 97.5)))
    other = Scored(scored.users, scored.labels, odds=other.odds)
    change = paired_change(scored, other)["interval_95"]["informative_consistency"]
    by_hand = [of_draw(other, draw) - of_draw(scored, draw) for draw in weights]
    assert change == pytest.approx(np.percentile(by_hand, (2.5, 97.5)))


def test_every_measure_has_a_value_an_interval_and_a_paired_change():
    result, change = evaluate(some_answers()), paired_change(some_answers(), some_answers())
    assert set(NAMES) <= set(result) & set(change)
    assert set(NAMES) <= set(result["interval_95"]) & set(change["interval_95"])


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [1]], ids=["all liked", "none liked", "one row"])
def test_rows_that_are_all_the_same_have_measures(labels):
    result = evaluate(answers(np.full(len(labels), 1.0), np.full(len(labels), -1.0), labels))
    assert result["informative_consistency"] == (0 if labels[0] else -1)
    assert result["relative_consistency"] == 1 and result["arbitrage"] == 0


# ---- bundles ------------------------------------------------------------------------------------

#              like  dislike  not dislike
Z = np.array([[2.0, -1.0, 1.0], [2.0, -1.0, -1.0], [-1.0, 1.0, -3.0], [1.0, 1.0, 1.0]])
SAME, LIKED = np.array([True, False, True]), np.array([True, True, True, False])


def test_a_bundle_is_right_or_consistent_only_as_a_whole():
    columns = bundle_columns(Z, LIKED, SAME)
    assert columns["all_right"].tolist() == [True, False, False, False]
    assert columns["all_consistent"].tolist() == [True, False, True, False]  # the third is consistent, and wrong
    assert [columns[f"right_{k}"].tolist() for k in range(3)] == [
        [True, True, False, False],
        [True, True, False, True],
        [True, False, False, False],
    ]


def test_a_bundle_of_the_two_questions_has_the_figures_of_the_pair():
    scored = some_answers()
    pair = evaluate(scored)
    found = bundle_metrics(scored.odds, scored.labels, np.array([True, False]), scored.users)
    assert found["all_right"] == pair["group_accuracy"]
    assert found["all_consistent"] == pytest.approx(1 - pair["contradiction_rate"])
    assert found["informative_all_right"] == pytest.approx(pair["informative_consistency"])
    for mine, theirs in (("all_right", "group_accuracy"), ("informative_all_right", "informative_consistency")):
        assert found["interval_95"][mine] == pytest.approx(pair["interval_95"][theirs])


def test_measures_of_no_rows_at_all():
    nothing = np.empty(0)
    for measure in (arbitrage, ccs_consistency, ccs_confidence):
        assert measure(nothing, nothing).shape == (0,)
    assert relative_consistency([0], [0], [0])[0] == 1
    assert bundle_columns(np.empty((0, 3)), nothing, SAME)["all_right"].shape == (0,)
    assert constant_share(nothing).shape == (0,)


def test_the_price_without_arbitrage_lies_between_both_in_log_odds():
    """It is sigmoid((z+ - z-) / 2): no other price of both questions is as near to both, see docs/measures.md."""
    z_pos, z_neg = RNG.normal(size=(2, 20)) * 2
    log_a, log_1a = (-np.logaddexp(0, sign * z_pos) for sign in (-1, 1))
    log_b, log_1b = (-np.logaddexp(0, sign * z_neg) for sign in (1, -1))
    z = np.linspace(-12, 12, 48_001)[:, None]
    x, minus = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    kl = x * (2 * np.log(x) - log_a - log_b) + minus * (2 * np.log(minus) - log_1a - log_1b)  # to both prices
    np.testing.assert_allclose(z[kl.argmin(0), 0], (z_pos - z_neg) / 2, atol=5e-4)
    np.testing.assert_allclose(kl.min(0), consistency.arbitrage(z_pos, z_neg), atol=1e-6)
