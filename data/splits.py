"""One split of a data set as token ids, ready to be trained on or scored."""

from collections.abc import Callable
from dataclasses import dataclass

from data.interactions import Dataset, Interaction
from data.pairs import EncodedPair, answer_ids, encode_pairs
from data.prompts import prompt_pair


@dataclass(frozen=True)
class Split:
    """Interactions of one split and the same as token ids; truncated: rows that lost history."""

    rows: list[Interaction]
    pairs: list[EncodedPair]
    truncated: int


def answers_in_context(data: Dataset, tokenizer, template: str) -> dict[bool, list[int]]:
    """The answers' token ids after this data set's prompts, which all end alike."""
    prompt = prompt_pair(data.test[0], data, template).positive
    return answer_ids(tokenizer, prompt, data.wording)


def encode_split(
    rows: list[Interaction],
    data: Dataset,
    tokenizer,
    template: str,
    max_len: int,
    say: Callable[[str], None],
    question: str | None = None,
) -> Split:
    """The rows as token ids; says how many prompts had to lose history to fit max_len. question: see data.prompts.prompt_pair."""
    pairs, truncated = encode_pairs(rows, data, tokenizer, template, max_len, question)
    if truncated:
        say(f"--max-len {max_len}: {truncated:,} of {len(rows):,} prompts lost their oldest history items")
    return Split(rows, pairs, truncated)
