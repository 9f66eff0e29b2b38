"""From an interaction to text: two prompts and two answers. Only this file, questions.py and parts.py know words.

LCFT asks every question twice: whether the user will *like* the target (positive prompt), and whether
the user will *dislike* it (negative prompt). The right answer to the second is the opposite of the first.

Two wordings, one for each recommender that is fine-tuned (`Dataset.wording`):
  tallrec   an instruction, an input (liked, disliked, target), and an answer, `Yes.` or `No.`
  collm     one question about the last ten liked items and the target, answered ` Yes` or ` No`

Templates (`--template`):
  tallrec   TALLRec's wording (or CoLLM's, mended); the negative prompt says "dislike" wherever the question stands
  printed   the paper's own words, sections 3.2 and 4.2; its input asks nothing and stays the same; not for collm
  released  the text that the published code feeds to the model, mistakes included
  collm, collm-released, prompt4nr  with placeholders, for vectors that are no token's: docs/collaborative.md
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

from data import questions
from data.interactions import Dataset, Interaction, Item
from data.own_wording import filled, parse_own_wording
from data.parts import INPUT_WITH_VECTORS, PROMPT4NR, WITH_VECTORS, filled_in
from errors import FlagError


@dataclass(frozen=True)
class PromptPair:
    """The same question in both polarities. An answer follows its prompt directly, without a space between.

    parts: both prompts again, each as text, placeholder, text, ...; () where the template has no placeholder.
    """

    positive: str
    negative: str
    answer_positive: str
    answer_negative: str
    parts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Wording:
    """A family of prompts.

    questions: the words that training asks with, and those that it never does
    answers: the texts that say yes (True) and no (False)
    latest_likes: show only so many liked items, the latest, and no disliked ones; None: show the whole history
    templates: by name, (row, data, question) -> the prompt, up to where the answer begins, text, placeholder, text, ...
    """

    questions: questions.Questions
    answers: dict[bool, str]
    latest_likes: int | None
    templates: dict[str, Callable[[Interaction, Dataset, str], str | tuple[str, ...]]]

    @property
    def like(self) -> str:
        """The positive question."""
        return next(iter(self.questions.positives))

    @property
    def dislike(self) -> str:
        """The negative question."""
        return next(iter(self.questions.negatives))

    @property
    def held_out(self) -> dict[str, bool]:
        """{what `eval.py --negations` asks: whether the same answer as to `like` is right}."""
        return {words: self.questions.same_answer(words) for words in self.questions.negations}


@cache
def wording_of(text: str) -> Wording:
    """The wording that a data set's text stands for: a key of WORDINGS, or the JSON of an own one.

    Raises ValueError if it is neither.
    """
    if text in WORDINGS:
        return WORDINGS[text]
    own = parse_own_wording(text)
    write = {"tallrec": lambda row, data, question: filled(own.prompt, _fields(row, data, question))}
    return Wording(own.questions, own.answers, None, write)


def prompt_pair(
    row: Interaction, data: Dataset, template: str = "tallrec", question: str | tuple[str, str] | None = None
) -> PromptPair:
    """Both prompts of an interaction and the right answer to each.

    question: the words of the negative prompt, or of the positive and the negative one; None: `like` and `dislike`.
    Raises FlagError if the wording has no such template.
    """
    wording, row = wording_of(data.wording), as_shown(row, data.wording)
    asked, question = question if isinstance(question, tuple) else (wording.like, question or wording.dislike)
    if template not in wording.templates:
        raise FlagError(f"--template {template}: not for --data {data.name}; choose {' or '.join(wording.templates)}")
    write, prompts, answers = wording.templates[template], [], []
    for words in (asked, question):
        same_answer, before = wording.questions.same_answer(words), ""
        for example in data.examples(row) if data.examples else ():  # questions of other rows, answered
            worked = write(as_shown(example, data.wording), data, words)
            before += worked + wording.answers[example.label == same_answer] + "\n\n"
        prompt = write(row, data, words)
        prompts.append(before + prompt if before else prompt)
        answers.append(wording.answers[row.label == same_answer])
    parts = () if isinstance(prompts[0], str) else tuple(prompts)
    return PromptPair(*map("".join, prompts), *answers, parts)


def as_shown(row: Interaction, wording: str) -> Interaction:
    """The row with only that part of its history which prompts of this wording show."""
    latest = wording_of(wording).latest_likes
    return row if latest is None else replace(row, history=tuple(entry for entry in row.history if entry[1])[-latest:])


def _listed(row: Interaction, data: Dataset, shown: Callable[[Item], str], wanted: bool) -> str:
    """The liked (or disliked) items of the history, oldest first; items without a title are left out."""
    items = (data.catalogue[item] for item, liked in row.history if liked == wanted)
    return ", ".join(shown(item) for item in items if item.title)


# ---- TALLRec ------------------------------------------------------------------------------------

HEADER = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
RELEASED_HEADER = HEADER + "  # noqa: E501"  # a lint comment of the published code, 9 tokens of every prompt
ALPACA = "{header}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
INSTRUCTION = (
    "Given the user's preference and unpreference, identify whether the user {question} "
    'the target {noun} by answering "Yes." or "No.".'
)
INPUT = (
    "User Preference: {liked}\nUser Unpreference: {disliked}\nWhether the user {question} the target {noun} {target}?"
)
WRITTEN_BY = " written by "
# The paper prints "will likes", which is mended, and no frame around the two parts; here it is ALPACA.
PRINTED = (
    "Given the user's historical interactions, please determine whether the user {question} "
    'the target new {noun} by answering "Yes" or "No".',
    "User's liked items: {liked}. User's disliked items: {disliked}. Target new {noun}: {target}",
)


def _tallrec(row: Interaction, data: Dataset, question: str, form: tuple[str, str] = (INSTRUCTION, INPUT)) -> str:
    fields = _fields(row, data, question)
    instruction, input_ = (part.format(**fields) for part in form)
    return ALPACA.format(header=HEADER, instruction=instruction, input=input_)


def _tallrec_released(row: Interaction, data: Dataset, question: str) -> str:
    # The published code inverts the instruction but not the last input line: the negative prompt contradicts itself.
    in_input = TALLREC.like if question == TALLREC.dislike else question
    return ALPACA.format(
        header=RELEASED_HEADER,
        instruction=INSTRUCTION.format(question=question, noun=data.noun),
        input=released_input(row, data, in_input),
    )


def released_input(row: Interaction, data: Dataset, question: str) -> str:
    """The three input lines as published: a book as target has a second pair of quotes."""
    item = data.catalogue[row.target]
    target = f'"{_with_author(item)}"' if item.author else _with_author(item)
    return INPUT.format(**_fields(row, data, question) | {"target": target})


def _fields(row: Interaction, data: Dataset, question: str) -> dict[str, str]:
    liked, disliked = (_listed(row, data, _with_author, wanted) for wanted in (True, False))
    target = _with_author(data.catalogue[row.target])
    return {"liked": liked, "disliked": disliked, "question": question, "noun": data.noun, "target": target}


def _tallrec_with_vectors(row: Interaction, data: Dataset, question: str) -> str | tuple[str, ...]:
    # No paper has this form: CoLLM's two sentences about its features, in TALLRec's frame.
    form = ALPACA.format(header=HEADER, instruction=INSTRUCTION, input=INPUT_WITH_VECTORS)
    return filled_in(form, _fields(row, data, question))


def _with_author(item: Item) -> str:
    return f'"{item.title}"{WRITTEN_BY}{item.author}' if item.author else f'"{item.title}"'


TALLREC = Wording(
    questions.TALLREC,
    answers={True: "Yes.", False: "No."},
    latest_likes=None,
    templates={
        "tallrec": _tallrec,
        "printed": partial(_tallrec, form=PRINTED),
        "released": _tallrec_released,
        "collm": _tallrec_with_vectors,
    },
)

# ---- CoLLM --------------------------------------------------------------------------------------

QUESTION = (
    "#Question: A user has given high ratings to the following {noun}s: {liked}. Leverage the information to predict "
    'whether the user {question} the {noun} titled {target}? Answer with "Yes" or "No". {line_break}#Answer:'
)
PUBLISHED = ("\\n", "unkow")  # in the published text the line break is the two characters `\n`, and no history `unkow`


def _collm(
    row: Interaction, data: Dataset, question: str, form: str = QUESTION, words: tuple[str, str] = ("\n", "unknown")
) -> str | tuple[str, ...]:
    line_break, no_history = words
    fields = {
        "noun": data.noun,
        "liked": _listed(row, data, lambda item: f'"{item.title}"', wanted=True) or no_history,
        "question": question,
        "target": f'"{data.catalogue[row.target].title.strip(" ")}"',
        "line_break": line_break,
    }
    return filled_in(form, fields)


COLLM = Wording(
    questions.COLLM,
    answers={True: " Yes", False: " No"},
    latest_likes=10,
    templates={
        "tallrec": _collm,
        "released": partial(_collm, words=PUBLISHED),
        "collm": partial(_collm, form=WITH_VECTORS),
        "collm-released": partial(_collm, form=WITH_VECTORS, words=PUBLISHED),
        "prompt4nr": partial(_collm, form=PROMPT4NR, words=PUBLISHED),
    },
)

WORDINGS = {"tallrec": TALLREC, "collm": COLLM}
# What --template takes; a wording may lack some of them.
TEMPLATES = tuple(dict.fromkeys(name for wording in WORDINGS.values() for name in wording.templates))
RENAMED = {"paper": "tallrec"}  # names that --template had before, as runs may have recorded them
