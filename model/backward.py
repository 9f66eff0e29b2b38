"""Steps of a decoder layer with a backward pass by hand, since autograd would keep, or read, more than it needs.

On a CPU they give the numbers of the plain formulas under autograd, to the last bit: tests/test_backward.py.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), keeping only the inputs for the backward pass, which computes the function again.

    It stops as soon as it has what the function kept: a last step that keeps nothing of its own is not repeated. The
    function must draw no random numbers.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class _RMSNorm(torch.autograd.Function):
    """See rms_norm. Keeps x and one number for each token."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)  # (..., 1)
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, of_weight = x.to(inverse.dtype), None
        if ctx.needs_input_grad[1]:
            of_weight = (grad * (wide * inverse).to(x.dtype)).sum_to_size(weight.shape)
        grad = (grad * weight).to(inverse.dtype)
        # y_i = x_i r with r = (mean x^2 + eps)^(-1/2), and dr/dx_i = -r^3 x_i / D.
        through_r = (grad * wide).sum(-1, keepdim=True) * inverse.pow(3) / -x.shape[-1]  # (..., 1)
        return (grad * inverse).add_(wide * through_r).to(x.dtype), of_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, with the mean square taken in float32. x: (..., D); weight: (D,).

    On a GPU it is PyTorch's kernel, one instead of six, which rounds once: after the product with the weight.
    """
    if x.device.type == "cpu":
        return _RMSNorm.apply(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


class _SwiGLU(torch.autograd.Function):
    """See swiglu. Keeps its inputs; autograd would also keep silu(gate)."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, all (..., M)."""
    return _SwiGLU.apply(gate, up)


class _Take(torch.autograd.Function):
    """See take."""

    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.dtype = tokens.shape, tokens.dtype
        return tokens.index_select(0, index.flatten()).view(*index.shape, *tokens.shape[1:])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = torch.promote_types(ctx.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=wide, device=grad.device)
        total.index_add_(0, index.flatten(), grad.reshape(-1, *ctx.shape[1:]).to(wide))
        return total.to(ctx.dtype), None


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens[index], where several rows may share a token. tokens: (N, ...); index: int64 of any shape.

    Returns (*index.shape, ...). The backward pass sums in float32: in bf16 small gradients of many rows would be
    rounded away.
    """
    return _Take.apply(tokens, index)
