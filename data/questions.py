"""The words in which a question is asked: those that training may draw from, and those that it never shows.

They stand for `{question}` in a prompt: "the user {question} the target movie". Every question asks what the first of
`positives` asks, or the opposite.
Training asks the first positive and the first negative; with `--train-paraphrases N` and `--train-negatives N` each
pair has one of the first N. `eval.py --wordings` asks all of them, and those that are held out, by kind:

    kind               right answer   what changes
    paraphrase         the same       other words, the same meaning
    negated verb       opposite       a negation in front of a verb
    antonym            opposite       another verb
    hedged             opposite       a negation without a word such as "not"
    double negation    the same       the negation of an antonym
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

SAME, OPPOSITE = ("paraphrase", "double negation"), ("negated verb", "antonym", "hedged")
KINDS = (*SAME, *OPPOSITE)


@dataclass(frozen=True)
class Questions:
    """positives, negatives: {words: kind}, what training may ask, in this order; held_out: what it never asks.

    negations: what `eval.py --negations` asks.
    """

    positives: dict[str, str]
    negatives: dict[str, str]
    held_out: dict[str, str]
    negations: tuple[str, ...]

    @property
    def kinds(self) -> dict[str, str]:
        """{words: kind} of every question, in the order in which they are shown."""
        return self.positives | self.negatives | self.held_out

    def same_answer(self, question: str) -> bool:
        """Whether this question has the same right answer as the first positive."""
        return self.kinds[question] in SAME


def possible_questions(questions: Questions, positives: int, negatives: int) -> tuple[tuple[str, str], ...]:
    """(positive, negative) words, each combination that a pair may be asked; the first is like and dislike."""
    return tuple(product(list(questions.positives)[:positives], list(questions.negatives)[:negatives]))


def drawn_questions(
    questions: Questions, positives: int, negatives: int, pairs: int, seed: int
) -> list[tuple[str, str]]:
    """(positive, negative) words for each pair, from the first so many of each.

    A draw is fixed for the run, so that an epoch shows a pair as the one before did. Each question has the same number
    of pairs, as far as that is possible. With one of each, nothing is drawn.
    """
    sides = []
    for which, (words, count) in enumerate(((questions.positives, positives), (questions.negatives, negatives))):
        pool = list(words)[:count]
        order = np.random.default_rng([seed, which]).permutation(pairs) if count > 1 else np.arange(pairs)
        sides.append([pool[i % len(pool)] for i in order])
    return list(zip(*sides))


TALLREC = Questions(
    positives={
        "will like": "paraphrase",
        "is going to like": "paraphrase",
        "will be fond of": "paraphrase",
        "will probably like": "paraphrase",
    },
    negatives={
        "will dislike": "antonym",
        "will not like": "negated verb",
        "will hate": "antonym",
        "will be unlikely to like": "hedged",
        "will not be fond of": "negated verb",
        "will detest": "antonym",
        "will hardly like": "hedged",
        "will not care for": "negated verb",
    },
    held_out={
        "will not enjoy": "negated verb",
        "will loathe": "antonym",
        "will fail to enjoy": "hedged",
        "will not dislike": "double negation",
        "will enjoy": "paraphrase",
        "is likely to enjoy": "paraphrase",
    },
    negations=(
        "will not like",
        "will not enjoy",
        "will hate",
        "will be unlikely to like",
        "will enjoy",
        "is going to like",
    ),
)
COLLM = Questions(
    positives={
        "would enjoy": "paraphrase",
        "is going to enjoy": "paraphrase",
        "would be fond of": "paraphrase",
        "would probably enjoy": "paraphrase",
    },
    negatives={
        "would dislike": "antonym",
        "would not enjoy": "negated verb",
        "would hate": "antonym",
        "would be unlikely to enjoy": "hedged",
        "would not be fond of": "negated verb",
        "would detest": "antonym",
        "would hardly enjoy": "hedged",
        "would not care for": "negated verb",
    },
    held_out={
        "would not like": "negated verb",
        "would loathe": "antonym",
        "would fail to like": "hedged",
        "would not dislike": "double negation",
        "would like": "paraphrase",
        "is likely to like": "paraphrase",
    },
    negations=(
        "would not enjoy",
        "would not like",
        "would hate",
        "would be unlikely to enjoy",
        "would like",
        "is going to enjoy",
    ),
)
