"""What a training run starts from: data set, base with its adapter, and the three splits as token ids."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cli.data import load_data
from cli.train import TrainFlags, shot_count
from data.interactions import Dataset, select_shots
from data.splits import Split, encode_split
from errors import DataError
from lora.adapter import load_adapter, read_adapter_config, targets_named_in
from lora.inject import add_lora, refuse_unknown_targets
from lora.select import parse_targets
from machine import ranks
from machine.device import compile_layers, pick_device
from model.llama import Llama
from run.base import base_identity, load_base, warn_of_misfit


@dataclass(frozen=True)
class Inputs:
    """adapter: what lora.adapter.save_adapter writes about it."""

    data: Dataset
    model: Llama
    adapter: dict
    train: Split
    valid: Split
    test: Split

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.lm_head.weight.device


def load_inputs(flags: TrainFlags) -> Inputs:
    """Load the data and the base, add the adapter, and encode the splits; whatever is unusable is refused first."""
    device = pick_device(flags.device)
    data = load_data(vars(flags))
    selection = data.selection_rows()
    if len({row.label for row in selection}) < 2:
        raise DataError(f"--data {flags.data}: all validation rows have one label, so no AUC can choose the best state")
    shots = select_shots(data.train, shot_count(flags.shots), flags.seed)
    model, tokenizer = load_base(flags.model, flags.precision, device, flags.base_dtype, flags.fsdp)
    train, valid, test = (
        encode_split(rows, data, tokenizer, flags.template, flags.max_len) for rows in (shots, selection, data.test)
    )
    adapter = adapter_settings(flags)
    start_adapter(model, adapter, flags.seed, flags.init_adapter)
    if flags.compile:
        compile_layers(model)
    return Inputs(data, model, adapter, train, valid, test)


def adapter_settings(flags: TrainFlags) -> dict:
    """What lora.adapter.save_adapter writes: from the flags, or from the adapter that training starts with."""
    settings = {
        "r": flags.lora_r,
        "alpha": flags.lora_alpha,
        "rslora": False,
        "targets": parse_targets(flags.lora_targets),
    }
    if flags.init_adapter:
        settings |= read_adapter_config(Path(flags.init_adapter))
    return settings | {"dropout": flags.lora_dropout} | base_identity(flags.model)


def start_adapter(model: Llama, settings: dict, seed: int, init_adapter: str | None = None) -> None:
    """Add a fresh adapter to the model, or the one that training starts with. settings: of adapter_settings."""
    where = targets_named_in(Path(init_adapter)) if init_adapter else "--lora-targets"
    torch.manual_seed(seed)  # LoRA's A, then its dropout
    shape = {name: settings[name] for name in ("targets", "r", "alpha", "dropout", "rslora")}
    refuse_unknown_targets(model, settings["targets"], where)
    add_lora(model, **shape)
    if init_adapter:
        load_adapter(model, Path(init_adapter))
        warn_of_misfit(Path(init_adapter), settings)
    ranks.seed_dropout(seed)
