"""Linear layers that hold their matrix in 8 bits, half the bytes of bf16, for a base that is frozen.

Only weights are quantised, symmetrically, with one scale per output channel: w = s q with q in -127 ... 127. As s
does not depend on the input channel, x W^T = s (x Q^T): the product is scaled instead of the matrix, and Q itself is
exact in bf16. Source: Dettmers et al. 2022, LLM.int8(), section 2. Its treatment of outliers is not needed, as they
occur in activations, which are not quantised here.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q int8 of the same shape, s bf16 (out,)) for a finite weight (out, in); |w - s q| <= s / 2 for every element.

    s = max |row| / 127, rounded to bf16, which float32 and float64 hold exactly too. That rounding changes
    max |row| / s by at most 1/512 of 127, so it still rounds to 127. A row of zeros, or of values too small for that,
    has s = 1.
    """
    weight = weight.float()
    largest = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1))  # |weight| would be another copy of the matrix
    scale = (largest / 127).bfloat16()  # (out,)
    scale = torch.where(scale < torch.finfo(scale.dtype).tiny, 1, scale)
    return (weight / scale.float().unsqueeze(1)).round_().to(torch.int8), scale


class _Int8Product(torch.autograd.Function):
    """s (x Q^T). Its backward pass converts Q again; autograd alone would keep every converted matrix until then."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)  # the layer holds both anyway
        return F.linear(x, weight.to(x.dtype)).mul_(scale.to(x.dtype))  # (..., out)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple:
        weight, scale = ctx.saved_tensors
        return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None


class Int8Linear(nn.Linear):
    """A frozen linear layer without bias, computed in the dtype of x. weight: int8 (out, in); scale: bf16 (out,)."""

    def __init__(self, weight: torch.Tensor):
        """weight: (out, in), the finite floating-point matrix to quantise; it is not kept."""
        super().__init__(
            weight.shape[1], weight.shape[0], bias=False, device="meta"
        )  # takes no memory and draws no random numbers
        weight, scale = quantise(weight)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in) to (..., out)."""
        return _Int8Product.apply(x, self.weight, self.scale)
