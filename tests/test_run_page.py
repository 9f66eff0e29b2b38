"""report.html: the right figures, whole in one file, safe against hostile text, and of bounded size."""

import functools
import re
from dataclasses import replace

import numpy as np
import pytest

from data.interactions import Dataset, Interaction, Item
from data.pairs import encode_pairs
from data.splits import Split
from metrics import Scored, constants, evaluate, expected_calibration_error, paired_change, reliability
from report.cells import interval_cell
from report.charts import LEFT, RIGHT, WIDTH, Area, Interval, chart, curve, dots, forest, span, thinned, ticks
from report.run_page import FORGOT, MOST_DOTS, Row, Shown, contradictory_section, run_page, score_page
from report.tables import METRICS
from run.page import MOST_ROWS, contradictory_rows, shown_answers

LARGEST = 600_000  # bytes of a page
HOSTILE = "<script>alert(1)</script><img src=x> & \"quoted' \u202e"


def scored(rows=40, shift=2.0):
    rng = np.random.default_rng(1)
    labels = np.tile([True, False], rows // 2)
    z, z_neg = rng.normal(size=(2, rows)) * 2 + shift * labels
    logs = [-np.log1p(np.exp(-sign * side)) for side in (z, -z_neg) for sign in (1, -1)]
    nothing = np.full(rows, 0.25)
    return Scored((np.arange(rows) // 5).tolist(), labels, *logs, nothing, nothing / 5)


@functools.cache
def measured():
    """The figures of a split whose answers are scored(shift=0.0) and then scored()."""
    before, after = scored(shift=0.0), scored()
    return {
        "before": evaluate(before),
        "after": evaluate(after),
        "change": paired_change(before, after),
        "rules": {"history share": {"auc": 0.5, "uauc": None, "interval_95": {"auc": [0.4, 0.6]}}},
        "constants": constants(before.labels, before.users),
    }


def results_of(**changes):
    of_run = {"data": "movie", "data_source": "stand-in", "model": "demo", "demo_model": True, "objective": "paper"}
    of_run |= {"kl_weight": 1e-4, "shots": "64", "seed": 3, "steps": 4, "best_step": 2, "best_valid_auc": 0.75}
    return of_run | {"valid": measured(), "test": measured()} | changes


def history_of(steps):
    lines = [{"step": i, "loss": 2.0, "ce_pos": 1.0, "ce_neg": 1.0, "kl": 0.5} for i in range(1, steps + 1)]
    return [line | ({"valid_auc": 0.6} if line["step"] % 2 == 0 else {}) for line in lines]


def shown_of(before, after, **changes):
    rows = [Row(7, HOSTILE, HOSTILE, True, (0.9, 0.8), (f"will like {HOSTILE}", f"will dislike {HOSTILE}"))]
    both = shown_answers({"before": before, "after": after})
    shown = Shown(**both, rows=rows, command="python train.py", facts={"data": "a" * 64}, history=history_of(4))
    return replace(shown, **changes)


@pytest.fixture
def before():
    return scored(shift=0.0)


@pytest.fixture
def after():
    return scored()


def text_of(page):
    return re.sub(r"<[^>]*>", " ", page.split("</style>")[1])


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_has_every_figure_and_names_what_is_simulated(before, after):
    results = results_of()
    words = " ".join(text_of(run_page(results, shown_of(before, after))).split())
    for name, label in METRICS:
        if results["test"]["after"].get(name) is not None:
            assert label.strip() in words
            for column, sign in (("after", ""), ("change", "+")):
                assert interval_cell(results["test"][column], name, sign) in words
    assert "Simulated viewers" in words and "built-in demo model" in words and "a" * 64 in words
    assert "history share" in words and "python train.py" in words


def test_the_page_is_one_file_for_light_and_dark_and_hostile_text_stays_text(before, after):
    page = run_page(results_of(data=HOSTILE), shown_of(before, after, command=HOSTILE))
    assert page.startswith("<!DOCTYPE html>") and "prefers-color-scheme: dark" in page and "viewport" in page
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", page)
    assert page.count("&lt;script&gt;") >= 5
    assert set(re.findall(r"<(\w+)", page)) == set(re.findall(r"<(\w+)", run_page(*_plain(before, after))))


def _plain(before, after):
    rows = [Row(7, "u", "Alien", True, (0.9, 0.8), ("will like Alien", "will dislike Alien"))]
    return results_of(), shown_of(before, after, rows=rows)


def test_where_the_prompts_differ_they_are_marked(before, after):
    page = run_page(*_plain(before, after))
    assert "<pre>will <mark>like</mark> Alien</pre><pre>will <mark>dislike</mark> Alien</pre>" in page


def test_a_large_run_gives_a_page_of_bounded_size():
    many, endless = scored(20_000), "word " * 50_000
    rows = [Row(i, endless, endless, True, (0.9, 0.8), (endless, endless)) for i in range(MOST_ROWS)]
    shown = shown_of(many, many, rows=rows, history=history_of(50_000), command=endless, facts={"data": endless})
    page = run_page(results_of(), shown)
    assert len(page.encode()) < LARGEST and f"{MOST_DOTS:,} of 20,000 rows" in page


def test_contradictions_of_every_validation_are_drawn_if_they_were_recorded(before, after):
    results, shown = results_of(), shown_of(before, after)
    assert FORGOT in run_page(results, shown)
    rates = {"valid_contradiction_rate": 0.3, "valid_group_accuracy": 0.6}
    recorded = [line | rates if "valid_auc" in line else line for line in shown.history]
    assert FORGOT not in run_page(results, replace(shown, history=recorded))


def test_shares_in_the_corners_count_the_rows(before, after):
    words = " ".join(text_of(run_page(results_of(), shown_of(before, after))).split())
    yes, no = after.z_pos > 0, after.z_neg <= 0
    for word, rows in (("likes", yes & no), ("dislikes", ~yes & ~no), ("Yes to both", yes & ~no)):
        assert f" {word} {rows.mean():.1%}" in words


def test_the_page_of_eval_has_one_column_and_no_curves(after):
    results = results_of()["test"]
    one = {**results["after"], "rules": results["rules"], "constants": results["constants"], "split": "valid"}
    one |= {"data": "movie", "data_source": "stand-in", "model": "demo", "demo_model": True}
    shown = Shown(**shown_answers({"value": after}), rows=[], command="python eval.py", facts={})
    page = score_page(one | {"run": "runs/a", "adapter": None}, shown)
    assert "adapter of a<" in page and "Training" not in page and "contradicts itself on no row" in page
    assert page.count("<svg") == 2


def test_rows_that_were_asked_one_question_have_no_scatter(after):
    half = replace(after, log_yes_neg=None, log_no_neg=None, kl=None, js=None)
    one = {**evaluate(half), "rules": {}, "constants": {}, "split": "test", "run": None, "adapter": None}
    one |= {"data": "movie", "data_source": "real", "model": "models/a", "demo_model": False}
    page = score_page(one, Shown(**shown_answers({"value": half}), rows=[], command="", facts={}))
    assert page.count("<svg") == 1 and "Both answers" not in page and "Simulated" not in page


# ---- what it shows ------------------------------------------------------------------------------


class Letters:
    """One token a letter."""

    bos_id, eos_id, longest_row = None, 0, None

    def encode(self, text):
        return [ord(letter) for letter in text]

    def encode_all(self, texts):
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        return "".join(map(chr, ids))


def test_the_most_contradictory_rows_are_the_surest_ones_with_the_prompts_that_the_model_read(after):
    items = {i: Item(f"film {i}") for i in range(60)}
    rows = [Interaction(i // 5, tuple((j, j % 2 == 0) for j in range(40, 50)), i, i % 2 == 0) for i in range(40)]
    data = Dataset("movie", "by hand", "movie", items, [], [], rows)
    pairs, truncated = encode_pairs(rows, data, Letters(), "tallrec", 520)
    found = contradictory_rows(Split(rows, pairs, truncated, {}), data, Letters(), after)
    same = [i for i in range(40) if (after.p_pos[i] > 0.5) == (after.p_neg[i] > 0.5)]
    expected = sorted(same, key=lambda i: -abs(after.p_pos[i] + after.p_neg[i] - 1))[:MOST_ROWS]
    assert [row.number for row in found] == expected and len(found) == MOST_ROWS and truncated == 40
    for row in found:
        assert row.prompts[0].endswith(f'"film {row.number}"?\n\n### Response:\n') and len(row.prompts[1]) < 520
        assert "film 49" in row.prompts[0] and "film 40" not in row.prompts[0]  # the oldest were left out


def test_signs_that_turn_the_direction_of_writing_end_with_the_title_and_the_user():
    row = Row(3, "u\u202e1", "film \u202e7", True, (0.9, 0.8), ("a", "b"))
    text = "".join(contradictory_section([row]))
    assert "<bdi>film \u202e7</bdi></b>: Yes to both (p" in text and "user <bdi>u\u202e1</bdi>, liked" in text


@pytest.mark.parametrize("rows", [4, 40, 1000])
def test_the_bins_of_the_reliability_diagram_are_those_of_the_calibration_error(rows):
    of = scored(rows)
    bins = reliability(of.labels, of.p_pos)
    order, sizes = np.argsort(of.p_pos, kind="stable"), np.diff([*np.linspace(0, rows, 16).astype(int)])
    sizes = sizes[sizes > 0]
    assert len(bins) == len(sizes) and len(order) == sizes.sum()
    error = (sizes * np.abs(bins[:, 0] - bins[:, 1])).sum() / rows
    assert error == pytest.approx(expected_calibration_error(of.labels, of.p_pos), rel=1e-12)


# ---- charts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 60, [0, 20, 40, 60]), (-3, 7, [-2, 0, 2, 4, 6]), (0.5, 0.75, None)],
)
def test_ticks_are_round_and_within_the_axis(low, high, expected):
    found = ticks(low, high)
    assert found == pytest.approx(expected or [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]) and 2 <= len(found) <= 7


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 2e-9], [-1e12, 1e12], [0.2, 0.9]])
def test_a_span_holds_its_values_and_is_never_empty(values):
    low, high = span(values, 0)
    assert low <= min(values) and high >= max(values) and low < high and ticks(low, high)


def test_marks_stand_where_their_values_are():
    area = Area((0, 10), (0, 1))
    left, base = area.at(0, 0)
    right, top = area.at(10, 1)
    assert left < right and base > top  # the vertical axis of SVG points down
    found = curve(area, [(0, 0), (10, 1)], "blue")
    assert f'points="{left:.1f},{base:.1f} {right:.1f},{top:.1f}"' in found
    assert dots(area, [(0, 0), (0, 0), (10, 1)], "red").count("M") == 2
    assert "&lt;b&gt;" in chart(area, [], "<b>", "<b>", "<b>") and "<b>" not in chart(area, [], "<b>", "<b>", "<b>")


def test_a_long_curve_is_thinned_to_means():
    points = [(i, float(i % 2)) for i in range(100_000)]
    few = thinned(points)
    assert len(few) <= 400 and all(y == 0.5 for _, y in few) and thinned(points[:300]) == points[:300]


def test_a_long_label_is_squeezed_into_the_picture():
    short, long = "LCFT", "LCFT, by informative_consistency, lambda 1e-4, 64 shots"
    image = forest([Interval(name, 0.5, (0.4, 0.6), (0.5,), "blue") for name in (short, long)], {}, "shares")
    assert f'lengthAdjust="spacingAndGlyphs">{long}</text>' in image and f'"start">{short}</text>' in image
    assert f'textLength="{WIDTH - LEFT - RIGHT}"' in image
