"""SASRec in its few-shot form: one block of self-attention reads the history.

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
from baselines.sequence import FORM, OPTIONS, PUBLISHED, SequenceModel, embed_history, is_real, last_real, pad_to


class SelfAttention(nn.Module):
    """softmax(QKᵀ / √d + mask) V with one head; queries may differ from keys and values."""

    def __init__(self, d: int, dropout: nn.Module):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.dropout = dropout

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

    embedding: rows to (B, L, embedding.width); length: L, to which every history is padded. Positions count from the
    left, so the oldest item always has position 0.
    """

    def __init__(self, embedding: nn.Module, length: int = 10, dropout: float = 0.1):
        super().__init__()
        d = embedding.width
        self.embedding, self.width = embedding, d
        self.position = nn.Embedding(length, d)
        self.dropout = nn.Dropout(dropout)
        self.attention = SelfAttention(d, nn.Dropout(dropout))
        self.feed_forward = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.Dropout(dropout))
        self.norm_query, self.norm_attended, self.norm_fed, self.norm_last = (nn.LayerNorm(d) for _ in range(4))

    def forward(self, rows: Rows) -> Tensor:
        """(B, d).

        The block has one query, at the last item, since no other output is used. Every real item is at or before it,
        so the causal mask hides nothing more than the mask of padding.
        """
        rows = pad_to(rows, len(self.position.weight))
        x = self.dropout(self.embedding(rows) + self.position.weight) * is_real(rows)  # (B, L, d)
        query = self.norm_query(last_real(x, rows)).unsqueeze(1)  # (B, 1, d)
        y = self.norm_attended(query + self.attention(query, x, seen_keys(rows)))
        y = self.norm_fed(y + self.feed_forward(y)).squeeze(1)
        return self.norm_last(y * last_real(is_real(rows), rows))


def seen_keys(rows: Rows) -> Tensor:
    """The real items, (B, 1, L) bool; in a row without history position 0, so that there is a key."""
    real = rows.history != 0
    real[:, 0] |= rows.lengths == 0
    return real.unsqueeze(1)


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
