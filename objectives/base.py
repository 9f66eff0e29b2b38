"""What an objective is, and the rows and logits that it works on.

An objective is a small frozen dataclass in a file of this folder. Its fields are the flags that it uses; the command
line refuses every other flag of the loss together with it. The loop, the plan, the tables and resuming ask the
objective; none names one.

Shape letters: P pairs, B rows (P, 2P or 3P in blocks), A answer positions, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from data.pairs import EncodedPair, PairBatch, collate
from model.llama import Llama
from model.prefix_tree import prefix_tree
from tensors import on_device

TERMS = ("ce_pos", "ce_neg", "kl")  # recorded of every step of every run, 0 where an objective has no such term


class PairLoss(NamedTuple):
    """loss: scalar, a micro-batch's share of the step's loss; terms: {name: (P,) nats}; tokens: of all rows."""

    loss: Tensor
    terms: dict[str, Tensor]
    tokens: int


class Objective(ABC):
    """What the loop, the plan, the tables and resuming may ask of any objective."""

    about: ClassVar[str]  # a few words for tables
    published: ClassVar[bool] = (
        False  # whether it is a paper's on recommendation; every run suggests the others of these
    )
    terms: ClassVar[tuple[str, ...]] = TERMS  # what is recorded of a step
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


def rows_in_blocks(pairs: list[EncodedPair], rows_per_pair: int) -> PairBatch:
    """The first `rows_per_pair` of (X+, Y+), (X-, Y-), (X-, Y+), each a block of P rows."""
    return collate(pairs, negatives=rows_per_pair > 1, shared=rows_per_pair > 2)


def answer_logits(model: Llama, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """(logits (B, A, V), targets (B, A)) at the answer positions, on the model's device."""
    (targets,) = on_device([batch.targets], model.lm_head.weight.device)
    tree = prefix_tree(model, batch.input_ids, batch.lengths, batch.positions)
    return model.lm_head(model.model(tree.input_ids, tree)).view(*targets.shape, -1), targets
