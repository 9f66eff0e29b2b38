"""Meta's own checkpoint format, consolidated.*.pth and params.json: names, rotary layout and fields.

model.convert reads the files.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from errors import CheckpointError, quoted
from model.llama import LlamaConfig, RopeScaling
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
# Of llama3 scaling, the same for all of Meta's models that have it.
FACTORS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


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


@dataclass(frozen=True)
class Unsaid:
    """What params.json does not say of a model, from the person who converts it; None: not answered.

    rope_factor: of llama3 scaling; positions: tokens of the longest row that the model was made for.
    """

    rope_factor: float | None = None
    positions: int | None = None


def config_of_params(path: Path, params: dict, stored: dict, unsaid: Unsaid) -> tuple[dict, LlamaConfig]:
    """(content for config.json, the same as a LlamaConfig). Raises CheckpointError naming the wrong field."""
    scaling = _rope_scaling(path, params, unsaid)
    positions = _positions(params, scaling) if unsaid.positions is None else unsaid.positions
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
        "max_position_embeddings": _positive(path, {"--positions": positions}, "--positions", LARGEST_SIZE),
        "rms_norm_eps": _positive(path, params, "norm_eps", LARGEST_FLOAT),
        "rope_theta": _positive(path, {"rope_theta": 10000.0, **params}, "rope_theta", LARGEST_FLOAT),
    }
    published = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
    }
    dtype = str(stored[embeddings][1]).removeprefix("torch.")
    scaled = {"rope_scaling": {"rope_type": "llama3", **FACTORS, "factor": scaling.factor}} if scaling else {}
    config = LlamaConfig(head_dim=D // H, rope_scaling=scaling, **sizes)
    return {**published, **sizes, **scaled, "torch_dtype": dtype}, config


def assumed_positions(path: Path, positions: int) -> str:
    """A line that says which max_position_embeddings was taken because nobody gave one."""
    return (
        f"{path}: does not say for how many tokens the model was made; {positions:,} is assumed; if that is wrong, "
        "pass --positions (Llama 1 was made for 2048, Llama 2 for 4096, Llama 3 for 8192, Llama 3.1 and 3.2 for 131072)"
    )


def _positions(params: dict, scaling: RopeScaling | None) -> int:
    """The tokens that the first model with such rotary frequencies was made for: Llama 1, Llama 3 and Llama 3.1."""
    return 131072 if scaling else 8192 if params.get("rope_theta") == 500000.0 else 2048


def _rope_scaling(path: Path, params: dict, unsaid: Unsaid) -> RopeScaling | None:
    """The scaling of Llama 3.1 and its successors; its factor differs, and most params.json do not have it."""
    scaled = params.get("use_scaled_rope", False)
    if not isinstance(scaled, bool):
        raise CheckpointError(f"{path}: use_scaled_rope is {quoted(scaled)}; expected true or false")
    if not scaled:
        if unsaid.rope_factor is not None:
            raise CheckpointError(f"{path}: use_scaled_rope is not true, so --rope-factor has no effect; leave it out")
        return None
    named = {"rope_scaling_factor": params.get("rope_scaling_factor"), "--rope-factor": unsaid.rope_factor}
    said = {name: _positive(path, named, name, LARGEST_FLOAT) for name, value in named.items() if value is not None}
    if not said:
        raise CheckpointError(
            f"{path}: use_scaled_rope is true, and the factor is not said; "
            "pass --rope-factor 8 for Llama 3.1 and 3.3, or --rope-factor 32 for Llama 3.2"
        )
    if len(set(said.values())) > 1:
        raise CheckpointError(
            f"{path}: rope_scaling_factor is {said['rope_scaling_factor']:g}, "
            f"and --rope-factor {said['--rope-factor']:g} says otherwise; leave the flag out"
        )
    factor = next(iter(said.values()))
    return RopeScaling("llama3", factor, **FACTORS)


def _positive(path: Path, params: dict, name: str, largest: float) -> float:
    """params[name], a float only if `largest` is LARGEST_FLOAT. Raises CheckpointError unless 0 < value <= largest."""
    value = params.get(name)
    allowed = (int, float) if largest == LARGEST_FLOAT else (int,)
    if type(value) not in allowed or not 0 < value <= largest:
        advice = "correct the flag" if name.startswith("--") else "fetch the file again"
        raise CheckpointError(
            f"{path}: {name} is {quoted(value)}; expected a positive number up to {largest}; {advice}"
        )
    return value
