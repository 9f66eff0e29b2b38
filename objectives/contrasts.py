"""--objective js, jeffreys, margin, complement, xor, arbitrage, bundle, unlikelihood: other terms than the KL of Eq. 2.

Each is the cross-entropy of both answers, as in Eq. 3, plus kl_weight times a term of loss.CONTRASTS, which is
minimised: L = (1/P) sum_i [CE+_i + CE-_i + kl_weight contrast_i]. With kl_weight 0 each is the control. The term is
taken at the first answer token alone, where Yes or No is decided and all readings of Eq. 2 are the same.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from data.pairs import EncodedPair
from loss import CONTRASTS, FirstToken, PairTerms, log_probabilities, paper_loss, token_cross_entropy
from model.llama import Llama
from objectives.base import TERMS, Objective, PairLoss, answer_logits, rows_in_blocks


@dataclass(frozen=True)
class Contrast(Objective):
    """CE+ + CE- and the term of loss.CONTRASTS that a subclass names."""

    kl_weight: float
    name: ClassVar[str]
    # Both sides have one bound: the gradient of the term in each log-odds is at most 1, as that of each
    # cross-entropy is.
    weight: ClassVar[float] = 1.0
    rows_per_pair, terms = 2, (*TERMS, "contrast")  # (X+, Y+) and (X-, Y-)

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """Its weight, whatever the data set."""
        return {"kl_weight": (cls.weight, cls.name)}

    @property
    def margin(self) -> float:
        """Nats; only that of `margin` counts."""
        return 0.0

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """CE+ + CE- + kl_weight contrast. The term `contrast` is as it is minimised, without its weight."""
        batch = rows_in_blocks(pairs, self.rows_per_pair)
        logits, targets = answer_logits(model, batch)  # (2P, A, V), (2P, A)
        log = log_probabilities(logits)
        ce_pos, ce_neg = token_cross_entropy(log, targets).split(batch.pairs)  # (P, A) each
        sides, answers = log[:, 0].split(batch.pairs), targets[:, 0].split(batch.pairs)  # (P, V) and (P,) each
        contrast = CONTRASTS[self.name](FirstToken(*sides, *answers, self.margin))  # (P,)
        subtracted = torch.nn.functional.pad(-contrast.unsqueeze(-1), (0, targets.shape[1] - 1))  # (P, A)
        loss = paper_loss(PairTerms(ce_pos, ce_neg, subtracted), self.kl_weight, pairs_in_step)
        terms = {"ce_pos": ce_pos.sum(-1), "ce_neg": ce_neg.sum(-1), "contrast": contrast}
        return PairLoss(loss, terms, int(batch.lengths.sum()))


@dataclass(frozen=True)
class Margin(Contrast):
    """The one whose term has a setting."""

    kl_cap: float
    name, about = "margin", "both prompts, and the KL up to --kl-cap nats"

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """1 nat is the KL between 82 % and 18 % of Yes."""
        return super().presets(data) | {"kl_cap": (1.0, "margin")}

    @property
    def margin(self) -> float:
        """Nats, above which the KL is large enough."""
        return self.kl_cap


def _contrast(name: str, about: str, weight: float = Contrast.weight) -> type[Contrast]:
    return type(name, (Contrast,), {"name": name, "about": f"both prompts, and {about}", "weight": weight})


CONTRAST_OBJECTIVES: dict[str, type[Contrast]] = {
    made.name: made
    for made in (
        _contrast("js", "their Jensen-Shannon divergence"),
        # Its term has no bound and a gradient that grows with it: lambda is that of Appendix B.
        _contrast("jeffreys", "the KL in both directions", weight=1e-4),
        Margin,
        _contrast("complement", "the square by which P(Yes) to both misses a sum of 1"),
        _contrast("xor", "the probability that exactly one answer is Yes"),
        _contrast("arbitrage", "what a bettor could take from the two answers"),
        _contrast("bundle", "which of both prompts an answer belongs to"),
        _contrast("unlikelihood", "the probability of the other prompt's answer"),
    )
}
