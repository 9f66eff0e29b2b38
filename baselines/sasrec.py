"""SASRec in its few-shot form: one block of causal self-attention reads the history.

    q = LN(x),  a = LN(q + Attention(q, x, x)),  h = LN(LN(a + FFN(a))) at the last item,  s = <h, w_t> + b_t

Source: the public code of DROS (Yang et al. 2023), after Kang & McAuley 2018. The original has two blocks, adds x
instead of its normalised form, and shares the item table with the output. baselines/sasrec_full.py has the form of the
full-data tables.

One thing differs from the public code. It masks the queries by the sign of |Σ LayerNorm(x)|: a sum that is 0 up to
rounding for every vector, so whether a real query loses its attention is chance. Here padding is masked by its id.
"""

import torch
from torch import Tensor, nn

from baselines.base import ANY, DROPOUT, Method, Training
from baselines.rows import Rows
from baselines.sequence import FORM, OPTIONS, PUBLISHED, SequenceModel, embed_history, is_real, last_real


class SelfAttention(nn.Module):
    """softmax(QKᵀ / √d + mask) V with one head; queries may differ from keys and values."""

    def __init__(self, d: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, x: Tensor, allowed: Tensor, padding: int = 0) -> Tensor:
        """queries: (B, Q, d); x: (B, L, d); out: (B, Q, d).

        allowed: (Q, padding + L) or (B, Q, padding + L) bool, which keys each query may see, at least one. padding:
        this many keys stand before those of x, for which x would be zero: their keys and values are the biases.
        """
        q, k, v = self.query(queries), self.key(x), self.value(x)
        if padding:
            k = torch.cat([self.key.bias.expand(len(x), padding, -1), k], dim=1)
            v = torch.cat([self.value.bias.expand(len(x), padding, -1), v], dim=1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
        return self.dropout(weights) @ v


class SASRecEncoder(nn.Module):
    """The output at the last real item, (B, d).

    embedding: rows to (B, L, embedding.width); length: the largest L. Positions count from the left, so the oldest
    item always has position 0.
    """

    def __init__(self, embedding: nn.Module, length: int = 10, dropout: float = 0.1):
        super().__init__()
        d = embedding.width
        self.embedding, self.width = embedding, d
        self.position = nn.Embedding(length, d)
        self.dropout = nn.Dropout(dropout)
        self.attention = SelfAttention(d, dropout)
        self.feed_forward = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.Dropout(dropout))
        self.norm_query, self.norm_attended, self.norm_fed, self.norm_last = (nn.LayerNorm(d) for _ in range(4))

    def forward(self, rows: Rows) -> Tensor:
        """(B, d)."""
        real = is_real(rows)  # (B, L, 1)
        x = self.embedding(rows)
        x = self.dropout(x + self.position.weight[: x.shape[1]]) * real
        queries = self.norm_query(x)
        x = self.norm_attended(queries + self.attention(queries, x, allowed_keys(rows)))
        x = self.norm_fed(x + self.feed_forward(x)) * real
        return last_real(self.norm_last(x), rows)


def allowed_keys(rows: Rows) -> Tensor:
    """Which keys (last axis) each query may see, (B, L, L) bool: not later than itself, and no padding.

    Padding is on the right. Position 0 is allowed even if it is padding, so that a row without history has a key.
    """
    length = rows.history.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=rows.history.device).tril()
    real = rows.history != 0
    first = torch.arange(length, device=real.device) == 0
    return causal & (real | first).unsqueeze(1)


def encoder(training: Training, settings: dict) -> SASRecEncoder:
    """With the published form of the items' vectors."""
    embedding = embed_history(training.items, settings)
    return SASRecEncoder(embedding, settings["length"], settings["dropout"])


def build(training: Training, settings: dict) -> SequenceModel:
    """The module for these training rows."""
    return SequenceModel(encoder(training, settings), training.items, settings["loss"])


METHOD = Method(
    "sasrec",
    "self-attention over the history, one block: the form of the few-shot tables",
    build,
    options=(*OPTIONS, DROPOUT),
    history=FORM,
    published={ANY: PUBLISHED},
)
