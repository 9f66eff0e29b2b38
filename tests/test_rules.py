"""The rows without learning, by hand and on the published split."""

import functools

import numpy as np
import pytest

from baselines.logreg import liked_share, user_and_item
from baselines.rules import all_rules, history_share, item_mean
from data.interactions import Interaction, select_shots
from data.sources import ml_1m, movie
from errors import DataError
from metrics import auc, ranking_metrics, share_metrics, uauc
from resampling import user_resamples
from scoring.splits import without_learning


def row(target, label, *liked):
    return Interaction(1, tuple((10 + i, value) for i, value in enumerate(liked)), target, label)


TRAIN = [row(1, True), row(1, True), row(1, False), row(2, False), row(3, True)]


def test_history_share_is_liked_over_all_and_a_half_without_history():
    rows = [row(1, True, True, True, False, True), row(1, True), row(1, True, False)]
    np.testing.assert_array_equal(history_share(rows), [0.75, 0.5, 0.0])


def test_item_mean_is_smoothed_by_five_rows_of_the_global_mean():
    rows = [row(1, True), row(2, True), row(3, False), row(99, True)]
    expected = [(2 + 5 * 0.6) / 8, (0 + 5 * 0.6) / 6, (1 + 5 * 0.6) / 6, 0.6]
    np.testing.assert_allclose(item_mean(TRAIN, rows), expected)


def test_item_mean_sees_no_label_of_the_rows_it_scores():
    liked, disliked = [row(1, True), row(2, True)], [row(1, False), row(2, False)]
    np.testing.assert_array_equal(item_mean(TRAIN, liked), item_mean(TRAIN, disliked))


def test_every_rule_has_a_name_that_says_how_many_rows_it_saw():
    strangers = [
        Interaction(f"u{i}", seen.history, seen.target, seen.label)
        for i, seen in enumerate((row(1, True, True), row(2, True, False)))
    ]
    scores = all_rules(TRAIN, strangers)
    assert list(scores) == ["history share", "item mean of 5 training rows", "history share + item mean"]
    np.testing.assert_allclose(scores["history share + item mean"], [(1 + 5 / 8) / 2, (0 + 3 / 6) / 2])


def test_ranking_metrics_of_a_rule_are_auc_and_uauc_with_intervals():
    labels, users = np.tile([True, False, True], 8), np.repeat(np.arange(8), 3).tolist()
    scores = np.random.default_rng(0).normal(size=24)
    metrics = ranking_metrics(labels, scores, users)
    assert metrics["auc"] == auc(labels, scores) and metrics["uauc"] == uauc(labels, scores, users).value
    for name in ("auc", "uauc"):
        low, high = metrics["interval_95"][name]
        assert low < metrics[name] < high


@functools.cache
def read_once(folder):
    return movie.build(movie.raw_files(folder), print)


@pytest.mark.parametrize(
    "rule, expected_auc, expected_uauc",
    [
        ("history share", 0.7260, 0.541),
        ("item mean of 8,000 training rows", 0.671, 0.719),
        ("history share + item mean", 0.7610, 0.682),
    ],
)
def test_rules_on_the_published_test_split(real_file, rule, expected_auc, expected_uauc):
    data = read_once(real_file("ml-100k/u.data").parent)
    metrics = without_learning(data.train, data.test)["rules"][rule]
    assert metrics["auc"] == pytest.approx(expected_auc, abs=5e-4)
    assert metrics["uauc"] == pytest.approx(expected_uauc, abs=5e-4)
    low, high = metrics["interval_95"]["auc"]
    assert low < metrics["auc"] < high and 0.05 < high - low < 0.25  # 16 users


def test_rules_are_those_that_can_say_something():
    likes_alone = [row(1, True, True), row(2, False, True, True)]
    assert list(all_rules(TRAIN, likes_alone)) == ["item mean of 5 training rows", "user mean", "item mean + user mean"]
    assert "user mean" in all_rules(TRAIN, [row(1, True, False)]) and "history share" in all_rules(
        TRAIN, [row(1, True, False)]
    )


@pytest.mark.parametrize(
    "rule, expected_auc, expected_uauc",
    [
        ("item mean of 33,891 training rows", 0.7094, 0.6816),
        ("user mean", 0.5706, 0.5),
        ("item mean + user mean", 0.7317, 0.6816),
    ],
)
def test_rules_on_the_published_ml_1m_test_split(real_file, rule, expected_auc, expected_uauc):
    data = published_ml_1m(real_file("collm-ml-1m/test.csv.gz").parent)
    scores = all_rules(data.train, data.test)[rule]
    assert auc(*labels_and(data.test, scores)) == pytest.approx(expected_auc, abs=5e-4)
    over_users = uauc(*labels_and(data.test, scores), [r.user for r in data.test])
    assert over_users.value == pytest.approx(expected_uauc, abs=5e-4)


