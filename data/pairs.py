"""From prompt pairs to token ids, and from P pairs to one batch of rows in blocks.

A batch has one block of positive rows, then one of negative rows, then, for `--kl-forcing shared`, one of negative
prompts with positive answers. Rows are padded on the right: under a causal mask, padding there changes nothing on
its left.

Shape letters: P pairs, B rows (P, 2P or 3P), T tokens, A answer positions.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.interactions import DEFAULT_WORDING, Dataset, Interaction
from data.parts import encode_parts
from data.prompts import PromptPair, as_shown, prompt_pair, wording_of
from errors import DataError
from protocols import Tokenizer

PAD_ID = 0  # any valid id would do: no real token sees it


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt, from its BOS if it has one, and of its answer, up to EOS.

    encode_pairs makes them arrays with 4 bytes a token; lists of Python's integers take 36, and all rows of a data set
    are held in memory.
    """

    prompt: Sequence[int]
    answer: Sequence[int]

    @property
    def ids(self) -> Sequence[int]:
        """Prompt and answer in one."""
        return self.prompt + self.answer

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class EncodedPair:
    """Both rows of one interaction. name: what messages call it; liked: whether yes is right to the positive prompt."""

    positive: Row
    negative: Row
    name: str = ""
    liked: bool = True

    @property
    def length(self) -> int:
        """Tokens of the longer row."""
        return max(len(self.positive), len(self.negative))


