"""From an interaction to text: the only place that knows the wording.

TALLRec's prompt is an instruction, an input (what the user liked, disliked, and the target), and
an answer, `Yes.` or `No.`. LCFT asks the same thing twice: once whether the user will *like* the
target (positive prompt) and once whether the user will *dislike* it (negative prompt), where the
right answer is the other one.

Two templates:
  paper     the negative prompt says "dislike" in both places that name the question
  released  what the authors' code feeds: the instruction is inverted but the last input line is
            not, so the negative prompt contradicts itself; and a lint comment has slipped into
            the header (9 tokens of every prompt)
"""

import re
from dataclasses import dataclass

from data.interactions import DataError, Interaction, Item

TEMPLATES = ("paper", "released")

HEADER = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
RELEASED_HEADER = HEADER + "  # noqa: E501"
ALPACA = "{header}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"

INSTRUCTION = (
    "Given the user's preference and unpreference, identify whether the user {asks} "
    'the target {noun} by answering "Yes." or "No.".'
)
INPUT = (
    "User Preference: {liked}\nUser Unpreference: {disliked}\n"
    "Whether the user {asks} the target {noun} {target}?"
)
ANSWERS = {True: "Yes.", False: "No."}
LIKE, DISLIKE = "will like", "will dislike"

# Questions that no training asks (`eval.py --negations`); True where the answer is that to "will like".
HELD_OUT = {
    "will not like": False,
    "will not enjoy": False,
    "will hate": False,
    "will be unlikely to like": False,
    "will enjoy": True,
    "is going to like": True,
}


@dataclass(frozen=True)
class PromptPair:
    """The same question in both polarities; the answers follow their prompts without a space."""

    positive: str
    negative: str
    answer_positive: str
    answer_negative: str


def tallrec_row(row: Interaction, catalogue: dict[int | str, Item], noun: str) -> dict[str, str]:
    """The interaction as TALLRec publishes it: instruction, input and output (positive polarity)."""
    return {
        "instruction": INSTRUCTION.format(asks=LIKE, noun=noun),
        "input": _input(LIKE, row, catalogue, noun),
        "output": ANSWERS[row.label],
    }


def prompt_pair(
    row: Interaction, catalogue: dict[int | str, Item], noun: str, template: str = "paper", asks: str = DISLIKE
) -> PromptPair:
    """Both prompts of an interaction, each ending where the answer begins.

    asks: the words of the negative prompt; training knows "will dislike" alone, the others are HELD_OUT.
    """

    def prompt(asks: str, asks_in_input: str) -> str:
        return ALPACA.format(
            header=RELEASED_HEADER if template == "released" else HEADER,
            instruction=INSTRUCTION.format(asks=asks, noun=noun),
            input=_input(asks_in_input, row, catalogue, noun),
        )

    not_inverted = template == "released" and asks == DISLIKE
    negative = prompt(asks, LIKE if not_inverted else asks)
    same_answer = HELD_OUT.get(asks, False)
    return PromptPair(prompt(LIKE, LIKE), negative, ANSWERS[row.label], ANSWERS[row.label == same_answer])


def _input(asks: str, row: Interaction, catalogue: dict[int | str, Item], noun: str) -> str:
    def titles(wanted: bool) -> str:
        return ", ".join(_quoted(catalogue[item]) for item, liked in row.history if liked == wanted)

    return INPUT.format(
        liked=titles(True), disliked=titles(False), asks=asks, noun=noun, target=_quoted(catalogue[row.target])
    )


def _quoted(item: Item) -> str:
    return f'"{item.title}"'


_TALLREC_INPUT = re.compile(
    r"User Preference: (?P<liked>.*)\nUser Unpreference: (?P<disliked>.*)\n"
    r'Whether the user will like the target (?P<noun>\w+) "(?P<target>.*)"\?'
)


def parse_tallrec_row(fields: dict[str, str], where: str) -> tuple[Interaction, str]:
    """(interaction, noun) from one published row; titles serve as item ids, the user is unknown.

    The published text lists likes before dislikes, so the order between the two is lost.
    Raises DataError, starting with `where`, if the row is not of TALLRec's form.
    """
    match = _TALLREC_INPUT.fullmatch(fields["input"])
    if match is None:
        raise DataError(f"{where}: `input` is not of TALLRec's three-line form (User Preference, User Unpreference, Whether ...)")
    history = []
    for group, liked in (("liked", True), ("disliked", False)):
        text = match[group]
        if text and not (len(text) >= 2 and text[0] == text[-1] == '"'):
            raise DataError(f'{where}: titles must stand in double quotes and be joined by ", ": {text[:60]}')
        history += [(title, liked) for title in text[1:-1].split('", "')] if text else []
    if fields["output"] not in ANSWERS.values():
        raise DataError(f"{where}: `output` is {fields['output'][:20]!r}; expected 'Yes.' or 'No.'")
    row = Interaction(None, tuple(history), match["target"], fields["output"] == "Yes.")
    catalogue = {item: Item(item) for item, _ in (*history, (row.target, True))}
    if tallrec_row(row, catalogue, match["noun"]) != fields:
        raise DataError(f"{where}: the row does not have TALLRec's wording (first: {INSTRUCTION[:60]}...)")
    return row, match["noun"]
