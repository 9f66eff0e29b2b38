"""BERT's encoder in plain PyTorch: token ids in, hidden states out.

The parameters have the names of published checkpoints (`encoder.layer.0.attention.self.query.weight`, ...), so loading
is strict and needs no table of names; model/bert_weights.py does it. There is no pooler, no head and no dropout: this
project only reads frozen BERTs.

Source: Devlin et al. 2019 (BERT, section 3); the layer is that of Vaswani et al. 2017 with GELU (Hendrycks & Gimpel
2016) and learnt positions.

Shape letters: B rows, T tokens, D hidden_size, H attention heads, Dh head size, M intermediate_size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# By the name in config.json. "gelu" is exact, with the error function; the other two are its tanh approximation.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class BertConfig:
    """The architecture, with the field names of a checkpoint's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str


class Embeddings(nn.Module):
    """LayerNorm(token + position + segment); a single text is all segment 0."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: (B, T) to (B, T, D)."""
        positions = self.position_embeddings.weight[: input_ids.shape[1]]  # (T, D)
        segment = self.token_type_embeddings.weight[0]  # (D,)
        return self.LayerNorm(self.word_embeddings(input_ids) + segment + positions)


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(Dh) + mask) v for every head; each token sees all real tokens of its row."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, T, D), mask: (B, 1, 1, T), added to the attention's logits; to (B, T, D)."""
        projections = (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projections)  # (B, H, T, Dh)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).flatten(-2)


class AddAndNorm(nn.Module):
    """LayerNorm(residual + dense(x)): the norm comes after the sum, in contrast to LLaMA."""

    def __init__(self, config: BertConfig, width: int):
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x: (..., width), residual: (..., D) to (..., D)."""
        return self.LayerNorm(residual + self.dense(x))


class Attention(nn.Module):
    """Self-attention and its residual; `self` is the name in published checkpoints."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shapes as in SelfAttention."""
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    """The first half of the feed-forward part: activation(dense(x))."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D) to (..., M)."""
        return self.activation(self.dense(x))


class Layer(nn.Module):
    """Attention, then feed-forward, each with its residual and norm."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shapes as in SelfAttention."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shapes as in SelfAttention."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Bert(nn.Module):
    """The encoder of BERT. The vector of a text is the first position of its hidden states, where [CLS] stands."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states after the last layer.

        input_ids: (B, T) int64, rows padded on the right with any valid id; lengths: (B,) int64, real tokens of each
        row, at least 1. Returns (B, T, D); what stands at padding has no meaning.
        """
        x = self.embeddings(input_ids)
        padding = torch.arange(input_ids.shape[1], device=input_ids.device) >= lengths.unsqueeze(1)  # (B, T)
        mask = torch.zeros(padding.shape, dtype=x.dtype, device=x.device).masked_fill(padding, float("-inf"))
        return self.encoder(x, mask[:, None, None, :])
