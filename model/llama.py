"""LLaMA in plain PyTorch: token ids in, hidden states or logits out.

Read this file from top to bottom; nothing is used before it is defined. The parameters have the names of published
checkpoints (`model.layers.0.self_attn.q_proj.weight`, ...), so loading is strict and needs no table of names. The
model knows nothing of LoRA, the loss, the data or ranks.

Sources: Touvron et al. 2023 (LLaMA), Zhang & Sennrich 2019 (RMSNorm), Su et al. 2021 (rotary embedding), Shazeer 2020
(SwiGLU), Ainslie et al. 2023 (grouped-query attention).

Shape letters: B rows, T tokens, D hidden_size, H attention heads, K key/value heads,
Dh head size, M intermediate_size, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.backward import rms_norm, swiglu
from model.prefix_tree import PrefixTree, Queries
from tensors import on_device


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies are changed for contexts longer than the trained one.

    kind: "linear" (Chen et al. 2023), "dynamic" (NTK-aware, by length) or "llama3".
    The last three fields are for "llama3" only.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """The architecture, with the field names of a checkpoint's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    rope_scaling: RopeScaling | None = None


class RMSNorm(nn.Module):
    """x / rms(x) * weight, with the mean square taken in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D) to (..., D)."""
        # bf16 has 8 significant bits, too few for a sum over D squares.
        return rms_norm(x, self.weight, self.eps)


def rope_frequencies(config: LlamaConfig, length: int) -> Tensor:
    """The Dh/2 rotation frequencies in radians per token, float32, lowest index fastest.

    length: padded tokens of a row. It matters only for "dynamic" scaling beyond the trained context; this is the one
    case in which padding has an influence. Source: Su et al. 2021, section 3.4.2; the scalings as in RopeScaling.
    """
    theta, scaling, dim = config.rope_theta, config.rope_scaling, config.head_dim
    if scaling and scaling.kind == "dynamic" and length > config.max_position_embeddings:
        stretch = scaling.factor * length / config.max_position_embeddings - (scaling.factor - 1)
        theta = theta * stretch ** (dim / (dim - 2))
    inv_freq = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)  # (Dh/2,)
    if scaling and scaling.kind == "linear":
        inv_freq = inv_freq / scaling.factor
    if scaling and scaling.kind == "llama3":
        # Low frequencies are divided by the factor, high ones kept, those in between blended.
        turns = scaling.original_max_position_embeddings * inv_freq / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        inv_freq = keep * inv_freq + (1 - keep) * inv_freq / scaling.factor
    return inv_freq


def rope_tables(config: LlamaConfig, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cos and sin of position x frequency, each (T, 1, Dh), in the dtype and on the device of `like`.

    The first half of sin is negative, as `rotate` needs it.
    """
    (inv_freq,) = on_device([rope_frequencies(config, length)], like.device)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=like.device), inv_freq)  # (T, Dh/2)
    angles = angles.unsqueeze(1)  # (T, 1, Dh/2): the same for all heads
    cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head vector by its position's angles. x: (..., T, H, Dh); cos, sin: (T, 1, Dh) of rope_tables.

    Half-split layout, as in published checkpoints: component i is paired with i + Dh/2,
    (x_i, x_{i+Dh/2}) -> (x_i cos - x_{i+Dh/2} sin, x_{i+Dh/2} cos + x_i sin).
    Meta's own files pair 2i with 2i+1, so their rows of q_proj and k_proj are in another order.
    With Dh = 4: half-split pairs (0,2)(1,3), Meta pairs (0,1)(2,3).
    """
    swapped = torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)  # the halves change places
    return x * cos + swapped * sin


