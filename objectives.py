"""What each --objective feeds to the model, and the loss that it computes from the logits.

An objective is a small frozen dataclass. Its fields are the flags that it uses; the command line refuses every other
flag of the loss together with it. The loop, the plan, the tables and resuming ask the objective; none names one.

To add one: its equation in loss.py, a class here, a line in OBJECTIVES, its row in docs/method.md, and a test.

Shape letters: P pairs, B rows (P, 2P or 3P in blocks), A answer positions, N tokens of all positive rows, U distinct
(token, partner, next token) among them, D hidden_size, V vocabulary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from data.pairs import EncodedPair, PairBatch, aligned_positions, collate, next_tokens
from loss import (
    PairTerms,
    answer_terms,
    log_probabilities,
    paper_loss,
    released_loss,
    sequence_terms,
    token_cross_entropy,
)
from model.llama import Llama
from model.prefix_tree import prefix_tree, take
from tensors import on_device

TERMS = ("ce_pos", "ce_neg", "kl")  # recorded of every step, 0 where an objective has no such term


class PairLoss(NamedTuple):
    """loss: scalar, a micro-batch's share of the step's loss; terms: {name: (P,) nats}; tokens: of all rows."""

    loss: Tensor
    terms: dict[str, Tensor]
    tokens: int


class Objective(ABC):
    """What the loop, the plan, the tables and resuming may ask of any objective."""

    about: ClassVar[str]  # a few words for tables
    rows_per_pair: ClassVar[int]  # rows that one pair feeds to the model
    whole_rows: ClassVar[bool] = False  # whether the loss looks at every token of a row, not at the answer alone
    any_micro_batch: ClassVar[bool] = True  # whether every way of cutting a step gives the same gradient

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """{flag: (value, name of the preset)} for this objective on `--data data`; a flag of the user comes first."""
        return {}

    @property
    def rows_with_gradient(self) -> int:
        """Those of the rows that need a graph."""
        return self.rows_per_pair

    @abstractmethod
    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """The micro-batch's share of the loss of a step of `pairs_in_step` pairs, with its graph."""


@dataclass(frozen=True)
class Paper(Objective):
    """Eq. 1-3 at the answer tokens. With kl_weight 0 it is the control: both prompts, no KL."""

    kl_weight: float = 1e-4  # lambda
    kl_forcing: str = "own"
    kl_tokens: str = "all"
    kl_cap: float | None = None
    about = "Eq. 1-3"

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """Appendix B: lambda is 1e-4 for movie and ml-1m, which is the default, and 1e-5 for books."""
        return {"kl_weight": (1e-5, data)} if data in ("book", "amazon-book") else {}

    @property
    def rows_per_pair(self) -> int:
        """(X+, Y+) and (X-, Y-); with shared forcing (X-, Y+) too."""
        return 3 if self.kl_forcing == "shared" else 2

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """Eq. 3; its terms are Eq. 1 and Eq. 2, summed over the answer tokens."""
        batch = rows_in_blocks(pairs, self.rows_per_pair)
        logits, targets = answer_logits(model, batch)  # (B, A, V), (B, A)
        terms = answer_terms(logits, targets, batch.pairs, kl_tokens=self.kl_tokens, kl_cap=self.kl_cap)
        loss = paper_loss(terms, self.kl_weight, pairs_in_step)
        return PairLoss(loss, {name: term.sum(-1) for name, term in terms._asdict().items()}, int(batch.lengths.sum()))


@dataclass(frozen=True)
class Released(Objective):
    """What the authors' published code computes; docs/method.md puts it beside the paper's equations."""

    kl_weight: float
    batch_size: int
    micro_batch_size: int
    about = "the loss of the published code, with the wording and settings of this run"
    rows_per_pair, rows_with_gradient = 2, 1  # (X+, Y+) and (X-, Y-), of which the published code detaches the second
    whole_rows, any_micro_batch = True, False  # it looks at prompt, answer and after, and divides by the micro-batch

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """Its wording, its dropout, and no weight decay; lambda is 1e-4 for every data set."""
        values = {"template": "released", "weight_decay": 0.0, "lora_dropout": 0.05}
        return {name: (value, "released") for name, value in values.items()}

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """loss.released_loss; pairs_in_step plays no part in it."""
        accumulation_steps = math.ceil(self.batch_size / self.micro_batch_size)
        return whole_row_loss(model, rows_in_blocks(pairs, self.rows_per_pair), self.kl_weight, accumulation_steps)


