"""LoRA's dropout and the product that follows it, with less kept for the backward pass."""

import math

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def linear_after_dropout(x: torch.Tensor, weight: torch.Tensor, dropout: float) -> torch.Tensor:
    """F.linear(F.dropout(x, dropout), weight). x: (..., in); weight: (out, in). Returns (..., out).

    For the backward pass F.dropout would keep its factors and its result, each as large as x, for every layer that x
    goes through. This function keeps a byte per element, and x itself, which q_proj and v_proj share.
    """
    if not dropout:
        return F.linear(x, weight)
    kept = bernoulli(x, 1 - dropout)
    product = checkpoint(_product_of_kept, x, kept, weight, use_reentrant=False, preserve_rng_state=False)
    return product / (1 - dropout)


def _product_of_kept(x: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x * kept, weight)


def bernoulli(like: torch.Tensor, probability: float) -> torch.Tensor:
    """Booleans in the shape of `like`, each true with this probability, to within 2^-16.

    On a CPU each random 64-bit number gives four: that takes a third of the time of Tensor.bernoulli_, which takes 6 %
    of a step. Elsewhere torch.compile would break its graph at random_, while it fuses torch.rand with what follows.
    """
    if like.device.type != "cpu":
        return torch.rand(like.shape, device=like.device) < probability
    numbers = torch.empty(math.ceil(like.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    uniform = numbers.view(torch.int16)[: like.numel()]  # in [-2^15, 2^15)
    return (uniform < min(round(probability * 2**16), 2**16 - 1) - 2**15).view(like.shape)
