"""GGUF files written field by field from the format's description: small valid ones, and ones with lies in them.

Nothing of model/ is used, so that a mistake there is not repeated here.
"""

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9  # types of fields
CODES = {U32: "I", 5: "i", F32: "f", BOOL: "?", 10: "Q", 12: "d"}
STORED_F32 = 0  # a type of tensors
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_LAYER = {
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"},
    **{"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
}


@dataclass(frozen=True)
class Part:
    """A tensor as it is written. start: its offset if that is not where its bytes are; shape: slowest first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    content: bytes
    start: int | None = None


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def value_of(value: object, kind: int | None = None) -> bytes:
    """A field's type and content. kind: of a number; by default that of llama.cpp for such a value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, list):
        inner = [value_of(item, kind) for item in value]
        head = inner[0][:4] if inner else struct.pack("<I", U32)
        return struct.pack("<I", ARRAY) + head + struct.pack("<Q", len(value)) + b"".join(item[4:] for item in inner)
    kind = kind or (BOOL if isinstance(value, bool) else U32 if isinstance(value, int) else F32)
    return struct.pack(f"<I{CODES[kind]}", kind, value)


def gguf(fields: dict, parts: list[Part], version: int = 3, counts: tuple[int, int] | None = None) -> bytes:
    """The file. fields: values, or bytes of type and content; counts: of tensors and fields, if they shall be wrong."""
    alignment = fields.get("general.alignment", 32)
    alignment = alignment if isinstance(alignment, int) and 0 < alignment < 2**16 else 32
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(parts), len(fields))))
    for key, value in fields.items():
        head += text(key) + (value if isinstance(value, bytes) else value_of(value))
    data = b""
    for part in parts:
        start = len(data) if part.start is None else part.start
        head += text(part.name) + struct.pack(f"<I{len(part.shape)}Q", len(part.shape), *reversed(part.shape))
        head += struct.pack("<IQ", part.kind, start)
        data += part.content + bytes(-len(part.content) % alignment)
    return head + bytes(-len(head) % alignment) + data


# ---- a LLaMA ------------------------------------------------------------------------------------


def llama_fields(config: dict, name: str = "tiny") -> dict:
    """The fields of a LLaMA. config: as in config.json."""
    heads = config["num_attention_heads"]
    return {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": 0,
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config.get("num_key_value_heads", heads),
        "llama.attention.key_length": config.get("head_dim", config["hidden_size"] // heads),
        "llama.attention.value_length": config.get("head_dim", config["hidden_size"] // heads),
        "llama.rope.freq_base": float(config["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
    }


def theirs(name: str) -> str:
    """llama.cpp's name of a tensor."""
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    number, _, inner = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{IN_LAYER[inner]}.weight"


def in_pairs(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows i and i + Dh/2 of each head become rows 2i and 2i + 1, as llama.cpp stores q and k."""
    order = [
        head + i + half
        for head in range(0, len(tensor), head_dim)
        for i in range(head_dim // 2)
        for half in (0, head_dim // 2)
    ]
    return tensor[torch.tensor(order)]


def llama_parts(tensors: dict[str, Tensor], head_dim: int) -> list[Part]:
    """The tensors of a checkpoint in float32. tensors: by our name."""
    parts = []
    for name, tensor in tensors.items():
        stored = in_pairs(tensor, head_dim) if name.endswith(("q_proj.weight", "k_proj.weight")) else tensor
        content = stored.float().contiguous().numpy().tobytes()
        parts.append(Part(theirs(name), tuple(tensor.shape), STORED_F32, content))
    return parts


def sentencepiece_fields(pieces: list[tuple[str, float, int]], bos: int, eos: int) -> dict:
    """pieces: (text, score, type) of each."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece for piece, _, _ in pieces],
        "tokenizer.ggml.scores": [float(score) for _, score, _ in pieces],
        "tokenizer.ggml.token_type": value_of([kind for _, _, kind in pieces], 5),
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
    }


def byte_level_fields(pre: str, tokens: list[str], merges: list[str], types: list[int], bos: int = 0) -> dict:
    """EOS is the token after BOS."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": value_of(types, 5),
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": bos + 1,
    }