class Attention(nn.Module):
    """Causal self-attention; if K < H, each key/value head serves H/K query heads."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.head_dim = config.head_dim
        D, H, K, Dh = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, self.head_dim
        self.q_proj = nn.Linear(D, H * Dh, bias=False)
        self.k_proj = nn.Linear(D, K * Dh, bias=False)
        self.v_proj = nn.Linear(D, K * Dh, bias=False)
        self.o_proj = nn.Linear(H * Dh, D, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, queries: Queries | None = None) -> Tensor:
        """Rows, x: (B, T, D) with cos, sin: (T, 1, Dh), to (B, T, D).

        With `queries`, the tokens of a tree, x: (N, D) with cos, sin: (N, 1, Dh), to (Q, D) for the queries' tokens.
        """
        x_q, cos_q, sin_q = (x, cos, sin) if queries is None else (queries.select(part) for part in (x, cos, sin))
        q = self.q_proj(x_q).unflatten(-1, (-1, self.head_dim))  # (B, T, H, Dh) or (Q, H, Dh)
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))  # (B, T, K, Dh) or (N, K, Dh)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))  # (B, T, K, Dh) or (N, K, Dh)
        q, k = rotate(q, cos_q, sin_q), rotate(k, cos, sin)
        y = causal_attention(q, k, v) if queries is None else queries.attention.attend(q, k, v)
        return self.o_proj(y.flatten(-2))


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v, where each token sees itself and the tokens before it.

    q: (B, T, H, Dh); k, v: (B, T, K, Dh); returns (B, T, H, Dh). Rows are padded on the right, so no real token sees
    padding: the causal mask is enough.
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, T, Dh), (B, K, T, Dh)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] < q.shape[1])
    return y.transpose(1, 2)  # (B, T, H, Dh)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D) to (..., D)."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class DecoderLayer(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the residual stream and adds to it."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, queries: Queries | None = None) -> Tensor:
        """Shapes as in Attention."""
        y = self.self_attn(self.input_layernorm(x), cos, sin, queries)
        x = (x if queries is None else queries.select(x)) + y
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, decoder layers and final norm: token ids (B, T) to hidden states (B, T, D)."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.checkpointed_layers = 0  # so many, from the first, keep only their input for the backward pass

    def forward(self, input_ids: Tensor, tree: PrefixTree | None = None) -> Tensor:
        """input_ids: (B, T), rows padded on the right with any valid id, to (B, T, D).

        With a tree, input_ids: (N,), its tokens, to (N, D), or to (B * A, D) if the tree selects A tokens of each row.
        """
        hidden_states = self.embed_tokens(input_ids)  # (B, T, D) or (N, D)
        length = input_ids.shape[1] if tree is None else tree.index.shape[1]
        cos, sin = rope_tables(self.config, length, like=hidden_states)  # (T, 1, Dh)
        if tree is not None:
            cos, sin = cos[tree.depth], sin[tree.depth]  # (N, 1, Dh)
        for index, layer in enumerate(self.layers):
            queries = None if tree is None else tree.all_tokens
            if tree is not None and tree.selected_tokens is not None and index == len(self.layers) - 1:
                queries = tree.selected_tokens  # after the last layer nothing needs the other tokens
            if index < self.checkpointed_layers and torch.is_grad_enabled():
                # Reentrant checkpointing gives no gradients if the input needs none, as after a frozen embedding.
                # The random state is kept so that LoRA's dropout draws the same mask when the layer is recomputed.
                hidden_states = checkpoint(
                    layer, hidden_states, cos, sin, queries, use_reentrant=False, preserve_rng_state=True
                )
            else:
                hidden_states = layer(hidden_states, cos, sin, queries)
        return self.norm(hidden_states)


class Llama(nn.Module):
    """The whole language model. `lm_head` computes logits only at the positions that are asked for."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Next-token logits at `positions`, or everywhere if None.

        input_ids: (B, T) int64, rows padded on the right with any valid id.
        positions: (B, A) int64; the logits at position t predict token t + 1.
        Returns (B, A, V), or (B, T, V), in the model's dtype.
        """
        hidden_states = self.model(input_ids)  # (B, T, D)
        if positions is not None:
            index = positions.unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1])  # (B, A, D)
            hidden_states = hidden_states.gather(1, index)
        return self.lm_head(hidden_states)
