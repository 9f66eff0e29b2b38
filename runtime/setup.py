"""What every verb needs before its own work: device, precision, base model, encoded splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data.interactions import Dataset, Interaction
from data.load import load_dataset
from data.pairs import EncodedPair, answer_ids, encode_pairs
from data.prompts import prompt_pair
from model.llama import Llama
from model.tokenizer import Tokenizer
from model.weights import load_llama, read_config
from runtime.flags import FlagError, notice

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "model"
DEMO_NAME = "demo"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LARGE_MODEL = 1_000_000_000  # parameters; from here on memory, not time, is short


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
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" is a device that holds no values
    except (RuntimeError, AssertionError):
        raise FlagError(f"--device {name}: not available here; leave it out, or say cpu") from None
    return device


def load_data(name: str, data_dir: str | None, model: str, real_data: bool) -> Dataset:
    """The data set; a real checkpoint is never trained or scored on the stand-in."""
    return load_dataset(name, data_dir, real_data or model != DEMO_NAME, notice)


def load_base(model: str, precision: str, device: torch.device) -> tuple[Llama, Tokenizer]:
    """The frozen base and its tokenizer, from a checkpoint folder or the built-in demo."""
    folder = DEMO_FOLDER if model == DEMO_NAME else Path(model)
    # The tokenizer first: it takes a moment, the weights may take minutes.
    tokenizer = Tokenizer(folder, read_config(folder).vocab_size) if folder.is_dir() else None
    return load_llama(folder, DTYPES[precision], device), tokenizer


def layers_to_checkpoint(choice: str, model: Llama) -> int:
    """on: all; off: none; auto: all if the model is large, none otherwise."""
    large = sum(parameter.numel() for parameter in model.parameters()) > LARGE_MODEL
    return len(model.model.layers) if choice == "on" or (choice == "auto" and large) else 0


def answers_in_context(data: Dataset, tokenizer: Tokenizer, template: str) -> dict[bool, list[int]]:
    """The answers' token ids after this data set's prompts, which all end alike."""
    return answer_ids(tokenizer, prompt_pair(data.test[0], data.catalogue, data.noun, template).positive)


def encode_split(
    rows: list[Interaction], data: Dataset, tokenizer: Tokenizer, template: str, max_len: int, say: Callable[[str], None]
) -> Split:
    """The rows as token ids; says how many prompts had to lose history to fit max_len."""
    pairs, truncated = encode_pairs(rows, data, tokenizer, template, max_len)
    if truncated:
        say(f"--max-len {max_len}: {truncated:,} of {len(rows):,} prompts lost their oldest history items")
    return Split(rows, pairs, truncated)
