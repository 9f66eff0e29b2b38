"""Resume state: everything that the next step depends on, as safetensors and JSON; no pickle.

last/step-00000040/
  adapter.safetensors    A and B of every layer
  optimizer.safetensors  AdamW's moments
  rng.safetensors        random state of torch (LoRA's dropout); the data order needs none
  step.json              step, best validation AUC and step, evaluations since

A generation is written under another name and renamed when whole; the one before it is kept.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from data.files import read_whole
from lora.inject import lora_state
from lora.adapter import put_lora_state
from runtime.files import write_flushed
from runtime.flags import RunError

GENERATIONS = 2
PROGRESS = {"step", "best_auc", "best_step", "since_best"}
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict) -> None:
    """Write the state after progress["step"] steps as the newest generation in `folder`."""
    name = f"step-{progress['step']:08d}"
    aside = folder / f".{name}.{os.getpid()}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    moments = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    for part, tensors in (("adapter", lora_state(model)), ("optimizer", moments), ("rng", rng)):
        content = save({key: tensor.cpu().contiguous() for key, tensor in tensors.items()})
        write_flushed(aside / f"{part}.safetensors", content)
    write_flushed(aside / "step.json", (json.dumps(progress, indent=2) + "\n").encode())
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(aside, folder / name)
    for old in generations(folder)[GENERATIONS:]:
        shutil.rmtree(old)


def generations(folder: Path) -> list[Path]:
    """The complete states in `folder`, newest first."""
    return sorted(folder.glob("step-[0-9]*"), reverse=True)


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Put the newest state back into model, optimizer and random generators; returns its progress.

    None if the run had not come as far as saving one. Raises RunError if it is damaged.
    """
    found = generations(folder)
    if not found:
        return None
    newest = found[0]
    try:
        progress = json.loads(read_whole(newest / "step.json"))
        if not isinstance(progress, dict) or set(progress) != PROGRESS or not all(type(value) in (int, float) for value in progress.values()):
            raise ValueError("step.json does not say how far the run had come")
        adapter, moments, rng = (load(read_whole(newest / f"{part}.safetensors")) for part in ("adapter", "optimizer", "rng"))
        moments = optimizer_state(moments, optimizer)
        refuse_rng(rng)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise RunError(f"{newest}: damaged ({str(error)[:80]!r}); remove this folder to resume from the one before") from None
    put_lora_state(model, adapter, str(newest))
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(rng["cuda"])
    return progress


def optimizer_state(tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    """AdamW's state by parameter from {"0.exp_avg": ...}. Raises ValueError if it is not that of this optimizer, or not finite."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {f"{i}.{name}": () if name == "step" else tuple(p.shape) for i, p in enumerate(parameters) for name in MOMENTS}
    if {key: tuple(value.shape) for key, value in tensors.items()} != wanted:
        raise ValueError("the optimizer's moments are not those of this adapter")
    if not all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError("the optimizer's moments are not finite float32 numbers")
    return {i: {name: tensors[f"{i}.{name}"] for name in MOMENTS} for i in range(len(parameters))}


def refuse_rng(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError unless these are random states as torch has them."""
    try:
        torch.Generator().set_state(tensors["cpu"])
    except (KeyError, TypeError, RuntimeError):
        raise ValueError("the random state is not one of torch's") from None
    if any(state.dtype != torch.uint8 or state.dim() != 1 for state in tensors.values()):
        raise ValueError("a random state is not made of bytes")
