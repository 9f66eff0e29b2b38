"""--objective collm: the loss of CoLLM. --objective lcft-colmf: LCFT upon it, for which no code is public."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data.pairs import EncodedPair
from data.splits import SIGMOID, SOFTMAX
from loss import log_probabilities, token_kl
from model.llama import Llama
from objectives.base import Objective, PairLoss, answer_logits, rows_in_blocks
from tensors import on_device

PUBLISHED = {  # how CoLLM trains on ML-1M; a smaller base has a preset of its own for lr, batch, warm-up and length
    **{"lr": 1e-3, "batch_size": 16, "warmup_steps": 200, "eval_every": 50, "max_steps": 10_000, "epochs": 1000},
    **{"weight_decay": 1e-3, "lora_dropout": 0.05, "schedule": "cosine", "end_lr": 8e-5},
}


def yes_logit_loss(logits: Tensor, yes: Tensor, right: Tensor) -> Tensor:
    """Binary cross-entropy of z = the raw logit of yes: -log sigmoid(z) where yes is right, else -log sigmoid(-z).

    logits: (B, V); yes: (B,) int64, its id; right: (B,) bool. Returns (B,). No softmax: the logits of all other tokens,
    no among them, have no influence and no gradient. d/dz = sigmoid(z) - right. Source: the public code of CoLLM.
    """
    z = logits.gather(1, yes[:, None])[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(z, right.to(z.dtype), reduction="none")


def two_answer_cross_entropy(logits: Tensor, yes: Tensor, no: Tensor, right: Tensor) -> Tensor:
    """-log of the right answer's share of P(yes) + P(no): yes_logit_loss of z = z_yes - z_no. Shapes as there."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)).gather(1, torch.stack((yes, no), 1))  # (B, 2)
    return F.binary_cross_entropy_with_logits(z[:, 0] - z[:, 1], right.to(z.dtype), reduction="none")


class _Answers(NamedTuple):
    """At the first answer position of every row: logits (B, V), and by row (B,) the ids of yes, of no, and whether yes
    is right.
    """

    logits: Tensor
    yes: Tensor
    no: Tensor
    right: Tensor
    tokens: int


def _first_answers(model: Llama, pairs: list[EncodedPair], sides: int) -> _Answers:
    """sides: 1 for the positive rows alone; 2 for the negative ones below them."""
    batch = rows_in_blocks(pairs, sides)
    batch = replace(batch, positions=batch.positions[:, :1], targets=batch.targets[:, :1])
    logits, targets = answer_logits(model, batch)  # (B, 1, V), (B, 1)
    ids = [[pair.positive.answer[0], pair.negative.answer[0]][:: 1 if pair.liked else -1] for pair in pairs]
    (ids,) = on_device([torch.tensor(ids * sides)], logits.device)  # (B, 2): of yes and no
    yes, no = ids.unbind(1)
    return _Answers(logits[:, 0], yes, no, targets[:, 0] == yes, int(batch.lengths.sum()))


@dataclass(frozen=True)
class CoLLM(Objective):
    """Binary cross-entropy of the raw logit of yes, positive rows alone."""

    about = "CoLLM's loss: the logit of Yes alone"
    rows_per_pair, reading = 1, SIGMOID  # (X+, Y+)

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """The published settings."""
        return {name: (value, "collm") for name, value in PUBLISHED.items()}

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """yes_logit_loss, mean over the pairs of the step."""
        answers = _first_answers(model, pairs, 1)
        bce = yes_logit_loss(answers.logits, answers.yes, answers.right)  # (P,)
        return PairLoss(bce.sum() / pairs_in_step, {"ce_pos": bce}, answers.tokens)


@dataclass(frozen=True)
class LCFTCoLMF(Objective):
    """Our design of LCFT-CoLMF: CoLLM's loss for both prompts, less lambda times their KL at the answer.

    main_loss: "bce-yes" is CoLLM's, "ce" the cross-entropy between the two answers. lcft_stage: the stage in which both
    prompts and the KL act; in the other one this is CoLLM's loss of the positive prompt.
    """

    kl_weight: float
    main_loss: str
    lcft_stage: str
    stage: int
    about = "LCFT-CoLMF, our design: CoLLM's loss for both prompts, and the KL"

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """As CoLLM; Appendix B of LCFT: lambda is 1e-5 for Amazon-Book, 1e-4, which is the default, for ML-1M."""
        weight = {"kl_weight": 1e-5} if data in ("book", "amazon-book") else {}
        return {name: (value, "lcft-colmf") for name, value in {**PUBLISHED, **weight}.items()}

    @property
    def acts(self) -> bool:
        """Whether this stage has negative prompts and the KL."""
        return self.lcft_stage in ("both", str(self.stage))

    @property
    def rows_per_pair(self) -> int:
        """(X+, Y+), and (X-, Y-) in the stages with the KL."""
        return 2 if self.acts else 1

    @property
    def reading(self) -> str:
        """That of the main loss."""
        return SIGMOID if self.main_loss == "bce-yes" else SOFTMAX

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """Eq. 3 with the main loss in the place of Eq. 1, and Eq. 2 at the first answer token."""
        answers = _first_answers(model, pairs, self.rows_per_pair)
        if self.main_loss == "bce-yes":
            main = yes_logit_loss(answers.logits, answers.yes, answers.right)  # (B,)
        else:
            main = two_answer_cross_entropy(answers.logits, answers.yes, answers.no, answers.right)  # (B,)
        if not self.acts:
            return PairLoss(main.sum() / pairs_in_step, {"ce_pos": main}, answers.tokens)
        positive, negative = main.split(len(pairs))
        kl = token_kl(*log_probabilities(answers.logits).split(len(pairs)))  # (P,)
        loss = (positive + negative - self.kl_weight * kl).sum() / pairs_in_step
        return PairLoss(loss, {"ce_pos": positive, "ce_neg": negative, "kl": kl}, answers.tokens)