@dataclass(frozen=True)
class TALLRec(Objective):
    """Cross-entropy of the positive rows alone: of the answer, or of every token, as TALLRec's script has it."""

    train_on_prompt: bool
    batch_size: int
    micro_batch_size: int
    about = "the baseline: positive prompts only"
    rows_per_pair = 1  # (X+, Y+)

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """No KL, recorded as lambda = 0; TALLRec's dropout."""
        return {"kl_weight": (0.0, "tallrec"), "lora_dropout": (0.05, "tallrec")}

    @property
    def whole_rows(self) -> bool:
        """Only with --train-on-prompt."""
        return self.train_on_prompt

    @property
    def any_micro_batch(self) -> bool:
        """Not with --train-on-prompt, which takes the mean over the tokens of a micro-batch."""
        return not self.train_on_prompt

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """Eq. 3 without its negative rows and its KL; or the published code's loss without its KL."""
        batch = rows_in_blocks(pairs, self.rows_per_pair)
        if self.train_on_prompt:
            return whole_row_loss(model, batch, 0.0, math.ceil(self.batch_size / self.micro_batch_size))
        logits, targets = answer_logits(model, batch)  # (P, A, V), (P, A)
        ce_pos = token_cross_entropy(log_probabilities(logits), targets)  # (P, A)
        nothing = torch.zeros_like(ce_pos)
        loss = paper_loss(PairTerms(ce_pos, nothing, nothing), 0.0, pairs_in_step)
        return PairLoss(loss, {"ce_pos": ce_pos.sum(-1)}, int(batch.lengths.sum()))


OBJECTIVES: dict[str, type[Objective]] = {"paper": Paper, "released": Released, "tallrec": TALLRec}


def make_objective(flags: Mapping) -> Objective:
    """The objective that flags["objective"] names, with its fields from the flags of the same names."""
    objective = OBJECTIVES[flags["objective"]]
    return objective(**{name: flags[name] for name in flags_of(flags["objective"])})


def flags_of(name: str) -> tuple[str, ...]:
    """The flags that this objective uses."""
    return tuple(field.name for field in fields(OBJECTIVES[name]))


def rows_in_blocks(pairs: list[EncodedPair], rows_per_pair: int) -> PairBatch:
    """The first `rows_per_pair` of (X+, Y+), (X-, Y-), (X-, Y+), each a block of P rows."""
    return collate(pairs, negatives=rows_per_pair > 1, shared=rows_per_pair > 2)


def answer_logits(model: Llama, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """(logits (B, A, V), targets (B, A)) at the answer positions, on the model's device."""
    (targets,) = on_device([batch.targets], model.lm_head.weight.device)
    tree = prefix_tree(model, batch.input_ids, batch.lengths, batch.positions)
    return model.lm_head(model.model(tree.input_ids, tree)).view(*targets.shape, -1), targets


def whole_row_loss(model: Llama, batch: PairBatch, kl_weight: float, accumulation_steps: int) -> PairLoss:
    """loss.released_loss of a batch of positive rows, with its negative rows as the KL's other side if it has them."""
    P, lengths, negatives = batch.pairs, batch.lengths, len(batch.lengths) > batch.pairs
    # (N,) each
    row, column, column_neg, has_partner = aligned_positions(lengths[:P], lengths[P:] if negatives else lengths[:P])
    targets = next_tokens(batch.input_ids[:P], lengths[:P])[row, column]
    tree = prefix_tree(model, batch.input_ids[:P], lengths[:P])
    tree_neg = prefix_tree(model, batch.input_ids[P:], lengths[P:]) if negatives else tree
    # A position that several rows share, with its partner and its next token, has the same terms in all of them.
    triples = torch.stack((tree.index[row, column], tree_neg.index[row, column_neg], targets))  # (3, N)
    (token, token_neg, target), place = triples.unique(dim=1, return_inverse=True)  # (U,) each; (N,)
    parts = [token, token_neg, target, place, row, targets, (~has_partner).long()]
    token, token_neg, target, place, row, targets, alone = on_device(parts, model.lm_head.weight.device)
    hidden_pos = take(model.model(tree.input_ids, tree), token)  # (U, D)
    hidden_neg = None
    if negatives:
        with torch.no_grad():  # the published code detaches this side, so it needs no graph
            hidden_neg = take(model.model(tree_neg.input_ids, tree_neg), token_neg)  # (U, D)
    ce, kl = sequence_terms(model.lm_head, hidden_pos, hidden_neg, target)
    ce, kl = (term[place] for term in (ce, kl))  # (N,) each
    kl = kl.masked_fill(alone > 0, 0.0)
    loss = released_loss(ce, kl, targets, kl_weight, P, accumulation_steps)
    terms = {name: term.new_zeros(P).index_add(0, row, term.detach()) for name, term in (("ce_pos", ce), ("kl", kl))}
    return PairLoss(loss, terms, int(batch.lengths.sum()))
