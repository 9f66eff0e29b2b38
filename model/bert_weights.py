"""A checkpoint folder (config.json + safetensors) to a Bert, strictly.

Read are the layouts in which BERTs are published: names with or without `bert.` in front, LayerNorm's parameters as
`weight` and `bias` or, in older files, as `gamma` and `beta`, one file or shards with their index.
"""

import re
from pathlib import Path

import torch

from errors import CheckpointError, quoted
from files import hub_advice
from model.bert import ACTIVATIONS, Bert, BertConfig
from model.weights import positive_number, read_json, read_stored, stored_names

# Fields that change the computation, and the values that this implementation supports. A null stands for the default.
SUPPORTED = {
    "model_type": ("bert",),
    "hidden_act": tuple(ACTIVATIONS),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (),
}
DEFAULTS = {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "hidden_act": "gelu"}
# Parts of published files that are not computed here: the pooler, and heads for the tasks of pre-training.
LEFT_OUT = re.compile(r"(pooler|cls)\.")
OLD_NAMES = {"gamma": "weight", "beta": "bias"}
POSITION_IDS = "embeddings.position_ids"  # old exports store 0, 1, 2, ...


def load_bert(folder: Path) -> tuple[Bert, list[str]]:
    """(the checkpoint as a frozen Bert in float32 and evaluation mode, a line for everything that was left out).

    Raises CheckpointError if a file is missing, damaged or not supported, and if a tensor is missing, unexpected,
    there twice, of another shape, of a quantised dtype, or not finite.
    """
    if folder.is_file() and folder.suffix == ".whl":
        raise CheckpointError(f"{folder}: a wheel, not a folder; unpack it: python -m zipfile -e {folder} DIR")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder{hub_advice(str(folder))}")
    if list(folder.glob("pytorch_model*.bin")) and not list(folder.glob("model*.safetensors*")):
        raise CheckpointError(f"{folder}: has pickled weights, which are not read; fetch its model.safetensors")
    config = read_bert_config(folder)
    with torch.device("meta"):
        model = Bert(config)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    problems, stored_as, left_out = [], {}, set()
    for stored in stored_names(folder):
        name = our_name(stored)
        if left := LEFT_OUT.match(name):
            left_out.add(left[1])
        elif name not in wanted:
            if name != POSITION_IDS:
                problems.append(f"unexpected {stored}")
        elif name in stored_as:
            problems.append(f"{name} is there twice, as {stored_as[name]} and as {stored}")
        else:
            stored_as[name] = stored
    problems += [f"missing {name}" for name in wanted if name not in stored_as]
    _refuse(folder, problems)
    tensors = read_stored(folder, list(stored_as.values()))
    for name, stored in stored_as.items():
        tensor = tensors[stored]
        if tuple(tensor.shape) != wanted[name]:
            problems.append(f"{stored} is {list(tensor.shape)}, config.json asks for {list(wanted[name])}")
        elif tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            problems.append(f"{stored} has dtype {tensor.dtype} (a quantised checkpoint?)")
        elif not torch.isfinite(tensor.float()).all():
            problems.append(f"{stored} has NaN or infinite values")
    _refuse(folder, problems)
    state = {name: tensors[stored].float() for name, stored in stored_as.items()}
    model.load_state_dict(state, assign=True)
    said = [f"{folder}: has {' and '.join(sorted(left_out))}, which is not used: a vector is [CLS] of the last layer"]
    return model.eval().requires_grad_(False), said if left_out else []


def read_bert_config(folder: Path) -> BertConfig:
    """The architecture that folder/config.json describes. Raises CheckpointError naming the wrong field."""
    path = folder / "config.json"
    fields = {name: value for name, value in read_json(path).items() if value is not None}
    if "model_type" not in fields:
        raise CheckpointError(f"{path}: has no model_type; a BERT's config.json says bert")
    fields = {**DEFAULTS, **fields}
    for name, allowed in SUPPORTED.items():
        if name in fields and fields[name] not in allowed:
            supported = ", ".join(map(str, allowed)) or "none"
            raise CheckpointError(
                f"{path}: {name} is {quoted(fields[name])}, which is not supported; supported: {supported}"
            )
    kinds = {name: float if name == "layer_norm_eps" else int for name in BertConfig.__dataclass_fields__}
    del kinds["hidden_act"]
    numbers = {name: positive_number(path, fields, name, kind) for name, kind in kinds.items()}
    config = BertConfig(**numbers, hidden_act=fields["hidden_act"])
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(f"{path}: hidden_size must be a multiple of num_attention_heads")
    if config.max_position_embeddings < 3:
        raise CheckpointError(f"{path}: max_position_embeddings is under 3, which leaves no room for a text")
    return config


def our_name(stored: str) -> str:
    """The name in model.bert of a tensor of a published file."""
    name = stored.removeprefix("bert.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda old: f"LayerNorm.{OLD_NAMES[old[1]]}", name)


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise CheckpointError(f"{folder}: tensors do not fit config.json: {shown}")
