"""The wording, written out in full: every byte of both templates in both polarities."""

import pytest

from data.interactions import Dataset, Interaction, Item
from data.prompts import COLLM, TEMPLATES, WORDINGS, PromptPair, prompt_pair
from data.sources.tallrec import parse_row, published_row
from errors import FlagError


def dataset(catalogue, noun="movie", wording="tallrec"):
    """A data set without rows: what a prompt needs of one."""
    return Dataset("invented", "invented", noun, catalogue, [], [], [], wording=wording)


CATALOGUE = {
    1: Item("Lantern, The (1971)"),
    2: Item('The "Quoted" Man (1984)'),
    3: Item("Nîmes (1966)"),
    4: Item("Wires {noun} (1993)"),
}
MOVIES = dataset(CATALOGUE)
ROW = Interaction(5, ((3, True), (1, False), (2, True)), 4, True)

TALLREC_POSITIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Given the user's preference and unpreference, identify whether the user will like \
the target movie by answering "Yes." or "No.".

### Input:
User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"
User Unpreference: "Lantern, The (1971)"
Whether the user will like the target movie "Wires {noun} (1993)"?

### Response:
"""

TALLREC_NEGATIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Given the user's preference and unpreference, identify whether the user will dislike \
the target movie by answering "Yes." or "No.".

### Input:
User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"
User Unpreference: "Lantern, The (1971)"
Whether the user will dislike the target movie "Wires {noun} (1993)"?

### Response:
"""

RELEASED_POSITIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.  # noqa: E501

### Instruction:
Given the user's preference and unpreference, identify whether the user will like \
the target movie by answering "Yes." or "No.".

### Input:
User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"
User Unpreference: "Lantern, The (1971)"
Whether the user will like the target movie "Wires {noun} (1993)"?

### Response:
"""

RELEASED_NEGATIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.  # noqa: E501

### Instruction:
Given the user's preference and unpreference, identify whether the user will dislike \
the target movie by answering "Yes." or "No.".

### Input:
User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"
User Unpreference: "Lantern, The (1971)"
Whether the user will like the target movie "Wires {noun} (1993)"?

### Response:
"""


PRINTED_POSITIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Given the user's historical interactions, please determine whether the user will like \
the target new movie by answering "Yes" or "No".

### Input:
User's liked items: "Nîmes (1966)", "The "Quoted" Man (1984)". \
User's disliked items: "Lantern, The (1971)". Target new movie: "Wires {noun} (1993)"

