"""Prompts with placeholders as token ids: each vector has its id where the template has its placeholder."""

from collections.abc import Mapping

from errors import DataError
from protocols import Tokenizer

BREAK = "\n"


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
