"""One split of a data set as token ids, ready for training or scoring."""

from dataclasses import dataclass

from data.interactions import Dataset, Interaction
from data.pairs import EncodedPair, answer_ids, encode_pairs
from data.prompts import prompt_pair
from errors import notice
from protocols import Tokenizer


@dataclass(frozen=True)
class Split:
    """The interactions of one split, and the same as token ids.

    truncated: how many of them lost history to fit; answers: the token ids of both answers, see answers_in_context.
    """

    rows: list[Interaction]
    pairs: list[EncodedPair]
    truncated: int
    answers: dict[bool, list[int]]


def answers_in_context(data: Dataset, tokenizer: Tokenizer, template: str) -> dict[bool, list[int]]:
    """The token ids of "yes" (True) and "no" (False) after this data set's prompts, which all have the same end."""
    prompt = prompt_pair(data.test[0], data, template).positive
    return answer_ids(tokenizer, prompt, data.wording)


def encode_split(
    rows: list[Interaction],
    data: Dataset,
    tokenizer: Tokenizer,
    template: str,
    max_len: int,
    *,
    question: str | None = None,
) -> Split:
    """The rows as token ids. question: see prompt_pair.

    A notice says how many prompts lost history to fit max_len, or are longer than what the model was made for.
    """
    answers = answers_in_context(data, tokenizer, template)
    pairs, truncated = encode_pairs(rows, data, tokenizer, template, max_len, question)
    if truncated:
        notice(f"--max-len {max_len}: {truncated:,} of {len(rows):,} prompts lost their oldest history items")
    if tokenizer.longest_row is not None and max_len > tokenizer.longest_row:
        too_long = [pair.length for pair in pairs if pair.length > tokenizer.longest_row]
        if too_long:
            notice(
                f"WARNING: {len(too_long):,} of {len(rows):,} prompts have more tokens (up to {max(too_long):,}) than "
                f"the model was made for ({tokenizer.longest_row:,}, max_position_embeddings), so its answers to them "
                f"mean little; pass --max-len {tokenizer.longest_row}"
            )
    return Split(rows, pairs, truncated, answers)
