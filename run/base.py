"""The base model and its tokenizer in memory, and an adapter put on it."""

from pathlib import Path

import torch

from errors import CheckpointError, notice
from files import missing_advice
from lora.adapter import adapter_warnings, load_adapter, read_adapter_config, targets_named_in
from lora.inject import add_lora, refuse_unknown_targets
from machine.bar import at_work
from machine.device import DTYPES
from machine.gpu import warn_of_emulation
from machine.sharding import shard
from model.demo import model_folder
from model.llama import Llama, LlamaConfig
from model.tokenizer import load_tokenizer
from model.weights import config_notices, fingerprint, load_llama, longest_row, read_llama_config
from protocols import Tokenizer


def base_identity(model: str) -> dict[str, str]:
    """What an adapter records about its base: `base`, the name given to --model, and `base_fingerprint`."""
    folder = model_folder(model)
    with at_work("computing the fingerprint of the base"):
        return {"base": model, "base_fingerprint": fingerprint(folder) if folder.is_dir() else ""}


def load_base(
    model: str, precision: str, device: torch.device, base_dtype: str = "same", fsdp: bool = False
) -> tuple[Llama, Tokenizer]:
    """The frozen base and its tokenizer, from a checkpoint folder or the built-in demo.

    base_dtype: one of machine.device.BASE_DTYPES; fsdp: whether the weights are divided among the ranks.
    """
    warn_of_emulation(device, precision)
    folder = existing_folder(model)
    # The tokenizer comes first: a mistake there shows at once, while the weights may take minutes.
    tokenizer = _tokenizer_in(folder, read_llama_config(folder))
    with at_work("loading the base"):
        base = load_llama(folder, DTYPES[precision], torch.device("cpu") if fsdp else device, int8=base_dtype == "int8")
        return shard(base, device) if fsdp else base, tokenizer


def base_tokenizer(model: str) -> Tokenizer:
    """The tokenizer alone. The folder may lack config.json: then there is no model that the tokenizer has to fit."""
    folder = existing_folder(model)
    has_config = (folder / "config.json").exists()
    return _tokenizer_in(folder, read_llama_config(folder) if has_config else None)


def existing_folder(model: str) -> Path:
    """The folder of the base. Raises CheckpointError, naming --model, if there is none."""
    folder = model_folder(model)
    if not folder.is_dir():
        what = "is a file, not a checkpoint folder" if folder.exists() else "no such checkpoint folder"
        raise CheckpointError(f"--model {model}: {what}{missing_advice(folder)}")
    return folder


def _tokenizer_in(folder: Path, config: LlamaConfig | None) -> Tokenizer:
    """The tokenizer; what had to be assumed about the folder is said."""
    tokenizer = load_tokenizer(folder, config.vocab_size if config else None)
    tokenizer.longest_row = longest_row(config) if config else None
    for line in (*config_notices(folder), *tokenizer.assumed):
        notice(line)
    return tokenizer


def put_adapter(model: Llama, folder: Path, base: dict[str, str]) -> None:
    """Add the LoRA layers that the adapter in `folder` needs and load its tensors. base: base_identity of the model."""
    settings = read_adapter_config(folder)
    refuse_unknown_targets(model, settings["targets"], targets_named_in(folder))
    add_lora(model, **settings)
    load_adapter(model, folder)
    warn_of_misfit(folder, base)


def warn_of_misfit(folder: Path, base: dict[str, str]) -> None:
    """Print a warning for everything that suggests that this adapter was trained on another base."""
    for warning in adapter_warnings(folder, base["base"], base["base_fingerprint"]):
        notice(f"WARNING: {warning}")