@dataclass(frozen=True)
class PairBatch:
    """Rows as tensors, all int64.

    input_ids: (B, T); lengths: (B,), real tokens of each row; positions: (B, A), where the hidden states predict the
    answer's tokens; targets: (B, A), those tokens, -1 beyond the answer's end. pairs: P.
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    pairs: int


@dataclass(frozen=True)
class _About:
    """What the history of a pair does not say. question: as in prompt_pair; vectors: the ids at the placeholders."""

    name: str
    liked: bool
    question: str | tuple[str, str] | None
    vectors: Mapping[str, int]


def answer_ids(tokenizer: Tokenizer, prompt: str, wording: str = DEFAULT_WORDING) -> dict[bool, list[int]]:
    """The token ids of "Yes." (True) and "No." (False) as they follow this prompt, without EOS.

    They are taken in context because a token may depend on the text before it. Raises DataError if a token spans the
    end of the prompt and the start of an answer, or if both answers begin with the same token: one position could then
    not tell them apart.
    """
    answers = wording_of(wording).answers
    ids = {liked: _answer_in_context(tokenizer, prompt, answer) for liked, answer in answers.items()}
    if ids[True][0] == ids[False][0]:
        yes, no = (answer.strip() for answer in answers.values())
        raise DataError(
            f'tokenizer: "{yes}" and "{no}" begin with the same token ({ids[True][0]}) after this prompt, so one '
            "position cannot tell them apart; use a checkpoint with a larger vocabulary"
        )
    return ids


def _answer_in_context(tokenizer: Tokenizer, prompt: str, answer: str) -> list[int]:
    prompt_ids, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + answer)
    if whole[: len(prompt_ids)] != prompt_ids or len(whole) == len(prompt_ids):
        raise DataError(
            f"tokenizer: joins the answer {answer!r} with the end of the prompt ...{prompt[-40:]!r}; "
            "use another template"
        )
    return whole[len(prompt_ids) :]


def encode_pairs(
    rows: list[Interaction],
    data: Dataset,
    tokenizer: Tokenizer,
    template: str,
    max_len: int,
    question: str | Sequence[tuple[str, str]] | None = None,
) -> tuple[list[EncodedPair], int]:
    """Every interaction as a pair of at most max_len tokens a row, and how many of them lost history to fit.

    question: see data.prompts.prompt_pair; or both questions of each row. Truncation drops the oldest items of the
    history, never the target or the answer. Raises DataError if a row is too long even without history.
    """
    answers: dict[str, list[int]] = {}  # filled by _encode

    def encode(shown: list[Interaction], about: list[_About]) -> list[EncodedPair]:
        pairs = [prompt_pair(row, data, template, one.question) for row, one in zip(shown, about, strict=True)]
        return _encode(pairs, about, tokenizer, answers)

    names = [f"row {number} (target {data.catalogue[row.target].title[:80]!r})" for number, row in enumerate(rows)]
    vectors = data.vectors or (lambda row: defaultdict(int))  # where prompts are only measured or shown
    asked = [question] * len(rows) if question is None or isinstance(question, str) else question
    about = [_About(name, row.label, words, vectors(row)) for name, row, words in zip(names, rows, asked, strict=True)]
    shown = [as_shown(row, data.wording) for row in rows]
    encoded, truncated = encode(shown, about), 0
    for i, name in enumerate(names):
        if encoded[i].length > max_len:
            truncated += 1
        while encoded[i].length > max_len:
            if not shown[i].history:
                least, longest = encoded[i].length, tokenizer.longest_row
                advice = (
                    f"the model was made for at most {longest}, so shorten the title"
                    if longest is not None and least > longest
                    else f"use at least --max-len {least}"
                )
                advice = "use fewer --examples" if data.examples else advice
                raise DataError(
                    f"--max-len {max_len}: the prompt of {name} has {least} tokens without any history; {advice}"
                )
            shown[i] = replace(shown[i], history=shown[i].history[1:])
            encoded[i : i + 1] = encode([shown[i]], [about[i]])
    return encoded, truncated


def _encode(
    pairs: list[PromptPair], about: list[_About], tokenizer: Tokenizer, answers: dict[str, list[int]]
) -> list[EncodedPair]:
    """The pairs as token ids, each prompt encoded once, together with its answer.

    answers: the ids of each answer text, filled here; prompts of one template all have the same end, so an answer has
    the same ids after each of them. If a whole row ends with these ids, no token spans the border between prompt and
    answer, and what comes before are the ids of the prompt alone: a tokenizer's merges on one side of a border that no
    token spans do not depend on the other side.
    """
    sides = []
    for pair, of_pair in zip(pairs, about):
        prompts = pair.parts or ((pair.positive,), (pair.negative,))
        sides += [(*side, of_pair.vectors) for side in zip(prompts, (pair.answer_positive, pair.answer_negative))]
    rows = []
    wholes = encode_parts([((*parts[:-1], parts[-1] + answer), vectors) for parts, answer, vectors in sides], tokenizer)
    for (parts, answer, _), whole in zip(sides, wholes):
        prompt = "".join(parts)
        if answer not in answers:
            answers[answer] = _answer_in_context(tokenizer, prompt, answer)
        ids = answers[answer]
        if whole[-len(ids) :] != ids:
            ids = _answer_in_context(tokenizer, prompt, answer)
        rows.append(Row(array("i", whole[: -len(ids)]), array("i", [*ids, tokenizer.eos_id])))
    return [EncodedPair(*sides, of.name, of.liked) for *sides, of in zip(rows[::2], rows[1::2], about)]


def collate(pairs: list[EncodedPair], negatives: bool = True, shared: bool = False) -> PairBatch:
    """One batch: the block of positive rows (X+, Y+), and others if asked for.

    negatives: add the block of negative rows (X-, Y-); shared: add that of negative prompts with positive answers
    (X-, Y+).
    """
    rows = [pair.positive for pair in pairs]
    if negatives:
        rows += [pair.negative for pair in pairs]
    if shared:
        rows += [Row(pair.negative.prompt, pair.positive.answer) for pair in pairs]
    answer_length = max(len(row.answer) for row in rows)
    positions = np.zeros((len(rows), answer_length), dtype=np.int64)  # (B, A)
    targets = np.full((len(rows), answer_length), -1, dtype=np.int64)  # (B, A)
    for i, row in enumerate(rows):
        n = len(row.answer)
        # The hidden state of the prompt's last token predicts the answer's first.
        positions[i, :n] = np.arange(n) + len(row.prompt) - 1
        targets[i, :n] = row.answer
    lengths = torch.tensor([len(row) for row in rows])
    return PairBatch(
        pad_right([row.ids for row in rows]),
        lengths,
        torch.from_numpy(positions),
        torch.from_numpy(targets),
        len(pairs),
    )


def pad_right(rows: list[Sequence[int]]) -> torch.Tensor:
    """Rows of ids as one (B, T) int64 tensor, padded with PAD_ID on the right."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)  # (B, T)
    for i, ids in enumerate(rows):
        padded[i, : len(ids)] = ids
    return torch.from_numpy(padded)


def aligned_positions(lengths_pos: torch.Tensor, lengths_neg: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Every position of P positive rows, with its partner when both rows of a pair are aligned at their ends.

    lengths_*: (P,), tokens. Returns (row, column_pos, column_neg, has_partner), each (N,) with N all tokens of the
    positive rows. If the negative row is shorter, the first positions of the positive row have no partner. "dislike"
    has one token more than "like": so a token after the swapped word is compared with itself, and one before it with
    the token that follows it in the negative row.
    """
    columns = torch.arange(int(lengths_pos.max()), device=lengths_pos.device)
    row, column_pos = (columns < lengths_pos[:, None]).nonzero(as_tuple=True)  # (N,) each
    column_neg = column_pos + (lengths_neg - lengths_pos)[row]
    return row, column_pos, column_neg.clamp(min=0), column_neg >= 0


def next_tokens(input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The token after each position, (B, T), -1 where there is none. input_ids: (B, T); lengths: (B,)."""
    following = input_ids.roll(-1, dims=1)
    last = torch.arange(input_ids.shape[1], device=input_ids.device) >= lengths[:, None] - 1
    return following.masked_fill(last, -1)
