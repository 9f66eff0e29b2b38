"""LoRA's dropout and the product that follows it, with less kept for the backward pass."""

import torch
import torch.nn.functional as F
from torch.autograd.function import FunctionCtx

from tensors import bernoulli


def linear_after_dropout(x: torch.Tensor, weight: torch.Tensor, dropout: float) -> torch.Tensor:
    """F.linear(F.dropout(x, dropout), weight). x: (..., in); weight: (out, in). Returns (..., out).

    For the backward pass F.dropout would keep its factors and its result, each as large as x, for every layer that x
    goes through. This function keeps a byte per element, and x itself, which q_proj and v_proj share.
    """
    if not dropout:
        return F.linear(x, weight)
    return _LinearOfKept.apply(x, bernoulli(x, 1 - dropout), weight) / (1 - dropout)


class _LinearOfKept(torch.autograd.Function):
    """F.linear(x * kept, weight), where the backward pass computes x * kept again."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, kept, weight)
        return F.linear(x * kept, weight)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor]:
        x, kept, weight = ctx.saved_tensors
        rows, columns = ((part.reshape(-1, part.shape[-1])) for part in (x * kept, grad))  # (N, in), (N, out)
        of_x = grad @ weight * kept if ctx.needs_input_grad[0] else None
        return of_x, None, (rows.T @ columns).T  # in autograd's order, which decides how the sums are rounded
