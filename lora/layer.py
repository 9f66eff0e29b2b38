"""One LoRA layer: a frozen linear map and a trainable update of low rank.

Source: Hu et al. 2021, LoRA, section 4.1.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lora.dropout import linear_after_dropout


class LoRALinear(nn.Module):
    """y = W x + s * B(A(dropout(x))), with A (r, in), B (out, r) and s = alpha / r.

    rslora: s = alpha / sqrt(r) instead (Kalajdzievski 2023).
    base: the frozen nn.Linear that is wrapped. A starts Kaiming-uniform, that is, in +-1/sqrt(in); B starts at zero,
    so a fresh layer computes exactly W x. A and B are float32 master weights whatever the dtype of the base: bf16 has
    8 bits, which would lose an update of 1e-4. Their products are computed in the dtype of x.
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float, rslora: bool = False):
        super().__init__()
        self.base = base
        self.scaling = alpha / (math.sqrt(r) if rslora else r)
        self.dropout = dropout  # probability
        options = {"dtype": torch.float32, "device": base.weight.device}
        # Drawn on the CPU: a seed gives the same adapter on every device. a = sqrt(5) makes Kaiming's bound
        # sqrt(6 / ((1 + a^2) * in)) = 1 / sqrt(in).
        drawn = nn.init.kaiming_uniform_(torch.empty(r, base.in_features, dtype=torch.float32), a=math.sqrt(5))
        self.lora_A = nn.Parameter(drawn.to(**options))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in) to (..., out)."""
        dropout = self.dropout if self.training else 0.0
        low_rank = self.scaling * linear_after_dropout(x, self.lora_A.to(x.dtype), dropout)  # (..., r)
        return self.base(x) + F.linear(low_rank, self.lora_B.to(x.dtype))

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """W + s B A, (out, in), added up in float32 and rounded once to the dtype of `weight`."""
        update = self.lora_B.detach().float() @ self.lora_A.detach().float()  # (out, in)
        return (weight.float() + self.scaling * update).to(weight.dtype)
