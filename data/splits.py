"""One split of a data set as token ids, ready for training or scoring."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.interactions import Dataset, Interaction
from data.pairs import EncodedPair, answer_ids, encode_pairs
from data.prompts import prompt_pair
from errors import DataError, notice
from protocols import Tokenizer

SUBSET_SEED = 0  # not --seed: runs with different seeds are scored on the same rows
# Which probability of yes is read from the logits: softmax over {yes, no}, or sigmoid of yes alone.
SOFTMAX, SIGMOID = READINGS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Chosen:
    """Which rows of a whole split are used.

    numbers: theirs, from 0, in the order of the split; of: rows of the whole split; too_long: rows that do not fit.
    """

    numbers: list[int]
    of: int
    too_long: int = 0

    def as_dict(self) -> dict:
        """For results.json."""
        return {"rows": len(self.numbers), "of": self.of, "too_long": self.too_long, "subset_seed": SUBSET_SEED}


@dataclass(frozen=True)
class Wanted:
    """What to take of a split, and how.

    split: what messages call it; count: rows of a seeded subset, None for all; flag: which flag says so; drop_long:
    leave out rows that are too long even without history; questions: others than `dislike` that must fit, too.
    """

    split: str
    template: str
    max_len: int
    drop_long: bool = False
    count: int | None = None
    flag: str = "--rows"
    questions: tuple[str | tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Other:
    """The rows of a split asked in other words, which stand in the place of the negative prompts.

    same: whether the same answer is right as to the positive prompts.
    """

    same: bool
    pairs: list[EncodedPair]


@dataclass(frozen=True)
class Split:
    """The interactions of one split, and the same as token ids.

    truncated: how many of them lost history to fit; answers: the token ids of both answers, see answers_in_context;
    chosen: which rows of the whole split they are, None for all; reading: one of READINGS; others: the same rows in
    other words.
    """

    rows: list[Interaction]
    pairs: list[EncodedPair]
    truncated: int
    answers: dict[bool, list[int]]
    chosen: Chosen | None = None
    reading: str = SOFTMAX
    others: tuple[Other, ...] = ()

    @property
    def all_pairs(self) -> list[EncodedPair]:
        """Those in other words, too."""
        return [*self.pairs, *(pair for other in self.others for pair in other.pairs)]

    @property
    def numbers(self) -> Sequence[int]:
        """The number of each row in the whole split, from 0."""
        return self.chosen.numbers if self.chosen else range(len(self.rows))


def chosen_rows(split: Split) -> dict:
    """{"chosen": ...} for the results of a part of a split, {} for those of a whole one."""
    return {"chosen": split.chosen.as_dict()} if split.chosen else {}


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
    question: str | Sequence[tuple[str, str]] | None = None,
) -> Split:
    """The rows as token ids. question: see encode_pairs.

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


def encode_wanted(rows: list[Interaction], data: Dataset, tokenizer: Tokenizer, wanted: Wanted) -> Split:
    """The wanted rows of a whole split as token ids.

    The same count chooses the same rows in every run, and a smaller count chooses some of them. Raises DataError if
    there are fewer rows than wanted, or none.
    """
    fits = rows_that_fit(rows, data, tokenizer, wanted) if wanted.drop_long else [True] * len(rows)
    order = range(len(rows)) if wanted.count is None else np.random.default_rng(SUBSET_SEED).permutation(len(rows))
    usable = [int(i) for i in order if fits[i]]
    if not usable:
        raise DataError(f"--max-len {wanted.max_len}: no row of the {wanted.split} split fits; choose a larger one")
    refuse_more_than(wanted.count, usable, wanted.flag)
    numbers = sorted(usable[: wanted.count])
    split = encode_split([rows[i] for i in numbers], data, tokenizer, wanted.template, wanted.max_len)
    return replace(split, chosen=Chosen(numbers, len(rows), fits.count(False)) if len(numbers) < len(rows) else None)


def refuse_more_than(count: int | None, rows: Sequence, flag: str) -> None:
    """Raises DataError, naming `flag`, if there are fewer rows than `count`."""
    if count is not None and count > len(rows):
        raise DataError(f"{flag} {count}: there are {len(rows):,} such rows; choose 1 to {len(rows)}, or leave it out")


def rows_that_fit(rows: list[Interaction], data: Dataset, tokenizer: Tokenizer, wanted: Wanted) -> list[bool]:
    """Whether each row has at most max_len tokens without its history, with a notice of how many have more."""
    bare = {(row.target, row.label): replace(row, history=()) for row in rows}
    fits = dict.fromkeys(bare, True)
    for question in (None, *wanted.questions):
        asked = [question] * len(bare) if isinstance(question, tuple) else question
        pairs, _ = encode_pairs(list(bare.values()), data, tokenizer, wanted.template, 2**62, asked)
        fits |= {key: fits[key] and pair.length <= wanted.max_len for key, pair in zip(bare, pairs)}
    found = [fits[row.target, row.label] for row in rows]
    if not all(found):
        first = found.index(False)
        notice(
            f"--drop-long: {found.count(False):,} of {len(rows):,} rows of the {wanted.split} split have more than "
            f"--max-len {wanted.max_len} tokens without any history; they are left out, first row {first} "
            f"({data.catalogue[rows[first].target].title[:60]!r})"
        )
    return found
