"""What every verb needs before its own work: device, precision, base model, encoded splits."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data.interactions import Dataset, Interaction
from data.load import load_dataset
from data.pairs import EncodedPair, answer_ids, encode_pairs
from data.prompts import prompt_pair
from lora.adapter import adapter_warnings, load_adapter, read_adapter_config, targets_named_in
from lora.inject import add_lora
from model.llama import Llama
from model.tokenizer import Tokenizer
from model.weights import CheckpointError, fingerprint, load_llama, read_config, read_json
from runtime import ranks
from runtime.data_flags import data_options
from runtime.flags import FlagError, notice
from runtime.sharding import shard

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "model"
DEMO_NAME = "demo"
DEMO_MARK = "built_in_demo"  # in config.json of the demo, and so of what is merged or converted from it
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BASE_DTYPES = ("same", "int8")  # of the matrices in the decoder layers; same: as the rest of the base


@dataclass(frozen=True)
class Split:
    """Interactions of one split and the same as token ids; truncated: rows that lost history."""

    rows: list[Interaction]
    pairs: list[EncodedPair]
    truncated: int


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises FlagError if the named device is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = ranks.own_device(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" is a device that holds no values
    except (RuntimeError, AssertionError):
        raise FlagError(f"--device {name}: not available here; leave it out, or say cpu") from None
    return device


def demo_precision(device: str) -> str:
    """bf16, or fp32 on a CPU that has no instructions for bf16 products: there they take some forty times as long."""
    if device not in ("auto", "cpu") or (device == "auto" and torch.cuda.is_available()):
        return "bf16"
    return "bf16" if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def load_data(settings: dict) -> Dataset:
    """The data set that the values of the flags name; a real checkpoint is never trained or scored on the stand-in."""
    real_data = settings["real_data"] or not is_demo(settings["model"])
    return ranks.in_turn(lambda: load_dataset(settings["data"], settings["data_dir"], real_data, notice, data_options(settings)))


def model_folder(model: str) -> Path:
    """The checkpoint folder that `--model` means."""
    return DEMO_FOLDER if model == DEMO_NAME else Path(model)


def is_demo(model: str) -> bool:
    """Whether `--model` is the built-in demo or made from it: its figures are labelled so, and it may see simulated data."""
    try:
        return read_json(model_folder(model) / "config.json").get(DEMO_MARK) is True
    except (CheckpointError, OSError):
        return False  # loading it will say what is wrong


def base_identity(model: str) -> dict[str, str]:
    """What an adapter records about its base: base, its name, and base_fingerprint."""
    folder = model_folder(model)
    return {"base": model, "base_fingerprint": fingerprint(folder) if folder.is_dir() else ""}


def load_base(model: str, precision: str, device: torch.device, base_dtype: str = "same", fsdp: bool = False) -> tuple[Llama, Tokenizer]:
    """The frozen base and its tokenizer, from a checkpoint folder or the built-in demo. base_dtype: of BASE_DTYPES; fsdp: cut over the ranks."""
    folder = model_folder(model)
    # The tokenizer first: it takes a moment, the weights may take minutes.
    tokenizer = Tokenizer(folder, read_config(folder).vocab_size) if folder.is_dir() else None
    base = load_llama(folder, DTYPES[precision], torch.device("cpu") if fsdp else device, int8=base_dtype == "int8")
    return shard(base, device) if fsdp else base, tokenizer


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer alone; of a folder without config.json too, as there is no model that it could not belong to."""
    folder = model_folder(model)
    return Tokenizer(folder, read_config(folder).vocab_size if (folder / "config.json").exists() else None)


def put_adapter(model: Llama, folder: Path, base: dict[str, str]) -> None:
    """Add the LoRA layers that the adapter in `folder` asks for and load it. base: base_identity of the model."""
    settings = read_adapter_config(folder)
    add_lora(model, **settings, where=targets_named_in(folder))
    load_adapter(model, folder)
    warn_of_misfit(folder, base)


def warn_of_misfit(folder: Path, base: dict[str, str]) -> None:
    """Say what does not look right about this adapter on this base."""
    for warning in adapter_warnings(folder, base["base"], base["base_fingerprint"]):
        notice(f"WARNING: {warning}")


def compile_layers(model: Llama, backend: str = "inductor") -> None:
    """Let torch.compile translate each decoder layer when it first runs, for rows of any length and number.

    Raises FlagError if what the compiler itself needs is missing.
    """
    on_cpu = model.lm_head.weight.device.type == "cpu"
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise FlagError("--compile: needs a C++ compiler (g++); install one, or leave it out")
    if not on_cpu and importlib.util.find_spec("triton") is None:
        raise FlagError("--compile: needs the package triton; install it, or leave it out")
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend=backend)


def answers_in_context(data: Dataset, tokenizer: Tokenizer, template: str) -> dict[bool, list[int]]:
    """The answers' token ids after this data set's prompts, which all end alike."""
    prompt = prompt_pair(data.test[0], data.catalogue, data.noun, template, wording=data.wording).positive
    return answer_ids(tokenizer, prompt, data.wording)


def encode_split(
    rows: list[Interaction], data: Dataset, tokenizer: Tokenizer, template: str, max_len: int, say: Callable[[str], None], asks: str | None = None
) -> Split:
    """The rows as token ids; says how many prompts had to lose history to fit max_len. asks: see data.prompts.prompt_pair."""
    pairs, truncated = encode_pairs(rows, data, tokenizer, template, max_len, asks)
    if truncated:
        say(f"--max-len {max_len}: {truncated:,} of {len(rows):,} prompts lost their oldest history items")
    return Split(rows, pairs, truncated)
