"""What torch.nn.attention.varlen.varlen_attn computes, written out for a CPU, and what it refuses.

Its documentation, and the CUDA kernel behind it (FlashAttention-2), say: `query` holds the queries of all sequences one
after the other, `key` and `value` their keys; a window (left, right) is aligned at the ends of a sequence's queries and
keys, so query i of n sees the keys from i + m - n - left to i + m - n + right, of m. -1 is no limit.
"""

import torch

LARGEST_HEAD, HEAD_MULTIPLE, BITS_16 = 256, 8, (torch.bfloat16, torch.float16)


def make_varlen_attn(as_plain=lambda tensor: tensor, dtypes=BITS_16):
    """The stand-in. as_plain: the same numbers where the CPU may read them; dtypes: that it takes."""

    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
    ):
        heads, key_heads, size = query.shape[1], key.shape[1], query.shape[2]
        assert {query.dtype, key.dtype, value.dtype} <= set(dtypes) and query.dtype == key.dtype == value.dtype
        assert key.shape == value.shape and key.shape[2] == size and size <= LARGEST_HEAD and size % HEAD_MULTIPLE == 0
        assert all(part.dim() == 3 and part.stride(-1) == 1 for part in (query, key, value))
        assert heads == key_heads or (enable_gqa and heads % key_heads == 0)
        ends = []
        for counts, tokens, most in ((cu_seq_q, query, max_q), (cu_seq_k, key, max_k)):
            assert counts.dtype == torch.int32 and counts.dim() == 1 and counts.is_contiguous()
            assert counts.device == query.device and type(most) is int
            of_cpu = as_plain(counts).tolist()
            lengths = [b - a for a, b in zip(of_cpu, of_cpu[1:])]
            assert of_cpu[0] == 0 and of_cpu[-1] == len(tokens) and min(lengths) >= 0 and max(lengths) <= most
            ends.append(list(zip(of_cpu, of_cpu[1:])))
        assert len(ends[0]) == len(ends[1])
        results = [
            _one(query[a:b], key[c:d], value[c:d], scale or size**-0.5, window_size) for (a, b), (c, d) in zip(*ends)
        ]
        return torch.cat(results)

    return varlen_attn


def without_groups(varlen_attn):
    """As PyTorch 2.11 has it: as many key/value heads as query heads."""

    def varlen_attn_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)

    return varlen_attn_2_11


def _one(q, k, v, scale, window):
    """One sequence. q: (n, H, Dh); k, v: (m, K, Dh)."""
    repeat, wide = q.shape[1] // k.shape[1], torch.promote_types(q.dtype, torch.float32)
    k, v = (part.repeat_interleave(repeat, dim=1) for part in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q.to(wide), k.to(wide)) * scale
    ahead = (
        torch.arange(len(k), device=q.device) - torch.arange(len(q), device=q.device)[:, None] - (len(k) - len(q))
    )  # (n, m): how far a key is beyond the query
    left, right = window
    hidden = torch.zeros_like(ahead, dtype=torch.bool)
    if left >= 0:
        hidden |= ahead < -left
    if right >= 0:
        hidden |= ahead > right
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    weights = weights.masked_fill(hidden.all(-1, keepdim=True), 0.0)  # a query that sees no key: zeros
    return torch.einsum("hnm,mhd->nhd", weights, v.to(wide)).to(q.dtype)
