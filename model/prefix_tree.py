"""Rows of token ids as a prefix tree: what several rows begin with is computed once.

Under a causal mask a hidden state depends on the tokens up to its own and on nothing else. Rows that begin alike
have the same hidden states, in every layer, for as long as they do. So the tree holds each distinct prefix once, as N tokens
in a line without any padding; projections, norms and MLPs never see more than those. Attention alone needs rows: a
token looks at the tokens on its own branch, which are gathered for it, and gradients come back along the same
branches, summed over the rows that share a token. `Llama.forward` on padded rows computes the same, token by token for every row.

Shape letters: B rows, T tokens of the longest, N distinct tokens, A asked positions, H and K heads, Dh head size;
G rows of a group, S queries of its longest.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows attend in groups that are padded to their longest; a row with less than this share of it begins the next.
LEAST_FILLED = 0.8


@dataclass(frozen=True)
class Group:
    """Rows whose queries are computed in one call.

    queries: (G, S) which of the query tokens; keys: (G, T) which tokens of the tree lie on the row's
    branch, root first; mask: (G, 1, S, T), 0 where a query may look and -inf where it may not.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Queries:
    """Tokens of the tree that go through a layer's attention and MLP, all looking at the whole tree's keys and values.

    tokens: (Q,) which ones; None for all N in their order. output: (Q,) where each stands in the groups' results, put in a line.
    """

    tokens: Tensor | None
    groups: list[Group]
    output: Tensor

    def select(self, x: Tensor) -> Tensor:
        """The rows of x, (N, ...), that belong to these tokens: (Q, ...)."""
        return x if self.tokens is None else take(x, self.tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(Dh)) v along the branches. q: (Q, H, Dh); k, v: (N, K, Dh). Returns (Q, H, Dh)."""
        results = []
        for group in self.groups:
            rows = (
                take(q, group.queries),
                take(k, group.keys),
                take(v, group.keys),
            )  # (G, S, H, Dh), (G, T, K, Dh) twice
            y = masked_attention(*(part.transpose(1, 2) for part in rows), group.mask)  # (G, H, S, Dh)
            results.append(y.transpose(1, 2).flatten(0, 1))  # (G * S, H, Dh)
        return take(torch.cat(results), self.output)


class PrefixTree:
    """The distinct prefixes of B rows.

    input_ids: (N,) tokens, parents before children; depth: (N,) the position of each in its rows;
    index: (B, T), on the CPU, where in the tree a row's tokens are, any valid index beyond its end;
    all_tokens: Queries, all tokens; selected_tokens: Queries, the tokens at `positions` alone, row by row, or None.
    """

    def __init__(
        self, input_ids: Tensor, lengths: Tensor, positions: Tensor | None, dtype: torch.dtype, device: torch.device
    ):
        """input_ids: (B, T) int64, padded on the right; lengths: (B,); positions: (B, A) or None; all on the CPU.

        dtype, device: the model's.
        """
        B, T = input_ids.shape
        branches = [row[:length] for row, length in zip(input_ids.tolist(), lengths.tolist())]
        order = torch.tensor(sorted(range(B), key=branches.__getitem__))  # rows that begin alike come to stand together
        ids, ends, columns = input_ids[order], lengths[order], torch.arange(T)
        alike = (ids[1:] == ids[:-1]) & (columns < torch.minimum(ends[1:], ends[:-1])[:, None])  # (B - 1, T)
        starts = F.pad(alike.long().cumprod(1).sum(1), (1, 0))  # (B,): what comes before is the previous row's, too
        own = (columns >= starts[:, None]) & (columns < ends[:, None])  # (B, T)
        number = torch.where(own, own.flatten().cumsum(0).view(B, T) - 1, 0)
        number = number.cummax(0).values  # the token of a shared column is that of the last row that has one of its own
        self.input_ids, self.depth = ids[own].to(device), columns.expand(B, T)[own].to(device)
        self.index = torch.empty_like(number).index_copy_(0, order, number)
        self.all_tokens = _every_token(number, starts, ends, dtype, device)
        self.selected_tokens = None
        if positions is not None:
            mask = _mask(columns <= positions[:, :, None], dtype, device)  # (B, 1, A, T)
            asked = self.index.gather(1, positions).flatten().to(device)  # (B * A,)
            line = torch.arange(positions.numel(), device=device)
            self.selected_tokens = Queries(asked, [Group(line.view_as(positions), self.index.to(device), mask)], line)

    def __len__(self) -> int:
        return len(self.input_ids)


def prefix_tree(model: nn.Module, input_ids: Tensor, lengths: Tensor, positions: Tensor | None = None) -> PrefixTree:
    """The tree of these rows, on the CPU, for a Llama's device and dtype."""
    weight = model.lm_head.weight
    return PrefixTree(input_ids, lengths, positions, weight.dtype, weight.device)


def _every_token(number: Tensor, starts: Tensor, ends: Tensor, dtype: torch.dtype, device: torch.device) -> Queries:
    """Each token asks once: in the row that owns it. number: (B, T) in the order of starts and ends, (B,) each."""
    owned = ends - starts
    rows = [row for row in owned.argsort(descending=True).tolist() if owned[row] > 0]
    groups, output, seen = [], torch.empty(int(owned.sum()), dtype=torch.int64), 0
    while rows:
        longest = int(owned[rows[0]])
        members = torch.tensor([row for row in rows if owned[row] >= LEAST_FILLED * longest])
        rows = rows[len(members) :]
        width = int(ends[members].max())
        column = starts[members, None] + torch.arange(longest)  # (G, S)
        real = column < ends[members, None]
        column = column.minimum(ends[members, None] - 1)  # beyond its end a row asks its last token again, in vain
        queries = number[members].gather(1, column)  # (G, S)
        output[queries[real]] = seen + torch.arange(real.numel()).view_as(real)[real]
        seen += real.numel()
        mask = _mask(torch.arange(width) <= column[:, :, None], dtype, device)  # (G, 1, S, T)
        groups.append(Group(queries.to(device), number[members, :width].to(device), mask))
    return Queries(None, groups, output.to(device))


def _mask(visible: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(G, S, T) of what may be seen to what is added to the scores, (G, 1, S, T)."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf")).unsqueeze(1).to(device)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dh) + mask) v. q: (G, H, S, Dh); k, v: (G, K, T, Dh); mask: (G, 1, S, T). Returns (G, H, S, Dh)."""
    repeat = q.shape[1] // k.shape[1]
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=repeat > 1)
    # PyTorch's fused kernel for the CPU needs three times as long as these four lines, most of it in its backward pass.
    q, k, v = (part.contiguous() for part in (q * q.shape[-1] ** -0.5, k, v))
    if repeat > 1:
        k, v = (part.repeat_interleave(repeat, dim=1) for part in (k, v))
    scores = q @ k.transpose(-1, -2)  # (G, H, S, T)
    scores += mask
    return torch.softmax(scores, dim=-1) @ v


class _Take(torch.autograd.Function):
    """tokens[index], whose backward pass sums in float32: bf16 would lose what a token's many rows have to say."""

    @staticmethod
    def forward(ctx, tokens: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.dtype = tokens.shape, tokens.dtype
        return tokens.index_select(0, index.flatten()).view(*index.shape, *tokens.shape[1:])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = torch.promote_types(ctx.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=wide, device=grad.device)
        total.index_add_(0, index.flatten(), grad.reshape(-1, *ctx.shape[1:]).to(wide))
        return total.to(ctx.dtype), None


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens: (N, ...); index: any shape of int64. Returns (*index.shape, ...)."""
    return _Take.apply(tokens, index)
