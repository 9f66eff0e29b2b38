"""--objective paper: Eq. 1-3. Its control is --kl-weight 0."""

from dataclasses import dataclass

from data.pairs import EncodedPair
from loss import answer_terms, paper_loss
from model.llama import Llama
from objectives.base import Objective, PairLoss, answer_logits, rows_in_blocks


@dataclass(frozen=True)
class Paper(Objective):
    """Eq. 1-3 at the answer tokens. With kl_weight 0 it is the control: both prompts, no KL."""

    kl_weight: float = 1e-4  # lambda
    kl_forcing: str = "own"
    kl_tokens: str = "all"
    kl_cap: float | None = None
    about, published = "Eq. 1-3", True

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
