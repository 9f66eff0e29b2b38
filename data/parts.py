"""Prompts with placeholders: their forms, and their token ids, with a vector's id where the form has its placeholder.

data/prompts.py has all other words.
"""

import re
from collections.abc import Mapping

from errors import DataError
from protocols import Tokenizer

BREAK = "\n"
PLACEHOLDER = re.compile(r"(<(?:User|TargetItem)ID\d?>)")
INPUT_WITH_VECTORS = (
    "User Preference: {liked}\nUser Unpreference: {disliked}\nUser Feature: <UserID>\n"
    "Whether the user {question} the target {noun} {target} with the feature <TargetItemID>?"
)
WITH_VECTORS = (
    "#Question: A user has given high ratings to the following {noun}s: {liked}. Additionally, we have information "
    "about the user's preferences encoded in the feature <UserID>. Using all available information, make a prediction "
    "about whether the user {question} the {noun} titled {target} with the feature <TargetItemID>? "
    'Answer with "Yes" or "No". {line_break}#Answer:'
)
PROMPT4NR = (  # CoLLM's form of Prompt4NR: each feature is three vectors, between which the published dots stay
    "#Question: <UserID1>.<UserID2>.<UserID3> {liked} [SEP] <TargetItemID1>.<TargetItemID2>.<TargetItemID3> {target} "
    "[SEP] Using all available information, make a prediction about whether the user {question} the {noun}? "
    'Answer with "Yes" or "No". {line_break}#Answer:'
)
PLACES_OF_SOFT_PROMPT = tuple(PLACEHOLDER.findall(PROMPT4NR))
# The templates with placeholders, by what stands there: a recommender's vectors, or learnt ones.
WITH_COLLABORATIVE, WITH_SOFT_PROMPT = ("collm", "collm-released"), ("prompt4nr",)
# The template that asks the same in text alone: that of stage 1, and of a base that has not been tuned.
WITHOUT_VECTORS = {"collm": "tallrec", "collm-released": "released", "prompt4nr": "tallrec"}


def filled_in(form: str, fields: dict[str, str]) -> str | tuple[str, ...]:
    """The form with its fields, split at the placeholders that it has: one that a title contains is text."""
    parts = tuple(part if i % 2 else part.format(**fields) for i, part in enumerate(PLACEHOLDER.split(form)))
    return parts if len(parts) > 1 else parts[0]


def encode_parts(prompts: list[tuple[tuple[str, ...], Mapping[str, int]]], tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of (text, placeholder, text, ...), with the id of each placeholder in its place; text alone, too.

    Text after a vector is encoded as it is after a line break, which begins no word, and so adds no space. What a title
    contains cannot shift a vector: its place is where the template has it, not where some id is found. Raises DataError
    if a token would span the line break.
    """
    texts = [text if i == 0 else BREAK + text for parts, _ in prompts for i, text in enumerate(parts[::2])]
    encoded, lead = iter(tokenizer.encode_all(texts)), tokenizer.encode(BREAK)
    found = []
    for parts, ids in prompts:
        whole = list(next(encoded))
        for placeholder, text in zip(parts[1::2], parts[2::2]):
            after = next(encoded)
            if after[: len(lead)] != lead:
                raise DataError(f"tokenizer: joins a line break with {text[:20]!r}, so no vector can stand before that")
            whole += [ids[placeholder], *after[len(lead) :]]
        found.append(whole)
    return found
