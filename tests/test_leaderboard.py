"""The leaderboard: what needs no learning first, then models in the order of informative consistency."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import compare
from consistency import bundle_change
from errors import FlagError
from resampling import user_resamples
from run.answers import Answers, measure_answers, write_answers

LIKED = np.tile([True, True, False], 10)
ROWS = [(f"u{i % 5}", f"i{i}", bool(liked)) for i, liked in enumerate(LIKED)]
THREE = (["will like", "will dislike", "will not like"], np.array([True, False, False]))


def answers(name, says_liked, questions=3):
    """A model whose answers to every question say so of each row."""
    words, same = (column[:questions] for column in THREE)
    odds = np.where(np.asarray(says_liked)[:, None] == same, 1.5, -1.5)
    return Answers(name, "invented", "test", words, same, ROWS, odds, {"item mean": np.arange(30.0)})


@pytest.fixture
def files(tmp_path):
    """Of three models: one says Yes to "like" of all, one is named to do harm and was asked twice, one mostly knows."""
    knows = LIKED ^ (np.arange(30) == 10)
    of = {"knows": answers("knows", knows), "yes": answers("yes", np.ones(30, dtype=bool))}
    of["hostile"] = answers("<b>x|y</b> [z](http://x) `c` *s*", ~LIKED, questions=2)
    for name, one in of.items():
        write_answers(tmp_path / f"{name}.json", one)
    return [str(tmp_path / f"{name}.json") for name in ("yes", "hostile", "knows")]


def test_markdown_has_constants_and_rules_before_models_best_first(files, tmp_path, capsys):
    compare.main([*files, "--page", str(tmp_path / "pages" / "board.md"), "--json"])
    found = json.loads(capsys.readouterr().out)
    lines = (tmp_path / "pages" / "board.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| |")]
    names = [re.split(r"(?<!\\)\|", row)[1].strip() for row in rows]
    assert names[0].startswith("**Whoever") and names[1] == 'Yes to "like", No to "dislike"'
    assert names[4] == "**Rules that learn nothing**" and names[5] == "item mean" and names[6] == "**Models**"
    assert names[7:9] == ["knows (knows.json)", "yes (yes.json)"] and names[9].startswith("\\<b\\>x\\|y")
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {11}  # 9 cells, and both ends
    best = next(run for run in found["runs"] if run["run"].endswith("knows.json"))
    low, high = best["interval_95"]["informative_consistency"]
    assert f"{best['informative_consistency']:.3f} [{low:.3f}, {high:.3f}]" in rows[7]
    assert rows[1].split("|")[4].strip() == "0.000" or "0.000 [" in rows[1].split("|")[4]
    assert "Models that answer: 3. " in lines[2] and "the interval above 0: 1. " in lines[2]


def test_figures_are_those_of_the_file_and_bundles_need_three_wordings(files, capsys):
    compare.main([*files, "--json"])
    found = json.loads(capsys.readouterr().out)
    measured = measure_answers(answers("knows", LIKED ^ (np.arange(30) == 10)))
    run = found["runs"][2]
    assert run["bundle"] == measured["bundle"] and run["arbitrage"] == measured["arbitrage"]
    assert found["runs"][1]["bundle"] is None and found["rules"] == measured["rules"]
    assert [change["bundle"] is None for change in found["differences"]] == [True, False]


def test_bundles_of_two_files_are_compared_on_the_same_resamples(files, capsys):
    compare.main([files[0], files[2]])
    table = capsys.readouterr().out
    assert max(len(line) for line in table.splitlines() if files[0] not in line and files[2] not in line) <= 80
    (line,) = [line for line in table.splitlines() if line.startswith("B - A   ")]
    change = bundle_change(
        answers("yes", np.ones(30, dtype=bool)).odds,
        answers("knows", LIKED ^ (np.arange(30) == 10)).odds,
        LIKED,
        THREE[1],
        [user for user, _, _ in ROWS],
    )
    low, high = change["interval_95"]["all_right"]
    assert f"{change['all_right']:+.3f} [{low:+.3f}, {high:+.3f}]" in line
    weights, _ = user_resamples([user for user, _, _ in ROWS], 0)
    gained = (~LIKED).astype(float) - (np.arange(30) == 10)  # what "knows" has right and "yes" has not, less the other
    assert change["all_right"] == pytest.approx(gained.mean())
    assert [low, high] == pytest.approx(np.percentile(weights @ gained / weights.sum(1), (2.5, 97.5)))


def test_the_page_needs_no_other_file_and_shows_names_as_text(files, tmp_path):
    compare.main([*files, "--page", str(tmp_path / "board.html")])
    page = (tmp_path / "board.html").read_text()
    assert "&lt;b&gt;x|y&lt;/b&gt;" in page and "<b>" not in page
    assert not re.findall(r"(?:src|href)=|@import|url\(|<script", page)
    assert page.count("<tr>") == 1 + 3 + 1 + 3 and page.count('<tr class="group">') == 3


def test_one_file_makes_a_page_and_another_ending_is_refused(files, tmp_path, capsys):
    compare.main([files[2], "--page", str(tmp_path / "one.md")])
    assert "Models that answer: 1. " in (tmp_path / "one.md").read_text()
    with pytest.raises(FlagError, match="--page board.pdf: name a file that ends with .html or .md"):
        compare.main([*files, "--page", "board.pdf"])


def test_files_of_other_rows_are_not_put_into_one_table(files, tmp_path):
    write_answers(tmp_path / "other.json", replace(answers("o", LIKED), rows=[*ROWS[:-1], ("u4", "another", False)]))
    with pytest.raises(ValueError, match="other.json row 30: is user u4, item another"):
        compare.main([*files, str(tmp_path / "other.json"), "--page", str(tmp_path / "b.md")])
