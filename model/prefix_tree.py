"""Rows of token ids as a prefix tree: a beginning that several rows share is computed once.

Under a causal mask a hidden state depends only on the tokens up to its own. Rows that begin with the same tokens have
the same hidden states there, in every layer. So the tree holds each distinct prefix once, by its last token: N tokens
in one line, without padding. With the rows "a b c" and "a b d" it holds four tokens, a b c d, instead of six.
Projections, norms and MLPs work on these N tokens. Only attention needs rows: a token sees the tokens on its own
branch, which are gathered for it. Gradients come back along the same branches, summed over the rows that share a
token. `Llama.forward` on padded rows computes the same hidden states, once for every row.

Shape letters: B rows, T tokens of the longest, N tokens of the tree, Q of them that attend, A positions selected in
each row, H and K heads, Dh head size; G rows of a group, S queries of its longest row.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from tensors import on_device

# Attention is computed for groups of rows, padded to the longest row of the group. A row with less than this share of
# the longest row's queries goes to a later group.
LEAST_FILLED = 0.8


@dataclass(frozen=True)
class Group:
    """Rows whose attention is computed in one call.

    queries: (G, S), indices of query tokens; keys: (G, T), indices of the tree's tokens on the row's branch, from the
    root; mask: (G, 1, S, T), 0 where a query sees a key and -inf where it does not.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Queries:
    """The tokens of a tree whose output a layer computes; keys and values come from all tokens of the tree.

    tokens: (Q,), their indices in the tree; None for all N in order. output: (Q,), the place of each in the
    concatenated results of the groups.
    """

    tokens: Tensor | None
    groups: list[Group]
    output: Tensor

    def select(self, x: Tensor) -> Tensor:
        """The part of x, (N, ...), that belongs to these tokens, (Q, ...)."""
        return x if self.tokens is None else take(x, self.tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(Dh)) v along the branches. q: (Q, H, Dh); k, v: (N, K, Dh). Returns (Q, H, Dh)."""
        results = []
        for group in self.groups:
            q_rows = take(q, group.queries)  # (G, S, H, Dh)
            k_rows, v_rows = take(k, group.keys), take(v, group.keys)  # (G, T, K, Dh)
            parts = (part.transpose(1, 2) for part in (q_rows, k_rows, v_rows))
            y = masked_attention(*parts, group.mask)  # (G, H, S, Dh)
            results.append(y.transpose(1, 2).flatten(0, 1))  # (G * S, H, Dh)
        return take(torch.cat(results), self.output)


class PrefixTree:
    """The distinct prefixes of B rows.

    input_ids: (N,), the tokens; depth: (N,), the position of each in its rows; index: (B, T) on the CPU, where in the
    tree a row's tokens are, any valid index beyond its end; all_tokens: the Queries of all N tokens; selected_tokens:
    the Queries of the tokens at `positions`, row by row, or None.
    """

    def __init__(
        self, input_ids: Tensor, lengths: Tensor, positions: Tensor | None, dtype: torch.dtype, device: torch.device
    ):
        """input_ids: (B, T) int64, padded on the right; lengths: (B,); positions: (B, A) or None; all on the CPU.

        dtype, device: the model's.
        """
        B, T = input_ids.shape
        unpadded = [row[:length] for row, length in zip(input_ids.tolist(), lengths.tolist())]
        order = torch.tensor(sorted(range(B), key=unpadded.__getitem__))  # puts rows with the same beginning together
        ids, ends, columns = input_ids[order], lengths[order], torch.arange(T)
        same = (ids[1:] == ids[:-1]) & (columns < torch.minimum(ends[1:], ends[:-1])[:, None])  # (B - 1, T)
        starts = F.pad(same.long().cumprod(1).sum(1), (1, 0))  # (B,): so many tokens are shared with the previous row
        own = (columns >= starts[:, None]) & (columns < ends[:, None])  # (B, T): the others, which the row adds
        number = torch.where(own, own.flatten().cumsum(0).view(B, T) - 1, 0)
        number = number.cummax(0).values  # a shared token has the number that the last row to add one there gave it
        self.index = torch.empty_like(number).index_copy_(0, order, number)
        parts = [ids[own], columns.expand(B, T)[own], *_all_queries(number, starts, ends)]
        if positions is not None:
            parts += [self.index.gather(1, positions).flatten(), self.index, positions]
        self.input_ids, self.depth, output, *parts = on_device(parts, device)
        self.selected_tokens = None
        if positions is not None:
            *parts, tokens, keys, last = parts
            line = torch.arange(len(tokens), device=device)
            self.selected_tokens = Queries(tokens, [_group(line.view_as(last), keys, last, dtype)], line)
        self.all_tokens = Queries(None, [_group(*parts[i : i + 3], dtype) for i in range(0, len(parts), 3)], output)

    def __len__(self) -> int:
        return len(self.input_ids)


def prefix_tree(model: nn.Module, input_ids: Tensor, lengths: Tensor, positions: Tensor | None = None) -> PrefixTree:
    """The tree of these rows for a Llama, in its dtype and on its device; arguments as in PrefixTree, on the CPU."""
    weight = model.lm_head.weight
    return PrefixTree(input_ids, lengths, positions, weight.dtype, weight.device)


def _all_queries(number: Tensor, starts: Tensor, ends: Tensor) -> list[Tensor]:
    """Every token of the tree as a query once, in the row that added it: `output` of the Queries, then for each group
    what _group takes.

    number: (B, T), the tree's tokens of each row; the row added those from starts to ends, (B,) each.
    """
    added = ends - starts
    rows = [row for row in added.argsort(descending=True).tolist() if added[row] > 0]
    groups, output, seen = [], torch.empty(int(added.sum()), dtype=torch.int64), 0
    while rows:
        longest = int(added[rows[0]])
        members = torch.tensor([row for row in rows if added[row] >= LEAST_FILLED * longest])
        rows = rows[len(members) :]
        column = starts[members, None] + torch.arange(longest)  # (G, S)
        real = column < ends[members, None]
        column = column.minimum(ends[members, None] - 1)  # padding: the last query again, its result unused
        queries = number[members].gather(1, column)  # (G, S)
        output[queries[real]] = seen + torch.arange(real.numel()).view_as(real)[real]
        seen += real.numel()
        groups += [queries, number[members, : int(ends[members].max())], column]
    return [output, *groups]


def _group(queries: Tensor, keys: Tensor, last: Tensor, dtype: torch.dtype) -> Group:
    """The group with its mask. last: (G, S), the last column of `keys` that a query sees."""
    width, device = keys.shape[1], keys.device
    # A GPU's fused kernel would copy a mask, in every layer, whose rows are not multiples of 8 apart.
    apart = width if device.type == "cpu" else width + -width % 8
    mask = torch.zeros(*last.shape, apart, dtype=dtype, device=device)[..., :width]  # (G, S, T)
    hidden = torch.arange(width, device=device) > last[:, :, None]
    return Group(queries, keys, mask.masked_fill_(hidden, float("-inf")).unsqueeze(1))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dh) + mask) v, (G, H, S, Dh). q: (G, H, S, Dh); k, v: (G, K, T, Dh); mask: (G, 1, S, T)."""
    # PyTorch's fused kernel for the CPU takes three times as long as the last lines, mostly in its backward pass. Those
    # for GPUs sum in no fixed order there.
    fused = q.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled()
    q, k, v = (q, k, v) if fused else (part.contiguous() for part in (q * q.shape[-1] ** -0.5, k, v))
    if (repeat := q.shape[1] // k.shape[1]) > 1:  # no fused kernel of most GPUs takes a mask and fewer heads
        k, v = (part.repeat_interleave(repeat, dim=1) for part in (k, v))
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = q @ k.transpose(-1, -2)  # (G, H, S, T)
    scores += mask
    return torch.softmax(scores, dim=-1) @ v


class _Take(torch.autograd.Function):
    """tokens[index]. The backward pass sums in float32: in bf16 small gradients of many rows would be rounded away."""

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
    """tokens[index]. tokens: (N, ...); index: int64 of any shape. Returns (*index.shape, ...)."""
    return _Take.apply(tokens, index)
