"""A checkpoint folder (config.json + safetensors) to a Llama, strictly and without a second copy.

The module is built on the meta device, which gives it shapes and no memory. Then each tensor is read from its
memory-mapped file and put where it belongs, one at a time. On a CPU, in the file's own dtype, the parameter is the
mapping itself and nothing is copied. For an int8 base each matrix is quantised as it is read, so only one of them
exists in full precision at any time.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from errors import CheckpointError, quoted
from files import hub_advice
from model.int8 import Int8Linear
from model.llama import Llama, LlamaConfig, RopeScaling

# ---- config.json --------------------------------------------------------------------------------

# Fields that change the computation, and the values that this implementation supports. A null stands for the default.
REQUIRED_VALUES = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "quantization_config": (),
    "partial_rotary_factor": (1.0,),
    "sliding_window": (),
}
DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "max_position_embeddings": 2048}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
# Nonsense is refused before it costs time or memory: even a layer without memory takes a millisecond to build.
LARGEST_SIZE, MOST_LAYERS, LARGEST_FLOAT = 2**24, 1024, 1e12
LARGEST_JSON = 2**26  # bytes; the index of a large model has some 100,000


def read_llama_config(folder: Path) -> LlamaConfig:
    """The architecture that folder/config.json describes. Raises CheckpointError naming the wrong field."""
    path = folder / "config.json"
    fields = read_json(path)
    named = fields.get("architectures")
    if named is not None and str(named).lower() != "['llamaforcausallm']":  # some say LLaMAForCausalLM
        raise CheckpointError(f"{path}: architectures is {quoted(named)}; only LlamaForCausalLM is supported")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, allowed in REQUIRED_VALUES.items():
        if name in fields and fields[name] not in allowed:
            raise CheckpointError(
                f"{path}: {name} is {quoted(fields[name])}, which is not supported; "
                f"supported: {allowed[0] if allowed else 'none'}"
            )
    if "max_sequence_length" in fields:  # the older name
        fields.setdefault("max_position_embeddings", fields["max_sequence_length"])
    fields = {**DEFAULTS, "num_key_value_heads": fields.get("num_attention_heads"), **fields}
    for name in SIZES[:5]:
        positive_number(path, fields, name, int)
    fields.setdefault("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    for name in SIZES[5:]:
        positive_number(path, fields, name, int)
    if fields["num_attention_heads"] % fields["num_key_value_heads"] or fields["head_dim"] % 2:
        raise CheckpointError(
            f"{path}: num_attention_heads must be a multiple of num_key_value_heads, and head_dim even"
        )
    tied = fields["tie_word_embeddings"]
    if not isinstance(tied, bool):
        raise CheckpointError(f"{path}: tie_word_embeddings is {quoted(tied)}; expected true or false")
    rope_theta, rope_scaling = _read_rope(path, fields)
    return LlamaConfig(
        **{name: fields[name] for name in SIZES},
        rms_norm_eps=positive_number(path, fields, "rms_norm_eps", float),
        rope_theta=rope_theta,
        tie_word_embeddings=tied,
        rope_scaling=rope_scaling,
    )


def parameter_count(config: LlamaConfig) -> int:
    """Weights of the whole model; matrices that are tied count once."""
    D, heads = config.hidden_size, config.head_dim * (config.num_attention_heads + config.num_key_value_heads)
    layer = 2 * D * heads + 3 * D * config.intermediate_size + 2 * D  # q and o, k and v; gate, up, down; two norms
    tables = 1 if config.tie_word_embeddings else 2
    return config.num_hidden_layers * layer + tables * config.vocab_size * D + D


def longest_row(config: LlamaConfig) -> int:
    """Tokens of the longest row that the model was made for; rotary positions go on beyond, but were never trained.

    Linear and dynamic scaling stretch the positions that config.json gives; llama3's are given stretched.
    """
    scaling = config.rope_scaling
    factor = scaling.factor if scaling and scaling.kind in ("linear", "dynamic") else 1
    return int(config.max_position_embeddings * max(factor, 1))


def config_notices(folder: Path) -> list[str]:
    """A line for everything in config.json that is read in another way than it is written. It must be readable."""
    path, lines = folder / "config.json", []
    fields = read_json(path) if path.exists() else {}
    if fields.get("architectures") not in (None, ["LlamaForCausalLM"]):
        lines.append(f"{path}: architectures is {quoted(fields['architectures'])}; read as ['LlamaForCausalLM']")
    if fields.get("rope_scaling") and fields.get("rope_parameters"):
        lines.append(f"{path}: has rope_scaling and rope_parameters; rope_scaling is used, as transformers does")
    return lines


def _read_rope(path: Path, fields: dict) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling) from either form: `rope_theta` and `rope_scaling`, or `rope_parameters`.

    If there are both, transformers takes `rope_scaling` and nothing of `rope_parameters`; so does this.
    """
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: rope_scaling is {quoted(rope)}; expected an object")
    rope = {name: value for name, value in rope.items() if value is not None}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{path}: partial_rotary_factor is {quoted(rope['partial_rotary_factor'])}; supported: 1.0"
        )
    theta = positive_number(path, {**fields, **rope}, "rope_theta", float)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind not in ("linear", "dynamic", "llama3"):
        raise CheckpointError(
            f"{path}: rope_scaling type is {quoted(kind)}; supported: default, linear, dynamic, llama3"
        )
    extra = {}
    if kind == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            extra[name] = positive_number(path, rope, name, float)
        name = "original_max_position_embeddings"
        extra[name] = positive_number(path, rope, name, int)
        if fields.get(name) not in (None, extra[name]):
            raise CheckpointError(f"{path}: {name} is {quoted(fields[name])} and, for rope, {extra[name]}; keep one")
        if extra["high_freq_factor"] <= extra["low_freq_factor"]:
            raise CheckpointError(f"{path}: rope_scaling needs high_freq_factor above low_freq_factor")
    return theta, RopeScaling(kind, positive_number(path, rope, "factor", float), **extra)


