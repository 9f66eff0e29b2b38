"""SASRec in its full-data form: two blocks of causal self-attention, and one item table for history and target.

Source: the public code of CoLLM (Zhang et al. 2025), after Kang & McAuley 2018 and its PyTorch port. What differs from
the original: labelled rows instead of one sampled negative for each position, and the loss at the last position alone.

Padded keys are not masked, as published. Their vectors are zero, so they take the share of the attention that a zero
vector has, and their value is the bias. A history is therefore always padded to the same length.
"""

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.base import ANY, DIM, DROPOUT, HISTORY, Method, Option, Training, binary_cross_entropy
from baselines.rows import History, Rows
from baselines.sasrec import SelfAttention
from tensors import bernoulli

NORM_EPS = 1e-8
TOGETHER = 128  # rows


class Dropout(nn.Dropout):
    """nn.Dropout with random numbers that cost less: an epoch of ML-1M takes a sixth less time."""

    def forward(self, x: Tensor) -> Tensor:
        """In training each value is 0 with probability p, and x / (1 - p) otherwise."""
        return x * (bernoulli(x, 1 - self.p) / (1 - self.p)) if self.training and self.p else x


def attend_once(attention: SelfAttention, query: Tensor, x: Tensor, allowed: Tensor, padding: int) -> Tensor:
    """attention(query, x, allowed, padding) for one query a row, (B, 1, d), without all its keys and values.

    ⟨q, W_k x + b_k⟩ = ⟨W_kᵀ q, x⟩ + ⟨q, b_k⟩, and Σ a (W_v x + b_v) = W_v Σ a x + b_v Σ a.
    """
    q = attention.query(query)
    scores = F.pad(q @ attention.key.weight @ x.mT, (padding, 0)) + q @ attention.key.bias[:, None]
    weights = attention.dropout((scores / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf).softmax(-1))
    return weights[..., padding:] @ x @ attention.value.weight.T + weights.sum(-1, keepdim=True) * attention.value.bias


class Block(nn.Module):
    """q = LN(x); y = LN(q + W Attention(q, x, x)); y + FFN(y), with zeros where there is padding.

    The width-1 convolutions of the public code are linear layers with the same initial values. Those of attention are
    the ones of nn.MultiheadAttention: Xavier-uniform for the three projections as one (3d, d) matrix, biases 0.
    """

    def __init__(self, d: int, dropout: float):
        super().__init__()
        self.attention, self.project = SelfAttention(d, Dropout(dropout)), nn.Linear(d, d)
        self.norm_query, self.norm_attended = nn.LayerNorm(d, eps=NORM_EPS), nn.LayerNorm(d, eps=NORM_EPS)
        self.feed_forward = nn.Sequential(
            nn.Linear(d, d), Dropout(dropout), nn.ReLU(), nn.Linear(d, d), Dropout(dropout)
        )
        bound = math.sqrt(6 / (3 * d + d))
        for projection in (self.attention.query, self.attention.key, self.attention.value):
            nn.init.uniform_(projection.weight, -bound, bound)
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, real: Tensor, padding: int, last: bool) -> Tensor:
        """x (B, L, d), real (B, L, 1) to (B, L, d), or to (B, 1, d) if only the last position is wanted.

        padding: positions before those of x, which hold padding in every row.
        """
        length = x.shape[1]
        not_later = torch.ones(length, padding + length, dtype=torch.bool, device=x.device).tril(padding)
        wanted = x
        if last:
            not_later, wanted, real = not_later[-1:], x[:, -1:], real[:, -1:]
        queries = self.norm_query(wanted)
        attention = partial(attend_once, self.attention) if last else self.attention
        y = self.norm_attended(queries + self.project(attention(queries, x, not_later, padding)))
        return (y + self.feed_forward(y)) * real


class SASRecFull(nn.Module):
    """x = √d e + p over the history, h = LN(blocks(x)) at the last position; s = ⟨h, e_t⟩ with the same item table.

    items: how many; length: to which histories are padded on the left, so that the newest item always has the last
    position. Embeddings N(0, 1) with a padding row of zeros, everything else as PyTorch initialises it.
    """

    def __init__(self, items: int, dim: int = 64, length: int = 25, blocks: int = 2, dropout: float = 0.2):
        super().__init__()
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position = nn.Embedding(length, dim)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, dropout) for _ in range(blocks))
        self.norm_last = nn.LayerNorm(dim, eps=NORM_EPS)

    def state(self, history: Tensor) -> Tensor:
        """h of each user, (B, L) ids to (B, dim).

        Rows of similar length are computed together, without the columns that hold padding in all of them. The values
        are the same, and ML-1M takes a fifth less time.
        """
        lengths = (history != 0).sum(1)
        order = lengths.argsort()
        parts = [self._state(history[part][:, -max(1, int(lengths[part].max())) :]) for part in order.split(TOGETHER)]
        return torch.cat(parts)[order.argsort()]

    def _state(self, history: Tensor) -> Tensor:
        """The same for the last columns of histories; those before hold padding in every row."""
        (length, dim), shown = self.position.weight.shape, history.shape[1]
        real = (history != 0).unsqueeze(-1).float()
        x = self.dropout(self.item(history) * dim**0.5 + self.position.weight[-shown:]) * real
        for i, block in enumerate(self.blocks):
            x = block(x, real, length - shown, last=i == len(self.blocks) - 1)  # no other position of the last is used
        return self.norm_last(x[:, -1])

    def forward(self, rows: Rows) -> Tensor:
        """Scores, (B,)."""
        return (self.state(rows.history) * self.item(rows.items)).sum(-1)

    def loss(self, rows: Rows) -> Tensor:
        """Binary cross-entropy, mean over rows."""
        return binary_cross_entropy(self(rows), rows)


def build(training: Training, settings: dict) -> SASRecFull:
    """The module for these training rows."""
    wanted = {name: settings[name] for name in ("dim", "length", "blocks", "dropout")}
    return SASRecFull(training.items, **wanted)


OF_COLLM = {"dropout": 0.2, "epochs": 5000, "patience": 100}
METHOD = Method(
    "sasrec-full",
    "self-attention over the liked history, two blocks: the form of the full-data tables",
    build,
    options=(
        DIM,
        DROPOUT,
        replace(HISTORY, default="liked", choices=("liked", "all")),
        Option("length", 25, "how many of the latest history items are read", low=1, high=1000),
        Option("blocks", 2, "blocks of attention and feed-forward", low=1, high=100),
    ),
    history=History(length=25, side="left", which="liked"),
    published={
        ANY: OF_COLLM | {"lr": 1e-2, "l2": 1e-2, "batch_size": 2048},
        "amazon-book": OF_COLLM | {"length": 20, "lr": 1e-3, "l2": 1e-3, "batch_size": 10240},
    },
)
