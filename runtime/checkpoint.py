"""Resume state: everything that the next step depends on, as safetensors and JSON; no pickle.

last/step-00000040/
  adapter.safetensors    A and B of every layer
  optimizer.safetensors  AdamW's moments
  rng.safetensors        random state of torch on every rank (LoRA's dropout); the data order needs none
  step.json              step, best validation AUC and step, evaluations since

A generation is written under another name and renamed when whole; the one before it is kept.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lora.inject import lora_state
from lora.adapter import put_lora_state
from runtime import ranks
from runtime.files import write_flushed
from runtime.flags import RunError, notice

GENERATIONS = 2


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict) -> None:
    """Write the state after progress["step"] steps as the newest generation in `folder`. Takes all ranks."""
    rng = {"cpu": ranks.stacked(torch.get_rng_state())}  # (ranks, bytes)
    if torch.cuda.is_available():
        rng["cuda"] = ranks.stacked(torch.cuda.get_rng_state())
    ranks.refuse_drift(list(lora_state(model).values()))
    if not ranks.is_first():
        return
    name = f"step-{progress['step']:08d}"
    aside = folder / f".{name}.{os.getpid()}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    moments = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
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
        progress = json.loads((newest / "step.json").read_bytes())
        adapter = load_file(newest / "adapter.safetensors")
        moments = load_file(newest / "optimizer.safetensors")
        rng = load_file(newest / "rng.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{newest}: damaged ({str(error)[:80]}); remove this folder to resume from the one before") from None
    put_lora_state(model, adapter, str(newest))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if len(rng["cpu"]) != ranks.count():
        notice(f"{newest}: saved by {len(rng['cpu'])} process(es), resumed by {ranks.count()}: dropout will differ from that of a run never broken")
        ranks.seed_dropout(torch.initial_seed(), progress["step"])
        return progress
    torch.set_rng_state(rng["cpu"][ranks.index()].clone())  # torch does not read a view right
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(rng["cuda"][ranks.index()].clone())
    return progress
