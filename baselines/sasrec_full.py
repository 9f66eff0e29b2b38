"""SASRec in its full-data form: two blocks of causal self-attention, and one item table for history and target.

Source: the public code of CoLLM (Zhang et al. 2025), after Kang & McAuley 2018 and its PyTorch port. What differs from
the original: labelled rows instead of one sampled negative for each position, and the loss at the last position alone.

Padded keys are not masked, as published. Their vectors are zero, but the biases of keys and values are not, so padding
takes a share of the attention. A history must therefore always be padded to the same length.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from baselines.base import ANY, DIM, DROPOUT, HISTORY, Method, Option, Training, binary_cross_entropy
from baselines.rows import History, Rows

NORM_EPS = 1e-8


class Block(nn.Module):
    """q = LN(x); y = LN(q + MultiHead(q, x, x)); y + FFN(y), with zeros where there is padding.

    The width-1 convolutions of the public code are linear layers, with the same initial values. The output projection
    and the biases of attention are part of nn.MultiheadAttention.
    """

    def __init__(self, d: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(d, heads, dropout, batch_first=True)
        self.norm_query, self.norm_attended = nn.LayerNorm(d, eps=NORM_EPS), nn.LayerNorm(d, eps=NORM_EPS)
        self.feed_forward = nn.Sequential(
            nn.Linear(d, d), nn.Dropout(dropout), nn.ReLU(), nn.Linear(d, d), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, real: Tensor, wanted: int) -> Tensor:
        """The outputs at the last `wanted` positions; x (B, L, d), real (B, L, 1), out (B, wanted, d)."""
        length = x.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)[-wanted:]  # True: not seen
        queries = self.norm_query(x[:, -wanted:])
        attended, _ = self.attention(queries, x, x, attn_mask=later, need_weights=False)
        y = self.norm_attended(queries + attended)
        return (y + self.feed_forward(y)) * real[:, -wanted:]


class SASRecFull(nn.Module):
    """x = √d e + p over the history, h = LN(blocks(x)) at the last position; s = ⟨h, e_t⟩ with the same item table.

    items: how many; length: to which histories are padded on the left, so that the newest item always has the last
    position. Embeddings N(0, 1) with a padding row of zeros, everything else as PyTorch initialises it.
    """

    def __init__(
        self, items: int, dim: int = 64, length: int = 25, blocks: int = 2, heads: int = 1, dropout: float = 0.2
    ):
        super().__init__()
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position = nn.Embedding(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(blocks))
        self.norm_last = nn.LayerNorm(dim, eps=NORM_EPS)

    def state(self, history: Tensor) -> Tensor:
        """h of each user, (B, L) ids to (B, dim). The last block computes its last position alone: no other is used."""
        length, dim = self.position.weight.shape
        history = nn.functional.pad(history, (length - history.shape[1], 0))
        real = (history != 0).unsqueeze(-1).float()
        x = self.dropout(self.item(history) * dim**0.5 + self.position.weight) * real
        for i, block in enumerate(self.blocks):
            x = block(x, real, wanted=1 if i == len(self.blocks) - 1 else length)
        return self.norm_last(x[:, -1])

    def forward(self, rows: Rows) -> Tensor:
        """Scores, (B,)."""
        return (self.state(rows.history) * self.item(rows.items)).sum(-1)

    def loss(self, rows: Rows) -> Tensor:
        """Binary cross-entropy, mean over rows."""
        return binary_cross_entropy(self(rows), rows)


def build(training: Training, settings: dict) -> SASRecFull:
    """The module for these training rows."""
    wanted = {name: settings[name] for name in ("dim", "length", "blocks", "heads", "dropout")}
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
        Option("heads", 1, "heads of attention; they divide the dimension", low=1, high=64),
    ),
    history=History(length=25, side="left", which="liked"),
    published={
        ANY: OF_COLLM | {"lr": 1e-2, "l2": 1e-2, "batch_size": 2048},
        "amazon-book": OF_COLLM | {"length": 20, "lr": 1e-3, "l2": 1e-3, "batch_size": 10240},
    },
)
