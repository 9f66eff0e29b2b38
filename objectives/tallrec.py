"""--objective tallrec: the baseline that sees no negative prompt."""

import math
from dataclasses import dataclass

import torch

from data.pairs import EncodedPair
from loss import PairTerms, log_probabilities, paper_loss, token_cross_entropy
from model.llama import Llama
from objectives.base import Objective, PairLoss, answer_logits, rows_in_blocks
from objectives.released import whole_row_loss


@dataclass(frozen=True)
class TALLRec(Objective):
    """Cross-entropy of the positive rows alone: of the answer, or of every token, as TALLRec's script has it."""

    train_on_prompt: bool
    batch_size: int
    micro_batch_size: int
    about = "the baseline: positive prompts only"
    published, rows_per_pair = True, 1  # (X+, Y+)

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """TALLRec's dropout."""
        return {"lora_dropout": (0.05, "tallrec")}

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
