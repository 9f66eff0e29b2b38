"""Matrix factorisation: a vector for each user and item, and their inner product.

Koren, Bell and Volinsky (2009), "Matrix factorization techniques for recommender systems", IEEE Computer 42(8); in the
form that CoLLM (Zhang et al. 2025) trains: binary cross-entropy on labelled rows, without biases.
"""

import torch
from torch import Tensor, nn

from baselines.base import ANY, DIM, INIT_STD, Method, Option, Training, binary_cross_entropy
from baselines.rows import Rows


class MatrixFactorisation(nn.Module):
    """s = <p_u, q_i>, or b + b_u + b_i + <p_u, q_i> with bias. dim: numbers in a vector; init_std: of N(0, std^2)."""

    def __init__(self, users: int, items: int, dim: int = 256, init_std: float = 1.0, bias: bool = False):
        super().__init__()
        self.user_vectors = nn.Embedding(users + 1, dim, padding_idx=0)  # row 0, of unknown users, stays 0
        self.item_vectors = nn.Embedding(items + 1, dim, padding_idx=0)
        with torch.no_grad():
            for table in (self.user_vectors, self.item_vectors):
                table.weight.mul_(init_std)
        self.bias = bias
        if bias:
            self.overall = nn.Parameter(torch.zeros(()))
            self.user_bias = nn.Embedding(users + 1, 1, padding_idx=0)
            self.item_bias = nn.Embedding(items + 1, 1, padding_idx=0)
            for table in (self.user_bias, self.item_bias):
                nn.init.zeros_(table.weight)

    def forward(self, rows: Rows) -> Tensor:
        """(B,), the log-odds of liking."""
        scores = (self.user_vectors(rows.users) * self.item_vectors(rows.items)).sum(-1)
        if not self.bias:
            return scores
        return scores + self.overall + self.user_bias(rows.users)[:, 0] + self.item_bias(rows.items)[:, 0]

    def loss(self, rows: Rows) -> Tensor:
        """Binary cross-entropy, mean over rows."""
        return binary_cross_entropy(self(rows), rows)


def build(training: Training, settings: dict) -> MatrixFactorisation:
    """The module for these training rows."""
    wanted = {name: settings[name] for name in ("dim", "init_std", "bias")}
    return MatrixFactorisation(training.users, training.items, **wanted)


OF_COLLM = {"dim": 256, "lr": 1e-3, "init_std": 1.0, "epochs": 5000, "patience": 100}
METHOD = Method(
    "mf",
    "matrix factorisation: inner product of a user's and an item's vector",
    build,
    options=(DIM, INIT_STD, Option("bias", False, "add an overall, a user's and an item's bias")),
    published={
        ANY: OF_COLLM | {"l2": 1e-4, "batch_size": 2048},
        "amazon-book": OF_COLLM | {"l2": 1e-6, "batch_size": 10240},
    },
    ours={"init_std": 0.1},
    needs_users=True,
)
