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
from runtime.recorded import optimizer_state, refuse_progress, refuse_rng

GENERATIONS = 2


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
        refuse_progress(progress)
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
