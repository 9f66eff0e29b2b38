"""The tensors of a LLaMA in a GGUF file under our names, and in our order of rows.

llama.cpp stores the rows of q and k in the order of Meta's rotary pairs. Without putting them back, a model answers
worse, and nothing else shows it.
"""

import re

import torch

from model.gguf import GgufFile
from model.meta import half_split

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
IN_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
IN_A_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.(\w+)\.weight")
ROPE_FACTORS = "rope_freqs.weight"  # by how much Llama 3.1 divides each rotary frequency


def our_names(file: GgufFile) -> dict[str, str]:
    """The name in the file of each tensor, by our name; one that no LLaMA has gets a name that cannot be ours."""
    names = {}
    for theirs in file.stored:
        ours, found = NAMES.get(theirs), IN_A_LAYER.fullmatch(theirs)
        if found and found[2] in IN_LAYER:
            ours = f"model.layers.{found[1]}.{IN_LAYER[found[2]]}.weight"
        if theirs != ROPE_FACTORS:
            names[ours or f"{theirs} (its name in the file)"] = theirs
    return names


def read_tensors(file: GgufFile, origin: dict[str, str], names: list[str], head_dim: int) -> dict[str, torch.Tensor]:
    """The named tensors, rotary rows in our order. origin: see our_names."""
    tensors = {}
    for name in names:
        tensors[name] = file.read(origin[name])
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensors[name] = half_split(tensors[name], head_dim)
    return tensors
