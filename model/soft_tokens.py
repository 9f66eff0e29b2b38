"""Vectors in a prompt that belong to no token: where they come from, and how they get an id of their own.

The prefix tree and scoring merge rows by token id. So every vector has an id, as a token has: vector n of a model with
V tokens is V + n, and only the embedding knows that it is no token. Rows, tree, padding and positions stay as they are;
what has V entries, such as the next token's distribution, never sees these ids.

Shape letters: B rows, T tokens, N ids of any shape, S of them vectors, D hidden_size, V vocabulary; R vectors of
recommenders, d numbers in one.
"""

import torch
from torch import Tensor, nn

WIDER = 10  # hidden numbers of the mapping, for each number of a recommender's vector
UNKNOWN = 0  # the row of a user or an item that the recommender does not know: zeros
NORMAL_STD = 0.02
INITIAL = ("uniform", "normal")


class SoftEmbedding(nn.Module):
    """The embedding of a model: ids below V are tokens, id V + n is vector n of `vectors`.

    tokens: the embedding that is replaced, frozen as it was; vectors: a module from (S,) numbers to (S, D).
    """

    def __init__(self, tokens: nn.Embedding, vectors: nn.Module):
        super().__init__()
        self.tokens, self.vectors = tokens, vectors

    @property
    def weight(self) -> Tensor:
        """Of the tokens alone, (V, D)."""
        return self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """ids (N) to (N, D), in the dtype of the tokens."""
        soft = ids >= len(self.tokens.weight)
        embedded = self.tokens(ids.masked_fill(soft, 0))
        numbers = ids[soft] - len(self.tokens.weight)  # (S,)
        if len(numbers) == 0:
            return embedded
        return embedded.index_put((soft,), self.vectors(numbers).to(embedded.dtype))


class MappedVectors(nn.Module):
    """CoLLM's encoding of collaborative information: W2 relu(W1 v + b1) + b2 of a recommender's vector v.

    Number 0 is a user or an item that the recommender does not know, with v = 0. table: (R, d), whose row 0 is zeros.
    The mapping is d -> 10 d -> D, as nn.Linear initialises it, one for users and items. All is float32, whatever the
    model is. derived: the table is computed anew when a run is used, so it is neither saved nor trained. Source: the
    public code of CoLLM (Zhang et al. 2025).
    """

    def __init__(self, table: Tensor, hidden_size: int, derived: bool = False):
        super().__init__()
        self.derived = derived
        rows, width = table.shape
        self.table = nn.Embedding(rows, width, padding_idx=UNKNOWN, _weight=table.detach().float().clone())
        self.mapping = nn.Sequential(nn.Linear(width, WIDER * width), nn.ReLU(), nn.Linear(WIDER * width, hidden_size))
        self.table.requires_grad_(False)

    def forward(self, numbers: Tensor) -> Tensor:
        """(S,) to (S, D)."""
        return self.mapping(self.table(numbers))


class FreeVectors(nn.Module):
    """Vectors that are learnt themselves, the same for all rows: the soft prompt of Prompt4NR-V.

    initial: "uniform" in +-1/sqrt(2), which a bias-free map from a one-hot of two starts with, as published; it is far
    larger than a token's embedding. "normal": N(0, 0.02^2).
    """

    def __init__(self, count: int, hidden_size: int, initial: str = "uniform"):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, hidden_size))
        if initial == "uniform":
            nn.init.uniform_(self.weight, -(2**-0.5), 2**-0.5)
        else:
            nn.init.normal_(self.weight, std=NORMAL_STD)

    def forward(self, numbers: Tensor) -> Tensor:
        """(S,) to (S, D)."""
        return self.weight[numbers]


def add_vectors(model: nn.Module, vectors: nn.Module) -> None:
    """Let `model`, a Llama, read ids from V on as `vectors`, in the place of others; its code does not know of them."""
    embedding = model.model.embed_tokens
    tokens = embedding.tokens if isinstance(embedding, SoftEmbedding) else embedding
    model.model.embed_tokens = SoftEmbedding(tokens, vectors.to(model.lm_head.weight.device))


def vectors_of(model: nn.Module) -> nn.Module | None:
    """What add_vectors added, or None."""
    embedding = model.model.embed_tokens
    return embedding.vectors if isinstance(embedding, SoftEmbedding) else None
