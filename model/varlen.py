"""Attention along the branches of a prefix tree on a GPU, by PyTorch's kernel for sequences of different lengths.

The tokens of the tree are numbered row by row, and each row adds a run of tokens at the end of its branch. So its
queries already stand together, and see of its keys what a causal mask lets them see that is aligned at the ends. The
kernel takes such runs one after the other: no mask, no padding, no groups of rows, and fewer key/value heads than query
heads as they are. The masked form in model/prefix_tree.py computes the same everywhere else.

Shape letters as there, and: R runs, L keys of all runs together.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from files import optional_module
from model.backward import recomputed, take

varlen_attn = getattr(optional_module("torch.nn.attention.varlen"), "varlen_attn", None)  # from PyTorch 2.10 on
LARGEST_HEAD, HEAD_MULTIPLE = 256, 8  # what the kernel takes


def has_varlen(dtype: torch.dtype, device: torch.device, head_dim: int) -> bool:
    """Whether the kernel takes these tensors and is to be used.

    It needs an NVIDIA GPU from Ampere on, 16 bits, and PyTorch 2.11 for windows. It is not used under
    use_deterministic_algorithms, where products and a softmax are certain to give the same bytes, nor where PyTorch's
    flash attention is switched off (torch.backends.cuda.enable_flash_sdp).
    """
    fits = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if not (fits and head_dim <= LARGEST_HEAD and head_dim % HEAD_MULTIPLE == 0) or varlen_attn is None:
        return False
    flash = torch.backends.cuda.is_flash_attention_available() and torch.backends.cuda.flash_sdp_enabled()
    wanted = flash and not torch.are_deterministic_algorithms_enabled() and torch.version.hip is None
    return wanted and _takes("window_size") and torch.cuda.get_device_capability(device) >= (8, 0)


def _takes(parameter: str) -> bool:
    return parameter in inspect.signature(varlen_attn).parameters


class Layout(NamedTuple):
    """How queries will attend. indices: int64, on the CPU; make: takes them on the device and gives what attends."""

    indices: list[Tensor]
    make: Callable


class Runs:
    """The queries of a tree as runs at the ends of branches.

    keys: (L,), indices of the tree's tokens, branch after branch, each up to its run's last token; query_ends,
    key_ends: (R + 1,) int32, 0 and where each run and each branch ends; most: queries and keys of the longest.
    """

    def __init__(self, most: tuple[int, int], keys: Tensor, query_ends: Tensor, key_ends: Tensor):
        self.most, self.keys = most, keys
        self.query_ends, self.key_ends = query_ends.int(), key_ends.int()
        self.grouped = _takes("enable_gqa")  # from PyTorch 2.12 on

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(Dh)) v along the branches. q: (Q, H, Dh); k, v: (N, K, Dh). Returns (Q, H, Dh)."""
        if torch.compiler.is_compiling():  # it traces no call of autograd within a backward pass
            return recomputed(self.of_keys, q, k, v)
        return _Attend.apply(self, q, k, v)

    def of_keys(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same with autograd's own backward pass."""
        k, v = take(k, self.keys), take(v, self.keys)  # (L, K, Dh)
        served = q.shape[1] // k.shape[1]  # query heads of a key/value head
        if served > 1 and not self.grouped:
            k, v = (part.repeat_interleave(served, dim=1) for part in (k, v))  # (L, H, Dh)
        groups = {"enable_gqa": served > 1} if self.grouped else {}
        return varlen_attn(q, k, v, self.query_ends, self.key_ends, *self.most, window_size=(-1, 0), **groups)


class _Attend(torch.autograd.Function):
    """runs.of_keys(q, k, v), which is computed again in the backward pass: gathered keys and values are not kept.

    torch.utils.checkpoint does the same, and asks more of the CPU, for which a GPU waits (docs/performance.md).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, runs: Runs, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.runs = runs
        ctx.save_for_backward(q, k, v)
        return runs.of_keys(q, k, v)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            inputs = [part.detach().requires_grad_() for part in ctx.saved_tensors]
            y = ctx.runs.of_keys(*inputs)
        return None, *torch.autograd.grad(y, inputs, grad)


def added_runs(number: Tensor, starts: Tensor, ends: Tensor) -> Layout:
    """Every token of the tree as a query once, in the row that added it.

    number: (B, T), the tree's tokens of each row; the row added those from starts to ends, (B,) each.
    """
    adds = ends > starts
    return _runs(number[adds], (ends - starts)[adds], ends[adds])


def selected_runs(index: Tensor, positions: Tensor) -> Layout:
    """The tokens at `positions`, (B, A), of rows with the tree's tokens `index`, (B, T), row by row as queries.

    Positions that follow each other are one run; those beyond an answer's end are runs of their own.
    """
    begins = F.pad(positions.diff(dim=1) != 1, (1, 0), value=True).flatten()  # (B * A,): not next to the one before
    first = begins.nonzero().squeeze(1)  # (R,)
    lengths = F.pad(first, (0, 1), value=positions.numel()).diff()
    ends = positions.flatten()[first] + lengths
    return _runs(index[first // positions.shape[1]], lengths, ends)


def _runs(branches: Tensor, lengths: Tensor, ends: Tensor) -> Layout:
    """branches: (R, T), tokens of the row of each run; lengths, ends: (R,), queries of a run, and keys it sees."""
    keys = branches[torch.arange(branches.shape[1]) < ends[:, None]]  # (L,)
    indices = [keys, *(F.pad(counts.cumsum(0), (1, 0)) for counts in (lengths, ends))]
    return Layout(indices, partial(Runs, (int(lengths.max()), int(ends.max()))))
