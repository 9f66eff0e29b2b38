"""From an interaction to text: the only place that knows the wording.

LCFT asks everything twice: once whether the user will *like* the target (positive prompt) and once
whether the user will *dislike* it (negative prompt), where the right answer is the other one.

Two wordings, after the recommender that is fine-tuned (`Dataset.wording`):
  tallrec   an instruction, an input (liked, disliked, target), and an answer, `Yes.` or `No.`
  collm     one question about the last ten liked items and the target, answered ` Yes` or ` No`

Two templates of each:
  paper     the negative prompt says "dislike" in every place that names the question
  released  what the published code feeds. tallrec: the instruction is inverted but the last input
            line is not, so the negative prompt contradicts itself; a lint comment has slipped into
            the header (9 tokens of every prompt); a book as target has a second pair of quotes.
            collm: a line break is the two characters `\\n`, and no history is `unkow`
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from data.interactions import Interaction, Item
from errors import DataError

TEMPLATES = ("paper", "released")
Catalogue = dict[int | str, Item]


@dataclass(frozen=True)
class PromptPair:
    """The same question in both polarities; the answers stand right behind their prompts."""

    positive: str
    negative: str
    answer_positive: str
    answer_negative: str


@dataclass(frozen=True)
class Wording:
    """like, dislike: the words that training asks with; answers: to "yes" (True) and "no" (False).

    held_out: questions that no training asks (`eval.py --negations`), True where the answer is that
    to `like`. latest_likes: a prompt shows so many liked items, the latest, and no disliked ones; None:
    it shows the whole history. text: (row, catalogue, noun, template, question) -> prompt.
    """

    like: str
    dislike: str
    answers: dict[bool, str]
    held_out: dict[str, bool]
    latest_likes: int | None
    text: Callable[[Interaction, Catalogue, str, str, str], str]


def prompt_pair(
    row: Interaction,
    catalogue: Catalogue,
    noun: str,
    template: str = "paper",
    question: str | None = None,
    wording: str = "tallrec",
) -> PromptPair:
    """Both prompts of an interaction, each ending where the answer begins.

    question: the words of the negative prompt; those of training if None, others are held out.
    """
    words = WORDINGS[wording]
    row, question = as_shown(row, wording), question or words.dislike
    same_answer = words.held_out.get(question, False)
    return PromptPair(
        words.text(row, catalogue, noun, template, words.like),
        words.text(row, catalogue, noun, template, question),
        words.answers[row.label],
        words.answers[row.label == same_answer],
    )


def as_shown(row: Interaction, wording: str) -> Interaction:
    """The row with that part of its history that prompts of this wording show."""
    latest = WORDINGS[wording].latest_likes
    return row if latest is None else replace(row, history=tuple(entry for entry in row.history if entry[1])[-latest:])


# ---- TALLRec ------------------------------------------------------------------------------------

HEADER = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
RELEASED_HEADER = HEADER + "  # noqa: E501"
ALPACA = "{header}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
INSTRUCTION = (
    "Given the user's preference and unpreference, identify whether the user {question} "
    'the target {noun} by answering "Yes." or "No.".'
)
INPUT = (
    "User Preference: {liked}\nUser Unpreference: {disliked}\nWhether the user {question} the target {noun} {target}?"
)


def _tallrec_prompt(row: Interaction, catalogue: Catalogue, noun: str, template: str, question: str) -> str:
    released = template == "released"
    return ALPACA.format(
        header=RELEASED_HEADER if released else HEADER,
        instruction=INSTRUCTION.format(question=question, noun=noun),
        input=_tallrec_input(
            row, catalogue, noun, TALLREC.like if released and question == TALLREC.dislike else question, released
        ),
    )


def _tallrec_input(row: Interaction, catalogue: Catalogue, noun: str, question: str, released: bool) -> str:
    target = catalogue[row.target]
    shown = f'"{_with_author(target)}"' if released and target.author else _with_author(target)
    liked, disliked = (_listed(row, catalogue, _with_author, wanted) for wanted in (True, False))
    return INPUT.format(liked=liked, disliked=disliked, question=question, noun=noun, target=shown)


def _listed(row: Interaction, catalogue: Catalogue, shown: Callable[[Item], str], wanted: bool) -> str:
    return ", ".join(shown(catalogue[item]) for item, liked in row.history if liked == wanted and catalogue[item].title)


def _with_author(item: Item) -> str:
    return f'"{item.title}"{WRITTEN_BY}{item.author}' if item.author else f'"{item.title}"'


WRITTEN_BY = " written by "

# ---- CoLLM, its text-only prompt ----------------------------------------------------------------

QUESTION = (
    "#Question: A user has given high ratings to the following {noun}s: {liked}. Leverage the information to predict "
    'whether the user {question} the {noun} titled {target}? Answer with "Yes" or "No". {line_break}#Answer:'
)


def _collm_prompt(row: Interaction, catalogue: Catalogue, noun: str, template: str, question: str) -> str:
    released = template == "released"
    return QUESTION.format(
        noun=noun,
        liked=_listed(row, catalogue, lambda item: f'"{item.title}"', True) or ("unkow" if released else "unknown"),
        question=question,
        target=f'"{catalogue[row.target].title.strip(" ")}"',
        line_break="\\n" if released else "\n",
    )


TALLREC = Wording(
    like="will like",
    dislike="will dislike",
    answers={True: "Yes.", False: "No."},
    held_out={
        "will not like": False,
        "will not enjoy": False,
        "will hate": False,
        "will be unlikely to like": False,
        "will enjoy": True,
        "is going to like": True,
    },
    latest_likes=None,
    text=_tallrec_prompt,
)
COLLM = Wording(
    like="would enjoy",
    dislike="would dislike",
    answers={True: " Yes", False: " No"},
    held_out={
        "would not enjoy": False,
        "would not like": False,
        "would hate": False,
        "would be unlikely to enjoy": False,
        "would like": True,
        "is going to enjoy": True,
    },
    latest_likes=10,
    text=_collm_prompt,
)
WORDINGS = {"tallrec": TALLREC, "collm": COLLM}

# ---- TALLRec's published rows -------------------------------------------------------------------


def tallrec_row(row: Interaction, catalogue: Catalogue, noun: str) -> dict[str, str]:
    """The interaction as TALLRec publishes it: instruction, input and output (positive polarity)."""
    return {
        "instruction": INSTRUCTION.format(question=TALLREC.like, noun=noun),
        "input": _tallrec_input(row, catalogue, noun, TALLREC.like, released=True),
        "output": TALLREC.answers[row.label],
    }


_TALLREC_INPUT = re.compile(
    r"User Preference: (?P<liked>.*)\nUser Unpreference: (?P<disliked>.*)\n"
    r"Whether the user will like the target (?P<noun>\w+) (?P<target>\".*\")\?"
)


def parse_tallrec_row(fields: dict[str, str], where: str) -> tuple[Interaction, str, Catalogue]:
    """(interaction, noun, its items) from one published row; titles serve as item ids, the user is unknown.

    The published text lists likes before dislikes, so the order between the two is lost.
    Raises DataError, starting with `where`, if the row is not of TALLRec's form.
    """
    match = _TALLREC_INPUT.fullmatch(fields["input"])
    if match is None:
        raise DataError(
            f"{where}: `input` is not of TALLRec's three-line form (User Preference, User Unpreference, Whether ...)"
        )
    # A book as target is quoted as a whole, a film is not.
    target = (
        match["target"][1:-1] if match["target"].startswith('""') and WRITTEN_BY in match["target"] else match["target"]
    )
    items = {"liked": _split_items(match["liked"], where), "disliked": _split_items(match["disliked"], where)}
    (target_item,) = _split_items(target, where)[:1] or [Item("")]
    if fields["output"] not in TALLREC.answers.values():
        raise DataError(f"{where}: `output` is {fields['output'][:20]!r}; expected 'Yes.' or 'No.'")
    history = tuple((_name(item), side == "liked") for side, found in items.items() for item in found)
    row = Interaction(None, history, _name(target_item), fields["output"] == "Yes.")
    catalogue = {_name(item): item for item in (*items["liked"], *items["disliked"], target_item)}
    if tallrec_row(row, catalogue, match["noun"]) != fields:
        raise DataError(f"{where}: the row does not have TALLRec's wording (first: {INSTRUCTION[:60]}...)")
    return row, match["noun"], catalogue


def _split_items(text: str, where: str) -> list[Item]:
    if not text:
        return []
    if text[0] != '"' or len(text) < 2 or (f'"{WRITTEN_BY}' not in text and text[-1] != '"'):
        raise DataError(f'{where}: titles must stand in double quotes and be joined by ", ": {text[:60]}')
    # `"T1" written by A1, "T2", "T3" written by A3`: behind an author stand, up to the next one, the titles
    # of items without an author and the first part of the next that has one.
    items: list[Item] = []
    titles, *rest = (text + ', "').split(f'"{WRITTEN_BY}')
    titles = titles[1:]
    for part in rest:
        *without, title = titles.split('", "')
        author, _, titles = part.partition(', "')
        items += [Item(name) for name in without] + [Item(title, author)]
    return items + [Item(name) for name in titles.split('", "')[:-1]]


def _name(item: Item) -> str:
    return f"{item.title}{WRITTEN_BY}{item.author}" if item.author else item.title