@functools.cache
def published_ml_1m(folder):
    return ml_1m.read_published(folder)


def labels_and(rows, scores):
    return np.array([row.label for row in rows]), scores


# ---- logistic regressions -----------------------------------------------------------------------


def test_logistic_regression_on_user_and_item_is_at_the_minimum_of_its_loss():
    """C = 1: there the gradient of the summed cross-entropies plus half the squared weights is 0, column by column.

    The solver stops once no column of the gradient of the mean is above its tolerance, 1e-4.
    """
    draw = np.random.default_rng(0)
    train = [Interaction(f"u{draw.integers(6)}", (), int(draw.integers(5)), bool(draw.integers(2))) for _ in range(90)]
    log_odds = user_and_item(train, train)
    errors = 1 / (1 + np.exp(-log_odds)) - [row.label for row in train]
    almost_0 = pytest.approx(0, abs=1e-4 * len(train))
    assert errors.sum() == almost_0  # of the intercept, which is free
    base = user_and_item(train, [Interaction("stranger", (), 99, True)])[0]
    for name in {row.user for row in train}:
        weight = user_and_item(train, [Interaction(name, (), 99, True)])[0] - base
        assert sum(e for e, row in zip(errors, train) if row.user == name) + weight == almost_0
    for item in {row.target for row in train}:
        weight = user_and_item(train, [Interaction("stranger", (), item, True)])[0] - base
        assert sum(e for e, row in zip(errors, train) if row.target == item) + weight == almost_0


def test_logistic_regression_keeps_a_number_and_a_text_apart():
    train = [Interaction(1, (), 1, True), Interaction("1", (), 1, False)] * 5
    first, second = user_and_item(train, train[:2])
    assert first > 0 > second


def test_the_liked_share_ranks_as_it_is_or_reversed_or_not_at_all():
    rows = [row(1, True, True, True), row(1, True, True, False), row(1, False, False)]
    assert np.all(np.diff(liked_share(rows, rows)) < 0)
    with pytest.raises(DataError, match="have one label; draw more"):
        liked_share(rows[:2], rows)


def test_logistic_regression_on_the_published_ml_1m_test_split(real_file):
    data = published_ml_1m(real_file("collm-ml-1m/test.csv.gz").parent)
    scores = user_and_item(data.train, data.test)
    assert auc(*labels_and(data.test, scores)) == pytest.approx(0.7363, abs=5e-4)
    over_users = uauc(*labels_and(data.test, scores), [r.user for r in data.test])
    assert over_users.value == pytest.approx(0.6827, abs=5e-4)
    assert auc(*labels_and(data.valid, user_and_item(data.train, data.valid))) == pytest.approx(0.7365, abs=5e-4)


@pytest.mark.parametrize("shots, expected", [(16, 0.636), (64, 0.726), (256, 0.726)])
def test_the_liked_share_by_logistic_regression_on_the_published_movie_test_split(real_file, shots, expected):
    data = read_once(real_file("ml-100k/u.data").parent)
    drawn = [select_shots(data.train, shots, seed) for seed in range(5)]
    found = [auc(*labels_and(data.test, liked_share(rows, data.test))) for rows in drawn]
    assert np.mean(found) == pytest.approx(expected, abs=5e-4)


def test_a_share_decides_above_a_half():
    labels, users = np.array([True, False, True, True, False, True]), ["a", "a", "b", "b", "c", "c"]
    shares = np.array([0.9, 0.5, 0.5, 0.6, 0.7, 0.1])  # right, right, wrong, right, wrong, wrong
    metrics = share_metrics(labels, shares, users)
    assert metrics["informative_asked_once"] == pytest.approx(3 / 6 - 4 / 6)
    right, weights = np.array([1, 1, 0, 1, 0, 0]), user_resamples(users, 0)[0]
    drawn = [w @ right / w.sum() - max(w @ labels, w @ ~labels) / w.sum() for w in weights]
    assert metrics["interval_95"]["informative_asked_once"] == pytest.approx(np.percentile(drawn, (2.5, 97.5)).tolist())
    ranked = ranking_metrics(labels, shares, users)
    assert all(metrics[name] == ranked[name] for name in ("auc", "uauc"))
    assert {name: metrics["interval_95"][name] for name in ranked["interval_95"]} == ranked["interval_95"]


def test_a_majority_of_the_history_knows_more_than_a_constant_on_the_published_test_split(real_file):
    data = read_once(real_file("ml-100k/u.data").parent)
    metrics = without_learning(data.train, data.test)["rules"]["history share"]
    majority = [2 * sum(liked for _, liked in r.history) > len(r.history) for r in data.test]
    right = sum(said == r.label for said, r in zip(majority, data.test))
    assert metrics["informative_asked_once"] == pytest.approx((right - 528) / 1000) and right == 664
