"""What the few-shot sequence models share: embedded histories, an output layer over all items, and the loss.

An encoder turns the history into a state h of the user, (B, w). A linear layer with bias gives one logit per item,
and the score is the logit of the target. The output layer is a second item table, which is not tied to the
embeddings of the history. Source: the public code of DROS (Yang et al. 2023), which the authors of TALLRec name as
their sequence baselines.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.base import DIM, HISTORY, Option, binary_cross_entropy
from baselines.rows import History, Rows

INIT_STD = 0.01  # of item embeddings, as published
FORM = History(length=10, side="right")
OPTIONS = (
    DIM,
    HISTORY,
    Option("length", FORM.length, "how many of the latest history items are read", low=1, high=1000),
    Option(
        "loss", "bce", "bce: cross-entropy of the logit; mse: squared error of the raw logit", choices=("bce", "mse")
    ),
)
PUBLISHED = {"lr": 1e-3, "l2": 1e-6, "batch_size": 256, "epochs": 500}  # how the public code trains all of them


class HistoryEmbedding(nn.Module):
    """One vector for each item of a history, rows to (B, L, dim); id 0 is padding and has its own row.

    signed: adds one of two learnt vectors, "liked" or "disliked", to each real item (ours, not published).
    """

    def __init__(self, items: int, dim: int = 64, signed: bool = False):
        super().__init__()
        self.width = dim
        self.item = nn.Embedding(items + 1, dim)
        nn.init.normal_(self.item.weight, std=INIT_STD)
        self.sign = nn.Embedding(2, dim) if signed else None
        if signed:
            nn.init.normal_(self.sign.weight, std=INIT_STD)

    def forward(self, rows: Rows) -> Tensor:
        """(B, L, dim)."""
        embedded = self.item(rows.history)
        if self.sign is not None:
            embedded = embedded + self.sign(rows.liked.long()) * is_real(rows)
        return embedded


def embed_history(items: int, settings: dict) -> HistoryEmbedding:
    """The embedding that the settings ask for."""
    return HistoryEmbedding(items, settings["dim"], signed=settings["history"] == "signed")


def is_real(rows: Rows) -> Tensor:
    """1 where the history has an item and 0 where it is padding, (B, L, 1) float."""
    return (rows.history != 0).unsqueeze(-1).float()


def pad_to(rows: Rows, length: int) -> Rows:
    """The rows with histories of `length` columns; padding is added on the right."""
    missing = (0, length - rows.history.shape[1])
    return replace(rows, history=F.pad(rows.history, missing), liked=F.pad(rows.liked, missing))


def last_real(states: Tensor, rows: Rows) -> Tensor:
    """The state at the last item of each history, (B, L, w) to (B, w); padding is on the right.

    A row without history takes position 0, which is padding, as the public code does.
    """
    last = (rows.lengths - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last]


class SequenceModel(nn.Module):
    """An encoder and the output layer. encoder: rows to (B, encoder.width); items: how many there are."""

    def __init__(self, encoder: nn.Module, items: int, loss: str = "bce"):
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(encoder.width, items)
        self.loss_name = loss

    def forward(self, rows: Rows) -> Tensor:
        """The target's logit, (B,): ⟨h, w_t⟩ + b_t. No other item's logit is computed."""
        target = rows.items - 1  # item ids start at 1, output rows at 0
        return (self.encoder(rows) * self.output.weight[target]).sum(-1) + self.output.bias[target]

    def all_logits(self, rows: Rows) -> Tensor:
        """The logits of all items, (B, |I|)."""
        return self.output(self.encoder(rows))

    def loss(self, rows: Rows) -> Tensor:
        """The mean loss of the target's logit against the row's label. No negative item is sampled."""
        return label_loss(self(rows), rows, self.loss_name)


def label_loss(scores: Tensor, rows: Rows, name: str) -> Tensor:
    """bce: -log σ(s) for label 1 and -log σ(-s) for label 0; mse: (s - label)² of the raw logit. Mean over rows."""
    if name == "mse":
        return F.mse_loss(scores, rows.labels)
    return binary_cross_entropy(scores, rows)
