"""One forward pass over all prompts: what the model answers, in both polarities, as arrays.

Prompts in the order of their token ids make a prefix tree (model/prefix_tree.py). The template, and what consecutive
samples of one user share, go through the model once. Only the last token of each prompt goes through the last layer and
lm_head.

Shape letters: N pairs, R prompts, B rows of a batch, D hidden_size, V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from data.pairs import EncodedPair, pad_right
from data.splits import SIGMOID, SOFTMAX, Split
from errors import RunError
from loss import jensen_shannon, log_probabilities, token_kl
from machine.bar import Bar
from machine.memory import give_back_freed_memory
from metrics import Scored
from model.llama import Llama
from model.prefix_tree import prefix_tree

COLUMNS = tuple(
    field.name for field in fields(Scored) if field.name not in ("users", "labels", "odds", "score", "others", "same")
)  # in this order
TOKENS_PER_BATCH = 4096  # distinct ones; on a CPU twice as many were no faster, and take twice the memory
LOGITS_PER_BATCH = 2**22  # at lm_head, of one polarity: 16 MB in float32


def score(model: Llama, split: Split, negatives: bool = True, progress: str | None = None) -> Scored:
    """The answer to every pair's positive prompt and, unless told otherwise, to its negative one.

    Without negatives the log-probabilities are those among the two answers only, which is all that an AUC needs. The
    first token of each answer counts. If the split's reading is "sigmoid", they are log sigmoid(z) and log sigmoid(-z)
    of the raw logit of yes, z, so that the log-odds are z itself. progress: the name of the progress bar; none if None.
    The model is left in evaluation mode.
    """
    model.eval()
    pairs, (yes, no) = split.pairs, (split.answers[liked][0] for liked in (True, False))
    prompts = [pair.positive.prompt for pair in pairs] + ([pair.negative.prompt for pair in pairs] if negatives else [])
    with torch.inference_mode():
        hidden_states = last_hidden(model, prompts, progress)  # (R, D)
        two_rows = torch.stack([model.lm_head.weight[token] for token in (yes, no)]).float()  # (2, D)
        if negatives:
            scores = _both_answers(model, hidden_states, yes, no)
        elif split.reading == SOFTMAX:
            log_p = log_probabilities(hidden_states.float() @ two_rows.T)  # (N, 2)
            scores = dict(zip(COLUMNS, log_p.unbind(1)))
        if split.reading == SIGMOID:
            sides = (hidden_states.float() @ two_rows[0]).chunk(2 if negatives else 1)  # the logit of yes, (N,) each
            signs = [logsigmoid(sign * side) for side in sides for sign in (1, -1)]
            scores = (scores if negatives else {}) | dict(zip(COLUMNS, signs))
        columns = dict(zip(scores, torch.stack(list(scores.values())).double().cpu().numpy()))  # one copy from a GPU
    give_back_freed_memory()
    refuse_non_finite(columns, pairs)
    labels = np.array([row.label for row in split.rows], dtype=bool)
    return Scored([row.user for row in split.rows], labels, **columns)


def _both_answers(model: Llama, hidden_states: Tensor, yes: int, no: int) -> dict[str, Tensor]:
    """Columns of Scored, (N,) each. hidden_states: (2N, D), those of all positive prompts first."""
    # A score is a difference of logits: in bf16, logits around 16 are 1/16 apart. One float32 copy
    # of lm_head serves all batches; it meets a single position per prompt.
    lm_head = model.lm_head.weight.float()  # (V, D)
    batches = []
    for sides in zip(*(side.split(pairs_per_batch(len(lm_head))) for side in hidden_states.chunk(2))):
        pos, neg = (log_probabilities(side.float() @ lm_head.T) for side in sides)  # (B, V) each
        batches.append((pos[:, yes], pos[:, no], neg[:, yes], neg[:, no], token_kl(pos, neg), jensen_shannon(pos, neg)))
    return {name: torch.cat(parts) for name, parts in zip(COLUMNS, zip(*batches))}


def pairs_per_batch(vocabulary: int) -> int:
    """How many pairs are scored at once at lm_head: two distributions over the vocabulary for each."""
    return max(1, min(256, LOGITS_PER_BATCH // vocabulary))


def last_hidden(model: Llama, prompts: list[Sequence[int]], progress: str | None = None) -> Tensor:
    """The final hidden state of every prompt's last token: (R, D), in the prompts' order."""
    hidden_states: list[Tensor] = [torch.empty(0)] * len(prompts)
    with Bar(len(prompts), progress, "prompts") if progress else contextlib.nullcontext() as bar:
        for batch in _batches(prompts):
            rows = [prompts[i] for i in batch]
            lengths = torch.tensor([len(row) for row in rows])
            tree = prefix_tree(model, pad_right(rows), lengths, lengths[:, None] - 1)
            for i, hidden in zip(batch, model.model(tree.input_ids, tree)):  # (B, D)
                hidden_states[i] = hidden
            if bar:
                bar.update(len(batch))
    return torch.stack(hidden_states)


def _batches(prompts: list[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of prompts in the order of their tokens, in runs of at most TOKENS_PER_BATCH distinct tokens.

    A longer prompt is a run of its own.
    """
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(prompts)), key=lambda i: list(prompts[i])):
        own = len(prompts[i]) - _shared(prompts[batch[-1]], prompts[i]) if batch else len(prompts[i])
        if batch and tokens + own > TOKENS_PER_BATCH:
            yield batch
            batch, tokens, own = [], 0, len(prompts[i])
        batch.append(i)
        tokens += own
    if batch:
        yield batch


def distinct_tokens(prompts: list[Sequence[int]]) -> int:
    """Tokens of the prefix tree of all prompts: what scoring them takes, but for what its batches compute again."""
    ordered = sorted(map(list, prompts))
    return sum(map(len, ordered)) - sum(_shared(a, b) for a, b in zip(ordered, ordered[1:]))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def refuse_non_finite(columns: dict[str, np.ndarray], pairs: list[EncodedPair]) -> None:
    """Raises RunError naming the first pair whose scores are not finite: no metric could use them."""
    for name, values in columns.items():
        for i in np.flatnonzero(~np.isfinite(values))[:1]:
            raise RunError(f"{name} of {pairs[i].name} is {values[i]}; the adapter or the base is damaged")
