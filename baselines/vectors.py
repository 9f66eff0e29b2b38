"""The vectors of users and items that a trained recommender has: what CoLLM puts into the prompts of a language model.

Matrix factorisation and LightGCN have a vector for each user. SASRec has none: its user is the state after a history.

Shape letters: U users, I items, H histories, L items of a history, d numbers in a vector.
"""

import torch
from torch import Tensor, nn

from baselines.lightgcn import LightGCN
from baselines.mf import MatrixFactorisation
from baselines.sasrec_full import SASRecFull

WITH_VECTORS = ("mf", "lightgcn", "sasrec-full")
READS_HISTORIES = ("sasrec-full",)


@torch.no_grad()
def user_and_item_vectors(module: nn.Module) -> tuple[Tensor | None, Tensor]:
    """(of users (U, d), or None if they come from histories, of items (I, d)), in the order of their numbers from 1.

    Those of LightGCN are the averaged ones, of which its scores are made.
    """
    if isinstance(module, MatrixFactorisation):
        return module.user_vectors.weight[1:], module.item_vectors.weight[1:]
    if isinstance(module, LightGCN):
        users, items = module.propagate()
        return users[1:], items[1:]
    if isinstance(module, SASRecFull):
        return None, module.item.weight[1:]
    raise TypeError(f"{type(module).__name__} has no vectors of users and items")


@torch.no_grad()
def history_vectors(module: SASRecFull, histories: Tensor) -> Tensor:
    """The state after each history, (H, L) numbers of items, 0 on the left as padding, to (H, d)."""
    module.eval()
    return module.state(histories)


def sasrec_of(items: int, settings: dict) -> SASRecFull:
    """A fresh sasrec-full for tensors that were saved of one. items: how many there are."""
    return SASRecFull(items, **{name: settings[name] for name in ("dim", "length", "blocks", "dropout")})
