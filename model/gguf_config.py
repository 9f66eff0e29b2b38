"""A GGUF file's metadata as the content of config.json."""

import struct
from dataclasses import asdict, replace
from pathlib import Path

import torch

from errors import CheckpointError, quoted
from model.demo import LABEL, LONGEST_LABEL
from model.gguf import GgufFile
from model.gguf_llama import ROPE_FACTORS
from model.llama import LlamaConfig, RopeScaling, rope_frequencies

# general.file_type: the type of most matrices, as llama.cpp calls it.
FILE_TYPES = {
    **{0: "F32", 1: "F16", 32: "BF16", 2: "Q4_0", 3: "Q4_1", 8: "Q5_0", 9: "Q5_1", 7: "Q8_0"},
    **{14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
}
OTHERWISE = {  # fields that change the computation, and the value that says that they do not
    "expert_count": 0,
    "attention.sliding_window": 0,
    "attention.causal": True,
    "use_parallel_residual": False,
}


def config_of_fields(file: GgufFile, label: str) -> dict:
    """The content for config.json. Raises CheckpointError naming a field that is missing, wrong or not supported."""
    where, fields = file.where, file.fields
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{where}: general.architecture is {quoted(architecture)}; only llama is read")
    if fields.get("split.count", 1) != 1:
        raise CheckpointError(
            f"{where}: is one of {quoted(fields['split.count'])} parts; "
            "join them first with llama.cpp's `llama-gguf-split --merge`"
        )
    for key, neutral in OTHERWISE.items():
        if fields.get(f"llama.{key}", neutral) != neutral:
            raise CheckpointError(f"{where}: llama.{key} is {quoted(fields[f'llama.{key}'])}, which is not supported")
    D, H = _size(file, "embedding_length"), _size(file, "attention.head_count")
    head_dim = _size(file, "attention.key_length", D // H)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (size := _size(file, key, head_dim)) != head_dim:
            raise CheckpointError(f"{where}: llama.{key} is {size}, but a head has {head_dim}; not supported")
    if "token_embd.weight" not in file.stored:
        raise CheckpointError(f"{where}: has no tensor token_embd.weight; fetch the complete file")
    dtypes = [tensor.kind.dtype for tensor in file.stored.values()]
    widest = dtypes[0]
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        LABEL: label,
        "hidden_act": "silu",
        "hidden_size": D,
        "intermediate_size": _size(file, "feed_forward_length"),
        "vocab_size": file.stored["token_embd.weight"].shape[0],
        "num_hidden_layers": _size(file, "block_count"),
        "num_attention_heads": H,
        "num_key_value_heads": _size(file, "attention.head_count_kv", H),
        "head_dim": head_dim,
        "max_position_embeddings": _size(file, "context_length"),
        "rms_norm_eps": _float(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": _float(file, "rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, head_dim),
        "tie_word_embeddings": "output.weight" not in file.stored,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "torch_dtype": str(widest).removeprefix("torch."),
    }


def label_of(name: str, fields: dict) -> str:
    """What the model is called in tables: the file's name and the type of its matrices, "SmolLM2-135M-Instruct, Q4_1".

    A file's own general.name is often that of a step of its training, so it is not used.
    """
    number, stem = fields.get("general.file_type"), Path(name).stem
    kind = FILE_TYPES.get(number) if type(number) is int else None
    if kind and stem.upper().endswith((f".{kind}", f"-{kind}", f"_{kind}")):
        stem = stem[: -len(kind) - 1]
    label = "".join(c for c in (f"{stem}, {kind}" if kind else stem) if c.isprintable())
    return label[: LONGEST_LABEL // 2]


def _size(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.fields.get(f"llama.{key}", default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{file.where}: llama.{key} is {quoted(value)}; expected a positive whole number")
    return value


def _float(file: GgufFile, key: str, default: float | None = None) -> float:
    """The shortest decimal number that the file's float32 stands for: 1e-05, not 9.999999747378752e-06."""
    value = file.fields.get(f"llama.{key}", default)
    if type(value) is not float or not 0 < value < 1e12:
        raise CheckpointError(f"{file.where}: llama.{key} is {quoted(value)}; expected a positive number")
    stored = struct.pack("<f", value)
    return next(short for digits in range(1, 18) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == stored)


def _rope_scaling(file: GgufFile, head_dim: int) -> dict | None:
    """rope_scaling for config.json, from llama.rope.scaling.* or from the factors of Llama 3.1 and its successors."""
    kind = file.fields.get("llama.rope.scaling.type", "none")
    if ROPE_FACTORS in file.stored:
        return _llama3(file, head_dim)
    if "llama.rope.scale_linear" in file.fields:  # the older name
        return {"rope_type": "linear", "factor": _float(file, "rope.scale_linear")}
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": _float(file, "rope.scaling.factor")}
    raise CheckpointError(f"{file.where}: llama.rope.scaling.type is {quoted(kind)}; none and linear are read")


def _llama3(file: GgufFile, head_dim: int) -> dict:
    """The scaling whose factors the file holds. Raises CheckpointError unless it is Meta's, with any `factor`.

    The factors follow from four numbers, of which the file has none. Meta has published three of them for every model.
    """
    theta, factors = _float(file, "rope.freq_base", 10000.0), file.read(ROPE_FACTORS).float().flatten()
    if len(factors) == head_dim // 2:
        scaling = RopeScaling("llama3", round(factors.max().item(), 4))
        plain = LlamaConfig(1, head_dim, 1, 1, 1, 1, head_dim, 1, 1.0, theta, False)
        wanted = rope_frequencies(plain, 1) / rope_frequencies(replace(plain, rope_scaling=scaling), 1)
        if torch.allclose(factors, wanted, rtol=1e-4):
            return {"rope_type": "llama3", **{name: value for name, value in asdict(scaling).items() if name != "kind"}}
    raise CheckpointError(f"{file.where}: {ROPE_FACTORS} is not the scaling of Llama 3.1 or 3.2; not supported")
