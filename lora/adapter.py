"""Adapter files in PEFT's layout: adapter_model.safetensors and adapter_config.json."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lora.inject import AdapterError, lora_state

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def save_adapter(model: nn.Module, folder: Path, settings: dict) -> None:
    """Write the adapter of `model` into an existing folder.

    settings: r, alpha, dropout, targets and base (the checkpoint's name), as train.py has them.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in lora_state(model).items()}
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings["base"],
        "r": settings["r"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings["dropout"],
        "target_modules": sorted(settings["targets"]),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_adapter_config(folder: Path) -> dict:
    """r, alpha, dropout and targets of a saved adapter.

    Raises AdapterError if the file is missing, is not a LoRA adapter, or uses a variant that
    LoRALinear does not compute.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise AdapterError(f"{path}: missing; is {folder} the folder of a finished run or of a PEFT adapter?")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: not a JSON object; save or fetch the adapter again")
    unsupported = {
        "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False, "fan_in_fan_out": False,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None,
        "alora_invocation_tokens": None,
    }  # fmt: skip
    for name, supported in unsupported.items():
        if config.get(name, supported) not in (supported, None):
            raise AdapterError(f"{path}: {name} is {config[name]!r}; only {supported!r} is supported")
    # The other ways to start (pissa, olora, corda, loftq, ...) change the base as well.
    if config.get("init_lora_weights") not in (None, True, False, "gaussian", "orthogonal", "eva"):
        raise AdapterError(f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base too")
    targets, r, alpha = config.get("target_modules"), config.get("r"), config.get("lora_alpha")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise AdapterError(f"{path}: target_modules must be a list of layer names")
    if type(r) is not int or not 0 < r <= 2**16 or type(alpha) not in (int, float) or not 0 < alpha < 2**16:
        raise AdapterError(f"{path}: r and lora_alpha must be positive numbers, r a whole one")
    dropout = config.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise AdapterError(f"{path}: lora_dropout must lie in [0, 1)")
    return {"r": r, "alpha": alpha, "dropout": dropout, "targets": tuple(targets)}


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Copy a saved adapter's tensors into the LoRA layers that `model` already has.

    Raises AdapterError naming every tensor that is missing, surplus, misshapen or not finite.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise AdapterError(f"{path}: missing; is {folder} the folder of a finished run or of a PEFT adapter?")
    if path.read_bytes()[:40].startswith(b"version https://git-lfs"):
        raise AdapterError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise AdapterError(f"{path}: damaged or truncated ({str(error)[:60]}); save or fetch it again") from None
    put_lora_state(model, tensors, str(path))


def put_lora_state(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Copy tensors under PEFT's names into the LoRA layers. Raises AdapterError starting with `where`."""
    wanted = lora_state(model)
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        if name not in wanted:
            problems.append(f"unexpected {name}")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{name} is {list(tensor.shape)}, the model asks for {list(wanted[name].shape)}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} has NaN or infinite values")
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise AdapterError(f"{where}: the adapter does not fit the model: {shown}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)
