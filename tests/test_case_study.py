"""docs/case_study.py: the users of the paper's case study are found, and what is said of answers is so."""

from types import SimpleNamespace

import pytest

from data.interactions import Dataset, Interaction, Item
from data.sources import movie
from data.sources.movielens import parse_ratings
from docs.case_study import PAPER_ROWS, check_flags, histories, looked_up, main, rows_with, verdict
from errors import FlagError, notice

TITLES = {i: Item(f"film {i}") for i in range(1, 8)}
ROW = Interaction(7, ((1, True), (2, False), (3, True), (4, False), (5, True)), 6, True)
DATA = Dataset("movie", "made", "movie", TITLES, [], [], [ROW, Interaction(8, ROW.history[:2], 6, False)])


def asking(liked, disliked, target):
    return SimpleNamespace(liked=liked, disliked=disliked, target=target)


def test_titles_find_the_rows_that_have_them_on_the_right_side():
    assert rows_with(DATA, asking("film 1", "film 2", "film 6")) == [0, 1]
    assert rows_with(DATA, asking("film 1| film 5", "film 2", "film 6")) == [0]
    assert (
        rows_with(DATA, asking("film 2", "film 1", "film 6")) == rows_with(DATA, asking("film 1", "film 2", "x")) == []
    )


def test_who_else_has_these_ratings_is_counted():
    stars = {(7, i): 5 if liked else 1 for i, liked in ROW.history} | {(7, 6): 4}
    stars |= {(9, item): rating for (_, item), rating in stars.items()} | {(9, 6): 2}
    stars |= {(5, item): rating for (user, item), rating in stars.items() if user == 7 and item != 6}  # never rated it
    stars |= {(4, item): rating for (user, item), rating in stars.items() if user == 7} | {(4, 1): 3}
    lines = looked_up(0, ROW, stars)
    assert "user 7 rated the target 4 of 5, so liked it" in lines[0]
    assert lines[1].endswith("2 of 4") and "right is Yes to like, No to dislike" in lines[1]


def test_an_abridged_history_keeps_the_latest_of_both_sides_in_order():
    (_, whole), (name, short) = histories(ROW, 2)
    assert whole is ROW and name == "latest 2 of each"
    assert short.history == ((2, False), (3, True), (4, False), (5, True)) and short.target == 6


@pytest.mark.parametrize(
    "like, dislike, liked, said",
    [
        (0.9, 0.1, True, "both right"),
        (0.1, 0.9, False, "both right"),
        (0.1, 0.9, True, "consistent, wrong"),  # the answers that the paper prints for LCFT
        (0.9, 0.1, False, "consistent, wrong"),
        (0.9, 0.9, True, "contradictory"),
        (0.1, 0.1, True, "contradictory"),
    ],
)
def test_a_pair_of_answers_is_right_or_wrong_or_contradicts_itself(like, dislike, liked, said):
    assert verdict(like, dislike, liked) == said


def test_titles_belong_together():
    flags = SimpleNamespace(run=None, model="demo", adapter=None, data_dir="x", liked="a", disliked=None, target=None)
    with pytest.raises(FlagError, match="--liked, --disliked, --target: belong together"):
        check_flags(flags, None)


def test_the_users_of_the_paper_are_933_and_943_and_both_liked_the_target(real_file):
    files = [real_file("ml-100k/u.data"), real_file("ml-100k/u.item")]
    data = movie.build(files, notice)
    ratings = parse_ratings(files[0].read_bytes(), files[0], "\t", data.catalogue, "u.item")
    stars = {(user, item): rating for user, item, rating, _ in ratings}
    for number, user in zip(PAPER_ROWS, (933, 943), strict=True):
        row = data.test[number]
        first, second = looked_up(number, row, stars)
        assert row.user == user and row.label and stars[user, row.target] == 4
        assert "rated the target 4 of 5, so liked it" in first and second.endswith("1 of 943")


def test_the_folder_above_the_files_will_do(tmp_path, real_file, capsys):
    folder = real_file("ml-100k/u.data").parent
    main(["--data-dir", str(folder.parent), "--model", "demo"])
    above = capsys.readouterr().out
    main(["--data-dir", str(folder), "--model", "demo"])
    assert above == capsys.readouterr().out and "user 933" in above
