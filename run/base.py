"""The base model and its tokenizer in memory, and an adapter put on it."""

from pathlib import Path

import torch

from errors import notice
from lora.adapter import adapter_warnings, load_adapter, read_adapter_config, targets_named_in
from lora.inject import add_lora, refuse_unknown_targets
from machine.device import DTYPES
from machine.sharding import shard
from model.demo import model_folder
from model.llama import Llama
from model.tokenizer import Tokenizer
from model.weights import fingerprint, load_llama, read_llama_config


def base_identity(model: str) -> dict[str, str]:
    """What an adapter records about its base: base, its name, and base_fingerprint."""
    folder = model_folder(model)
    return {"base": model, "base_fingerprint": fingerprint(folder) if folder.is_dir() else ""}


def load_base(
    model: str, precision: str, device: torch.device, base_dtype: str = "same", fsdp: bool = False
) -> tuple[Llama, Tokenizer]:
    """The frozen base and its tokenizer, from a checkpoint folder or the built-in demo. base_dtype: of BASE_DTYPES; fsdp: cut over the ranks."""
    folder = model_folder(model)
    # The tokenizer first: it takes a moment, the weights may take minutes.
    tokenizer = Tokenizer(folder, read_llama_config(folder).vocab_size) if folder.is_dir() else None
    base = load_llama(folder, DTYPES[precision], torch.device("cpu") if fsdp else device, int8=base_dtype == "int8")
    return shard(base, device) if fsdp else base, tokenizer


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer alone; of a folder without config.json too, as there is no model that it could not belong to."""
    folder = model_folder(model)
    return Tokenizer(folder, read_llama_config(folder).vocab_size if (folder / "config.json").exists() else None)


def put_adapter(model: Llama, folder: Path, base: dict[str, str]) -> None:
    """Add the LoRA layers that the adapter in `folder` asks for and load it. base: base_identity of the model."""
    settings = read_adapter_config(folder)
    refuse_unknown_targets(model, settings["targets"], targets_named_in(folder))
    add_lora(model, **settings)
    load_adapter(model, folder)
    warn_of_misfit(folder, base)


def warn_of_misfit(folder: Path, base: dict[str, str]) -> None:
    """Say what does not look right about this adapter on this base."""
    for warning in adapter_warnings(folder, base["base"], base["base_fingerprint"]):
        notice(f"WARNING: {warning}")