def positive_number(path: Path, fields: dict, name: str, kind: type) -> float:
    """fields[name] as a positive `kind`, int or float, within the bounds above. Raises CheckpointError otherwise."""
    value = fields.get(name)
    right_type = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    largest = LARGEST_FLOAT if kind is float else MOST_LAYERS if name == "num_hidden_layers" else LARGEST_SIZE
    if not right_type or not 0 < value <= largest:
        raise CheckpointError(f"{path}: {name} is {quoted(value)}; expected a positive {kind.__name__} up to {largest}")
    return value


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises CheckpointError if it is missing, unreadable or not an object."""
    refuse_missing_or_pointer(path)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({quoted(str(error))}); fetch the file again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object; fetch the file again")
    return content


def refuse_unprintable(path: Path, names: list[str]) -> None:
    """Raises CheckpointError for a tensor name that a message could not show: with control characters, or overlong."""
    for name in names:
        if not name.isprintable() or len(name) > 200:
            raise CheckpointError(
                f"{path}: has a tensor called {quoted(name)}, which no model has; "
                "fetch it again from a source you trust"
            )


def refuse_missing_or_pointer(path: Path) -> None:
    """Raises CheckpointError if `path` is not a file, or a Git LFS pointer instead of the file itself."""
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; fetch it, or pass a complete checkpoint folder")
    with open(path, "rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
            )


# ---- tensors ------------------------------------------------------------------------------------

NO_LM_HEAD = (
    "missing lm_head.weight, though tie_word_embeddings is not true; fetch the complete checkpoint, or, if its "
    'publisher says that lm_head equals the embeddings, write "tie_word_embeddings": true into config.json'
)
IGNORED = "rotary_emb.inv_freq"  # how a tensor's name ends that old exports store; its values follow from config.json


def load_llama(folder: str | Path, dtype: torch.dtype, device: str | torch.device = "cpu", int8: bool = False) -> Llama:
    """The checkpoint in `folder` as a frozen Llama in `dtype` on `device`, in evaluation mode.

    int8: the linear layers inside the decoder layers become Int8Linear, quantised from the stored values.
    Raises CheckpointError if a file is missing, damaged or not supported, and if a tensor is missing, unexpected, of
    another shape, of a quantised dtype, or not finite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder{hub_advice(str(folder))}")
    config = read_llama_config(folder)
    with torch.device("meta"):
        model = Llama(config)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    linears = {
        f"{name}.weight" for name, module in model.model.named_modules(prefix="model") if isinstance(module, nn.Linear)
    }
    shards = _shards(folder)
    _check_names_and_shapes(folder, shards, wanted, config.tie_word_embeddings)
    for path, names in shards.items():
        with _open(path) as file:
            for name in names:
                if int8 and name in linears:
                    _put(model, name.removesuffix(".weight"), _read_int8(path, name, device))
                elif name in wanted:
                    _put(model, name, nn.Parameter(_read_tensor(path, file, name, dtype, device), requires_grad=False))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def fingerprint(folder: str | Path) -> str:
    """sha256 over name, shape and a sample of values of every stored tensor: a fast way to tell two bases apart.

    The values are taken as float32: a lossless change of dtype leaves the fingerprint as it is, a lossy one does not.
    """
    digest = hashlib.sha256()
    stored = {name: path for path, names in _shards(Path(folder)).items() for name in names}
    for name in sorted(stored):
        if not name.endswith(IGNORED):
            with _open(stored[name]) as file:
                tensor = file.get_slice(name)
                shape = tensor.get_shape()
                sample = (
                    [tensor[:]]
                    if len(shape) < 2
                    else [tensor[row : row + 1] for row in (0, shape[0] // 2, shape[0] - 1)]
                )
            digest.update(json.dumps([name, shape]).encode())
            for part in sample:
                digest.update(part.float().numpy().tobytes())
    return digest.hexdigest()


def stored_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every tensor of the checkpoint by name, in the order of its files, without old exports' inv_freq."""
    sizes = {}
    for path, names in _shards(folder).items():
        with _open(path) as file:
            for name in names:
                if not name.endswith(IGNORED):
                    sizes[name] = file.get_tensor(name).nbytes  # memory-mapped: nothing is read
    return sizes


def stored_names(folder: Path) -> list[str]:
    """The names of all tensors of the checkpoint, once for every file that has them."""
    return [name for names in _shards(folder).values() for name in names]


def read_stored(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """The named tensors in the dtype in which they are stored."""
    tensors = {}
    for path, stored in _shards(folder).items():
        with _open(path) as file:
            tensors |= {name: file.get_tensor(name) for name in names if name in stored}
    return tensors


def _shards(folder: Path) -> dict[Path, list[str]]:
    """The names of the tensors in each safetensors file of the checkpoint."""
    index_path = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        paths, listed = [folder / "model.safetensors"], None
    elif index_path.exists():
        listed = read_json(index_path).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise CheckpointError(f"{index_path}: no `weight_map` of tensor name to file name; fetch it again")
        refuse_unprintable(index_path, list(listed))
        for name in set(listed.values()):
            if name != Path(name).name or not name.endswith(".safetensors") or not name.isprintable():
                raise CheckpointError(
                    f"{index_path}: names {quoted(name)}, which is not a safetensors file of this folder"
                )
        paths = [folder / name for name in sorted(set(listed.values()))]
    else:
        pickled = [*folder.glob("pytorch_model*.bin"), *folder.glob("consolidated*.pth")]
        hint = (
            f"; it has pickled weights: convert them with `python -m model.convert {folder} --out DIR`"
            if pickled
            else ""
        )
        raise CheckpointError(f"{folder}: no model.safetensors and no model.safetensors.index.json{hint}")
    shards = {}
    for path in paths:
        if listed is not None and not path.exists():
            raise CheckpointError(
                f"{index_path}: lists {path.name}, which is missing; fetch it, or pass a complete folder"
            )
        with _open(path) as file:
            shards[path] = sorted(file.keys())
        refuse_unprintable(path, shards[path])
        for name in listed or ():
            if listed[name] == path.name and name not in shards[path]:
                raise CheckpointError(
                    f"{path}: has no tensor {name}, though {index_path.name} says so; fetch both again"
                )
    return shards


def _open(path: Path):  # safetensors does not name the type
    refuse_missing_or_pointer(path)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({quoted(str(error))}); fetch it again") from None


def _check_names_and_shapes(folder: Path, shards: dict[Path, list[str]], wanted: dict[str, tuple], tied: bool) -> None:
    """Raises CheckpointError unless the stored tensors are `wanted`, {name: shape}.

    tied: lm_head is not wanted; if it is stored all the same, it must equal the embeddings.
    """
    problems, seen = [], {}
    for path, names in shards.items():
        with _open(path) as file:
            for name in names:
                if name in seen:
                    problems.append(f"{name} is in both {seen[name].name} and {path.name}")
                seen[name] = path
                if name.endswith(IGNORED):
                    continue
                tensor = file.get_slice(name)
                shape = tuple(tensor.get_shape())
                if name == "lm_head.weight" and tied:
                    if not torch.equal(file.get_tensor(name), _read_one(shards, "model.embed_tokens.weight")):
                        problems.append(
                            "lm_head.weight differs from embed_tokens.weight though tie_word_embeddings is true"
                        )
                elif name not in wanted:
                    problems.append(f"unexpected {name}")
                elif shape != wanted[name]:
                    problems.append(f"{name} is {list(shape)}, config.json asks for {list(wanted[name])}")
                elif tensor.get_dtype() not in ("F32", "F16", "BF16", "F64"):
                    problems.append(f"{name} has dtype {tensor.get_dtype()} (a quantised checkpoint?)")
    problems += [f"missing {name}" for name in wanted if name not in seen]
    if problems == ["missing lm_head.weight"]:
        problems = [NO_LM_HEAD]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise CheckpointError(f"{folder}: tensors do not fit config.json: {shown}")


def _read_one(shards: dict[Path, list[str]], name: str) -> torch.Tensor:
    """The tensor, or an empty one if no shard has it."""
    for path, names in shards.items():
        if name in names:
            with _open(path) as file:
                return file.get_tensor(name)
    return torch.empty(0)


def _read_int8(path: Path, name: str, device) -> Int8Linear:
    # The file is opened anew for each matrix: closing this mapping frees the pages that were read through it. With
    # one mapping for all matrices, the whole file would end up in resident memory beside the int8 copy.
    with _open(path) as file:
        return Int8Linear(_read_tensor(path, file, name, torch.float32, device))


def _read_tensor(path: Path, file, name: str, dtype: torch.dtype, device) -> torch.Tensor:
    tensor = file.get_tensor(name).to(device=device, dtype=dtype)
    # The sum is fast, and it is finite if all elements are, unless it overflows, which is rare: only then is each
    # element looked at. torch adds bf16 in float32 anyway; with dtype=torch.float32 it would copy the matrix on a CPU.
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} has NaN or infinite values in {dtype}; the file is damaged")
    return tensor


def _put(model: nn.Module, name: str, value: nn.Parameter | nn.Module) -> None:
    parent_name, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent_name), leaf, value)
