"""Meta's own checkpoint format, consolidated.*.pth and params.json: names, rotary layout and fields.

model.convert reads the files.
"""

import re
from pathlib import Path

import torch

from errors import CheckpointError, quoted
from model.llama import LlamaConfig
from model.weights import LARGEST_FLOAT, LARGEST_SIZE, MOST_LAYERS

# By our name: Meta's name, and the dimension along which the parts divide the tensor (None: each part has all of it).
META = {
    "embed_tokens": ("tok_embeddings", 1),
    "norm": ("norm", None),
    "lm_head": ("output", 0),
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
    "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}


def our_name(theirs: str) -> tuple[str, int | None] | None:
    """(our name, dimension along which it is divided) of a tensor of Meta's, or None if no LLaMA has such a tensor."""
    layer, stem = re.fullmatch(r"(layers\.\d+\.)?(.*)", theirs, re.DOTALL).groups("")
    for ours, (name, dim) in META.items():
        if f"{name}.weight" == stem:
            return f"{'' if ours == 'lm_head' else 'model.'}{layer}{ours}.weight", dim
    return None


def half_split(tensor: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of each head from Meta's rotary pairs (2i, 2i + 1) to ours, (i, i + Dh/2); see model.llama.rotate."""
    rows, width = tensor.shape
    return tensor.reshape(rows // head_dim, head_dim // 2, 2, width).transpose(1, 2).reshape(rows, width)


def config_of_params(path: Path, params: dict, stored: dict) -> tuple[dict, LlamaConfig]:
    """(content for config.json, the same as a LlamaConfig). Raises CheckpointError naming the wrong field."""
    if params.get("use_scaled_rope"):
        raise CheckpointError(
            f"{path}: use_scaled_rope is true, which this conversion does not support; use the published safetensors"
        )
    shape_of = {name: shape for name, (shape, _) in stored.items() if len(shape) == 2}
    for name in (embeddings := "model.embed_tokens.weight", gate := "model.layers.0.mlp.gate_proj.weight"):
        if name not in shape_of:
            raise CheckpointError(
                f"{path}: the parts beside it have no matrix for {name}; fetch the complete checkpoint"
            )
    if params.get("vocab_size", -1) == -1:  # LLaMA 1 and 2 leave it to the tokenizer; the embeddings have it too
        params = {**params, "vocab_size": shape_of[embeddings][0]}
    D, H = _positive(path, params, "dim", LARGEST_SIZE), _positive(path, params, "n_heads", LARGEST_SIZE)
    K = _positive(path, {"n_kv_heads": H, **params}, "n_kv_heads", LARGEST_SIZE)
    if D % H or H % K or D // H % 2:
        raise CheckpointError(
            f"{path}: dim {D}, n_heads {H} and n_kv_heads {K} do not divide into heads of even size; "
            "fetch the file again"
        )
    sizes = {
        "hidden_size": D,
        "intermediate_size": shape_of[gate][0],
        "vocab_size": _positive(path, params, "vocab_size", LARGEST_SIZE),
        "num_hidden_layers": _positive(path, params, "n_layers", MOST_LAYERS),
        "num_attention_heads": H,
        "num_key_value_heads": K,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,  # params.json does not say
        "rms_norm_eps": _positive(path, params, "norm_eps", LARGEST_FLOAT),
        "rope_theta": _positive(path, {"rope_theta": 10000.0, **params}, "rope_theta", LARGEST_FLOAT),
    }
    published = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
    }
    dtype = str(stored[embeddings][1]).removeprefix("torch.")
    return {**published, **sizes, "torch_dtype": dtype}, LlamaConfig(head_dim=D // H, **sizes)


def _positive(path: Path, params: dict, name: str, largest: float) -> float:
    """params[name], a float only if `largest` is LARGEST_FLOAT. Raises CheckpointError unless 0 < value <= largest."""
    value = params.get(name)
    allowed = (int, float) if largest == LARGEST_FLOAT else (int,)
    if type(value) not in allowed or not 0 < value <= largest:
        raise CheckpointError(
            f"{path}: {name} is {quoted(value)}; expected a positive number up to {largest}; fetch the file again"
        )
    return value
