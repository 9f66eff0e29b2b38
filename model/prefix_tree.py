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
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backward import recomputed, take
from model.varlen import Layout, Runs, added_runs, has_varlen, selected_runs
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

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of these rows, (G * S, H, Dh); arguments as in Groups.attend."""
        # A query belongs to one row; the gradient of padding is zero. So there is nothing to sum, as take would.
        q_rows = q.index_select(0, self.queries.flatten()).view(*self.queries.shape, *q.shape[1:])  # (G, S, H, Dh)
        k_rows, v_rows = take(k, self.keys), take(v, self.keys)  # (G, T, K, Dh)
        y = masked_attention(*(part.transpose(1, 2) for part in (q_rows, k_rows, v_rows)), self.mask)  # (G, H, S, Dh)
        return y.transpose(1, 2).flatten(0, 1)


class Groups:
    """The queries of a tree in groups of rows, with masks: the form for every device.

    output: (Q,), the place of each query in the concatenated results of the groups.
    """

    def __init__(self, dtype: torch.dtype, output: Tensor, *parts: Tensor):
        """parts: for each group what _group takes."""
        self.output = output
        self.groups = [_group(*parts[i : i + 3], dtype) for i in range(0, len(parts), 3)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(Dh)) v along the branches. q: (Q, H, Dh); k, v: (N, K, Dh). Returns (Q, H, Dh)."""
        results = [recomputed(group.attend, q, k, v) for group in self.groups]
        return torch.cat(results).index_select(0, self.output)


@dataclass(frozen=True)
class Queries:
    """The tokens of a tree whose output a layer computes; keys and values come from all tokens of the tree.

    tokens: (Q,), their indices in the tree; None for all N in order. attention: how they attend.
    """

    tokens: Tensor | None
    attention: Groups | Runs

    def select(self, x: Tensor) -> Tensor:
        """The part of x, (N, ...), that belongs to these tokens, (Q, ...)."""
        return x if self.tokens is None else take(x, self.tokens)


class PrefixTree:
    """The distinct prefixes of B rows.

    input_ids: (N,), the tokens; depth: (N,), the position of each in its rows; index: (B, T) on the CPU, where in the
    tree a row's tokens are, any valid index beyond its end; all_tokens: the Queries of all N tokens; selected_tokens:
    the Queries of the tokens at `positions`, row by row, or None.
    """

    def __init__(
        self, input_ids: Tensor, lengths: Tensor, positions: Tensor | None, like: Tensor, by_runs: bool = False
    ):
        """input_ids: (B, T) int64, padded on the right; lengths: (B,); positions: (B, A) or None; all on the CPU.

        like: a tensor of the model's dtype and device. by_runs: attend in the form that only some GPUs have.
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
        added = added_runs(number, starts, ends) if by_runs else _added_groups(number, starts, ends, like.dtype)
        parts = [ids[own], columns.expand(B, T)[own], *added.indices]
        if positions is not None:
            lay_out = selected_runs if by_runs else partial(_selected_group, dtype=like.dtype)
            selected = lay_out(self.index, positions)
            parts += [self.index.gather(1, positions).flatten(), *selected.indices]
        self.input_ids, self.depth, *parts = on_device(parts, like.device)
        self.all_tokens = Queries(None, added.make(*parts[: len(added.indices)]))
        self.selected_tokens = None
        if positions is not None:
            tokens, *parts = parts[len(added.indices) :]  # (B * A,)
            self.selected_tokens = Queries(tokens, selected.make(*parts))

    def __len__(self) -> int:
        return len(self.input_ids)


def prefix_tree(model: nn.Module, input_ids: Tensor, lengths: Tensor, positions: Tensor | None = None) -> PrefixTree:
    """The tree of these rows for a Llama, in its dtype and on its device; arguments as in PrefixTree, on the CPU."""
    weight = model.lm_head.weight
    by_runs = has_varlen(weight.dtype, weight.device, model.config.head_dim)
    return PrefixTree(input_ids, lengths, positions, weight, by_runs)


def _added_groups(number: Tensor, starts: Tensor, ends: Tensor, dtype: torch.dtype) -> Layout:
    """Every token of the tree as a query once, in the row that added it.

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
    return Layout([output, *groups], partial(Groups, dtype))


def _selected_group(index: Tensor, positions: Tensor, dtype: torch.dtype) -> Layout:
    """The tokens at `positions`, (B, A), of rows with the tree's tokens `index`, (B, T), row by row as queries."""
    line = torch.arange(positions.numel())
    return Layout([line, line.view_as(positions), index, positions], partial(Groups, dtype))


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
