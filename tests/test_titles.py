"""The rule for titles and authors: refused exactly where a list of quoted titles would have two readings."""

import re

import pytest

from data.titles import author_problem, title_problem


@pytest.mark.parametrize(
    "title, problem",
    [
        ("Dune", None),
        ('The "Best", part 3', None),
        ('"O" Is for Outlaw"', None),
        ('Tom, "Dick" and Harry', None),
        ("A | B", None),
        ("written by me", None),
        ("", "is empty"),
        (" ", "is empty"),
        ("a\nb", "line break"),
        ("a\u2028b", "line break"),
        ("a\x00b", "control character"),
        ("a\ud800b", "control character"),
        ('Tom", "Dick", "Harry', "separates titles"),
        (', "Dick', "separates titles"),
        ('Tom", ', "separates titles"),
        ('Tom" written by Dick', "separates a title from its author"),
    ],
)
def test_a_title_is_refused_where_a_prompt_would_show_several(title, problem):
    found = title_problem(title)
    assert found is None if problem is None else problem in found
    if problem is None:  # the list reads back as it was written
        listed = ", ".join(f'"{name}"' for name in ("Alder", title, "Birch"))
        assert re.split(r'(?<="), (?=")', listed) == ['"Alder"', f'"{title}"', '"Birch"']


@pytest.mark.parametrize(
    "author, problem",
    [("I. Vale", None), ('Al "Ace" Ray', None), ('Al, "Ace', "begins a title"), ("a\rb", "line break"), ("", "empty")],
)
def test_an_author_is_refused_where_a_title_would_seem_to_follow(author, problem):
    found = author_problem(author)
    assert found is None if problem is None else problem in found