### Response:
"""


def test_tallrec_template_inverts_instruction_and_question():
    assert prompt_pair(ROW, MOVIES, "tallrec") == PromptPair(TALLREC_POSITIVE, TALLREC_NEGATIVE, "Yes.", "No.")


def test_released_template_keeps_the_lint_comment_and_inverts_the_instruction_alone():
    assert prompt_pair(ROW, MOVIES, "released") == PromptPair(RELEASED_POSITIVE, RELEASED_NEGATIVE, "Yes.", "No.")


def test_printed_template_inverts_the_instruction_and_keeps_the_input():
    negative = PRINTED_POSITIVE.replace("will like", "will dislike")
    assert prompt_pair(ROW, MOVIES, "printed") == PromptPair(PRINTED_POSITIVE, negative, "Yes.", "No.")
    asked = prompt_pair(ROW, MOVIES, "printed", "will enjoy")
    assert (asked.negative, asked.answer_negative) == (PRINTED_POSITIVE.replace("will like", "will enjoy"), "Yes.")


def test_tallrec_is_the_template_when_none_is_named():
    assert prompt_pair(ROW, MOVIES) == prompt_pair(ROW, MOVIES, "tallrec")


@pytest.mark.parametrize("template", ["tallrec", "printed", "released"])
def test_a_disliked_target_is_answered_no_then_yes(template):
    pair = prompt_pair(Interaction(5, ROW.history, 4, False), MOVIES, template)
    assert (pair.answer_positive, pair.answer_negative) == ("No.", "Yes.")


@pytest.mark.parametrize(
    "history, lines",
    [
        ((), "User Preference: \nUser Unpreference: \n"),
        (((1, True),), 'User Preference: "Lantern, The (1971)"\nUser Unpreference: \n'),
        (((1, False),), 'User Preference: \nUser Unpreference: "Lantern, The (1971)"\n'),
    ],
    ids=["no history", "likes only", "dislikes only"],
)
def test_an_empty_side_keeps_its_line_and_trailing_space(history, lines):
    pair = prompt_pair(Interaction(5, history, 3, True), MOVIES)
    assert f"\n\n### Input:\n{lines}Whether the user will like" in pair.positive
    assert f"\n\n### Input:\n{lines}Whether the user will dislike" in pair.negative


def test_the_noun_takes_every_place():
    pair = prompt_pair(Interaction(5, (), 3, True), dataset(CATALOGUE, "book"))
    assert "movie" not in pair.positive + pair.negative
    assert pair.positive.count("the target book") == pair.negative.count("the target book") == 2


def test_a_published_row_is_the_positive_question_in_the_published_fields():
    assert published_row(ROW, MOVIES) == {
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target "
        'movie by answering "Yes." or "No.".',
        "input": 'User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"\n'
        'User Unpreference: "Lantern, The (1971)"\n'
        'Whether the user will like the target movie "Wires {noun} (1993)"?',
        "output": "Yes.",
    }


# ---- books --------------------------------------------------------------------------------------

ITEMS = {1: Item("Plain", "Ann One"), 2: Item("Nobody wrote it"), 3: Item('\\O\\" Is for Outlaw"', "SUE")}
BOOKS = dataset(ITEMS, "book")
BOOK_ROW = Interaction(5, ((1, True), (2, True), (3, False)), 1, True)


def test_a_book_is_shown_with_its_author_if_it_has_one():
    text = prompt_pair(BOOK_ROW, BOOKS).positive
    assert 'User Preference: "Plain" written by Ann One, "Nobody wrote it"\n' in text
    assert 'User Unpreference: "\\O\\" Is for Outlaw"" written by SUE\n' in text


def test_released_quotes_a_book_as_target_twice_and_tallrec_does_not():
    released, mended = (prompt_pair(BOOK_ROW, BOOKS, template) for template in ("released", "tallrec"))
    assert 'will like the target book ""Plain" written by Ann One"?\n' in released.positive
    assert 'will like the target book ""Plain" written by Ann One"?\n' in released.negative
    assert 'will like the target book "Plain" written by Ann One?\n' in mended.positive
    assert 'will dislike the target book "Plain" written by Ann One?\n' in mended.negative
    assert published_row(BOOK_ROW, BOOKS)["input"].endswith('the target book ""Plain" written by Ann One"?')


@pytest.mark.parametrize("target", [1, 2, 3])
@pytest.mark.parametrize(
    "history",
    [
        (),
        ((2, True),),
        ((2, True), (1, True), (2, True), (3, True)),
        ((1, False), (2, False)),
        ((3, True), (2, False), (2, False)),
    ],
)
def test_a_published_row_is_parsed_back(history, target):
    row, noun, items = parse_row(published_row(Interaction(5, history, target, False), BOOKS), "x")
    assert (noun, row.label, row.user) == ("book", False, None)
    assert [(items[item], liked) for item, liked in row.history] == [
        (ITEMS[item], liked) for item, liked in sorted(history, key=lambda e: not e[1])
    ]
    assert items[row.target] == ITEMS[target]


# ---- CoLLM --------------------------------------------------------------------------------------

COLLM_ROW = Interaction(5, ((3, True), (1, True)), 4, True)


@pytest.mark.parametrize("template, line_break", [("released", "\\n"), ("tallrec", "\n")])
def test_collm_asks_one_question_in_both_polarities(template, line_break):
    pair = prompt_pair(COLLM_ROW, dataset(CATALOGUE, wording="collm"), template)
    positive = (
        '#Question: A user has given high ratings to the following movies: "Nîmes (1966)", "Lantern, The (1971)". '
        'Leverage the information to predict whether the user would enjoy the movie titled "Wires {noun} (1993)"? '
        'Answer with "Yes" or "No". ' + line_break + "#Answer:"
    )
    assert pair == PromptPair(positive, positive.replace("would enjoy", "would dislike"), " Yes", " No")


@pytest.mark.parametrize("template, nothing", [("released", "unkow"), ("tallrec", "unknown")])
def test_collm_without_history_says_so(template, nothing):
    pair = prompt_pair(Interaction(5, (), 4, False), dataset(CATALOGUE, "book", "collm"), template)
    assert f"to the following books: {nothing}. Leverage" in pair.positive and "the book titled" in pair.negative
    assert (pair.answer_positive, pair.answer_negative) == (" No", " Yes")


def test_collm_leaves_out_dislikes_empty_titles_and_spaces_around_the_target():
    items = {1: Item(" A "), 2: Item("B"), 3: Item("")}
    row = Interaction(5, ((1, True), (2, False), (3, True)), 1, True)
    text = prompt_pair(row, dataset(items, "book", "collm")).positive
    assert 'books: " A ". Leverage' in text and 'titled "A"?' in text


@pytest.mark.parametrize("asks, same", COLLM.held_out.items())
def test_held_out_questions_flip_the_answer_or_keep_it(asks, same):
    pair = prompt_pair(COLLM_ROW, dataset(CATALOGUE, wording="collm"), question=asks)
    assert f"whether the user {asks} the movie" in pair.negative
    assert (pair.answer_negative == " Yes") == same


@pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)
def test_every_wording_has_the_default_template_and_no_template_that_the_flag_lacks(wording):
    assert {"tallrec", "released"} <= set(wording.templates) <= set(TEMPLATES)
    assert TEMPLATES == ("tallrec", "printed", "released", "collm", "collm-released", "prompt4nr")


def test_a_template_that_the_wording_lacks_is_refused_by_name():
    with pytest.raises(FlagError, match="^--template printed: .* choose tallrec or released or collm or"):
        prompt_pair(COLLM_ROW, dataset(CATALOGUE, wording="collm"), "printed")


def test_collm_shows_the_last_ten_liked_items_of_a_longer_history():
    items = {i: Item(f"T{i}") for i in range(40)}
    history = tuple((i, i % 3 != 0) for i in range(30))
    text = prompt_pair(Interaction(5, history, 39, True), dataset(items, "book", "collm")).positive
    liked = [i for i in range(30) if i % 3]
    assert "books: " + ", ".join(f'"T{i}"' for i in liked[-10:]) + ". Leverage" in text
