"""The rows without learning, by hand and on the published split."""

import functools

import numpy as np
import pytest

from baselines.rules import all_rules, history_share, item_mean
from data.interactions import Interaction
from data.sources import ml_1m, movie
from metrics import auc, ranking_metrics, uauc
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
    np.testing.assert_allclose(scores["history share + item mean"], [1 + 5 / 8, 0 + 3 / 6])


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
    data = ml_1m.read_published(real_file("collm-ml-1m/test.csv.gz").parent)
    scores, labels, users = (
        all_rules(data.train, data.test)[rule],
        np.array([r.label for r in data.test]),
        [r.user for r in data.test],
    )
    assert auc(labels, scores) == pytest.approx(expected_auc, abs=5e-4)
    over_users = uauc(labels, scores, users)
    assert over_users.value == pytest.approx(expected_uauc, abs=5e-4)
