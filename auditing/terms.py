"""One pair under the project's own code: every term of every reading of the loss, and their gradients.

audit.py compares these values with a second implementation (auditing/naive.py). A reading is an answer to
"which KL?". Eq. 2 allows three: each side is forced on its own answer (own), both sides are forced on one
answer (shared), or only the first token counts (first). The fourth is what the authors' published code
computes (released). A run that was trained with another term in the place of the KL, or with CoLLM's loss, has a
fifth: that objective.

Shape letters: T tokens, A answer positions, N positions of the positive row, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.pairs import EncodedPair, PairBatch, aligned_positions, collate, next_tokens
from loss import (
    CONTRASTS,
    FirstToken,
    PairTerms,
    answer_terms,
    log_probabilities,
    paper_loss,
    released_loss,
    sequence_terms,
)
from objectives.collm import two_answer_cross_entropy, yes_logit_loss

READINGS = ("own", "shared", "first", "released")


class Contrast(NamedTuple):
    """A term of loss.CONTRASTS that a run was trained with. margin: nats; it counts for `margin` alone."""

    name: str
    margin: float


class MainLoss(NamedTuple):
    """The loss of CoLLM in the place of CE: of the first answer token of the first `sides` of X+, X-, less lambda KL.

    main_loss: "bce-yes", of the raw logit of yes, or "ce", of that less the one of no; liked: whether yes is right to
    X+.
    """

    name: str
    main_loss: str
    sides: int
    liked: bool


MAIN_LOSSES = ("collm", "lcft-colmf")


def readings(contrast: Contrast | MainLoss | None) -> tuple[str, ...]:
    """All readings of a pair of a run that was trained with this, or with none of them."""
    return READINGS + ((contrast.name,) if contrast else ())


def sign(reading: str) -> int:
    """L subtracts lambda times a KL, and adds lambda times another term."""
    return -1 if reading in (*READINGS, *MAIN_LOSSES) else 1


def rows_of(pair: EncodedPair) -> PairBatch:
    """The three rows that `--kl-forcing shared` trains on: (X+, Y+), (X-, Y-), (X-, Y+)."""
    return collate([pair], negatives=True, shared=True)


@dataclass(frozen=True)
class Terms:
    """Every term of one pair, in nats.

    paper: the terms of the readings own, shared and first, (1, A) each.
    ce, kl: (N,), the terms of the reading released; next_ids: (N,) int64, its targets. contrast: {its name: (1,)}, or
    of a MainLoss the KL that it has; main: {its name: (sides,)}.
    """

    paper: dict[str, PairTerms]
    ce: Tensor
    kl: Tensor
    next_ids: Tensor
    contrast: dict[str, Tensor]
    main: dict[str, Tensor]

    def detached(self) -> "Terms":
        """The same terms without their graph."""
        paper = {name: PairTerms(*(term.detach() for term in terms)) for name, terms in self.paper.items()}
        contrast = {name: term.detach() for name, term in self.contrast.items()}
        main = {name: term.detach() for name, term in self.main.items()}
        return Terms(paper, self.ce.detach(), self.kl.detach(), self.next_ids, contrast, main)

    def loss(self, reading: str, kl_weight: float) -> Tensor:
        """L of this pair alone, a scalar."""
        if reading == "released":
            return released_loss(self.ce, self.kl, self.next_ids, kl_weight, pairs=1, accumulation_steps=1)
        if reading in self.main:
            return self.main[reading].sum() - kl_weight * self.contrast[reading].sum()
        if reading in self.contrast:
            return paper_loss(self.paper["own"], 0.0, pairs_in_step=1) + kl_weight * self.contrast[reading].sum()
        return paper_loss(self.paper[reading], kl_weight, pairs_in_step=1)

    def cross_entropy(self, reading: str) -> Tensor:
        """CE as L contains it, a scalar."""
        return self.loss(reading, 0.0)

    def divergence(self, reading: str) -> Tensor:
        """KL or the term in its place, before the factor lambda, a scalar; of released after the bound of that code."""
        if reading == "released":
            return -released_loss(self.ce * 0, self.kl, self.next_ids, 1.0, pairs=1, accumulation_steps=1)
        return (self.contrast[reading] if reading in self.contrast else self.paper[reading].kl).sum()


def terms_of(logits: Tensor, batch: PairBatch, contrast: Contrast | MainLoss | None = None) -> Terms:
    """Every term by loss.py, with its graph. logits: (3, T, V), all positions of batch = rows_of(pair)."""
    device = logits.device
    positions, targets = batch.positions.to(device), batch.targets.to(device)
    at = logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))  # (3, A, V)
    paper = {
        "own": answer_terms(at[:2], targets[:2], 1),
        "shared": answer_terms(at, targets, 1),
        "first": answer_terms(at[:2], targets[:2], 1, kl_tokens="first"),
    }
    lengths, input_ids = batch.lengths.to(device), batch.input_ids.to(device)
    _, column, column_neg, has_partner = aligned_positions(lengths[0:1], lengths[1:2])  # (N,) each
    next_ids = next_tokens(input_ids[0:1], lengths[0:1])[0, column]
    next_ids = next_ids.masked_fill(next_ids >= logits.shape[-1], -1)  # a vector is no token, so nothing predicts it
    # These are logits already, so nothing is left for lm_head to do.
    ce, kl = sequence_terms(lambda rows: rows, logits[0, column], logits[1, column_neg], next_ids)
    trained, main = {}, {}
    if isinstance(contrast, Contrast):
        first = log_probabilities(at[:2, 0]).split(1), targets[:2, 0].split(1)  # (1, V) and (1,) each
        trained = {contrast.name: CONTRASTS[contrast.name](FirstToken(*first[0], *first[1], contrast.margin))}
    elif contrast:
        trained = {contrast.name: paper["first"].kl.sum(1)}
        main = {contrast.name: main_terms(at[:2, 0], targets[:2, 0], contrast)}
    return Terms(paper, ce, kl.masked_fill(~has_partner, 0.0), next_ids, trained, main)


def main_terms(logits: Tensor, targets: Tensor, main: MainLoss) -> Tensor:
    """The loss of CoLLM for each of the prompts, (sides,). logits: (2, V), targets: (2,) at the first answer token."""
    yes, no = (targets if main.liked else targets.flip(0)).unsqueeze(1).expand(-1, main.sides)
    logits, right = logits[: main.sides], targets[: main.sides] == yes
    if main.main_loss == "bce-yes":
        return yes_logit_loss(logits, yes, right)
    return two_answer_cross_entropy(logits, yes, no, right)


def gradients(terms: Terms, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    """{reading: {"CE" or "KL": {parameter's name: gradient}}}, before the factor lambda."""
    by_reading: dict = {}
    for reading in (*READINGS, *terms.contrast):
        by_reading[reading] = {}
        for term, value in (("CE", terms.cross_entropy(reading)), ("KL", terms.divergence(reading))):
            grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
            by_reading[reading][term] = dict(zip(parameters, grads))
    return by_reading
