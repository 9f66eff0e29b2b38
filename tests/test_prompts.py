"""The wording, written out in full: every byte of both templates in both polarities."""

import pytest

from data.interactions import Interaction, Item
from data.prompts import PromptPair, prompt_pair, tallrec_row

CATALOGUE = {
    1: Item("Lantern, The (1971)"),
    2: Item('The "Quoted" Man (1984)'),
    3: Item("Nîmes (1966)"),
    4: Item("Wires {noun} (1993)"),
}
ROW = Interaction(5, ((3, True), (1, False), (2, True)), 4, True)

PAPER_POSITIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Given the user's preference and unpreference, identify whether the user will like the target movie by answering "Yes." or "No.".

### Input:
User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"
User Unpreference: "Lantern, The (1971)"
Whether the user will like the target movie "Wires {noun} (1993)"?

### Response:
"""

PAPER_NEGATIVE = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Given the user's preference and unpreference, identify whether the user will dislike the target movie by answering "Yes." or "No.".

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
Given the user's preference and unpreference, identify whether the user will like the target movie by answering "Yes." or "No.".

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
Given the user's preference and unpreference, identify whether the user will dislike the target movie by answering "Yes." or "No.".

### Input:
User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"
User Unpreference: "Lantern, The (1971)"
Whether the user will like the target movie "Wires {noun} (1993)"?

### Response:
"""


def test_paper_template_inverts_instruction_and_question():
    assert prompt_pair(ROW, CATALOGUE, "movie", "paper") == PromptPair(PAPER_POSITIVE, PAPER_NEGATIVE, "Yes.", "No.")


def test_released_template_keeps_the_lint_comment_and_inverts_the_instruction_alone():
    assert prompt_pair(ROW, CATALOGUE, "movie", "released") == PromptPair(RELEASED_POSITIVE, RELEASED_NEGATIVE, "Yes.", "No.")


def test_paper_is_the_template_when_none_is_named():
    assert prompt_pair(ROW, CATALOGUE, "movie") == prompt_pair(ROW, CATALOGUE, "movie", "paper")


@pytest.mark.parametrize("template", ["paper", "released"])
def test_a_disliked_target_is_answered_no_then_yes(template):
    pair = prompt_pair(Interaction(5, ROW.history, 4, False), CATALOGUE, "movie", template)
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
    pair = prompt_pair(Interaction(5, history, 3, True), CATALOGUE, "movie")
    assert f"\n\n### Input:\n{lines}Whether the user will like" in pair.positive
    assert f"\n\n### Input:\n{lines}Whether the user will dislike" in pair.negative


def test_the_noun_takes_every_place():
    pair = prompt_pair(Interaction(5, (), 3, True), CATALOGUE, "book")
    assert "movie" not in pair.positive + pair.negative
    assert pair.positive.count("the target book") == pair.negative.count("the target book") == 2


def test_tallrec_row_is_the_positive_question_in_the_published_fields():
    assert tallrec_row(ROW, CATALOGUE, "movie") == {
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target "
        'movie by answering "Yes." or "No.".',
        "input": 'User Preference: "Nîmes (1966)", "The "Quoted" Man (1984)"\nUser Unpreference: "Lantern, The (1971)"\n'
        'Whether the user will like the target movie "Wires {noun} (1993)"?',
        "output": "Yes.",
    }
