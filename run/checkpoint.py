"""Resume state: everything that the next step depends on, as safetensors and JSON; no pickle.

last/step-00000040/
  adapter.safetensors    A and B of every layer
  optimizer.safetensors  AdamW's moments
  rng.safetensors        random state of torch on every rank (LoRA's dropout); the data order needs none
  best.safetensors       the adapter that was best on validation so far, if there was one
  step.json              step, best validation AUC and step, evaluations since
  manifest.json          bytes and sha256 of each of them, written last

A generation is written under another name and renamed when whole; the one before it is kept, and
serves where the newest is found damaged.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from errors import RunError, notice
from files import discard, new_folder, read_whole, write_bytes, write_flushed
from lora.adapter import put_lora_state
from lora.inject import lora_state
from machine import ranks
from run.validate import optimizer_state, refuse_progress, refuse_rng

GENERATIONS = 2
TENSORS = ("adapter.safetensors", "optimizer.safetensors", "rng.safetensors")
STEP, BEST, MANIFEST = "step.json", "best.safetensors", "manifest.json"


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict, best: Path | None = None
) -> None:
    """Write the state after progress["step"] steps as the newest generation in `folder`.

    best: the file of the best adapter so far; it may not be there. Takes all ranks. Raises OSError naming a file.
    """
    rng = {"cpu": ranks.gather(torch.get_rng_state())}  # (ranks, bytes)
    if torch.cuda.is_available():
        rng["cuda"] = ranks.gather(torch.cuda.get_rng_state())
    ranks.refuse_drift(list(lora_state(model).values()))
    if not ranks.is_first():
        return
    generation = folder / f"step-{progress['step']:08d}"
    with new_folder(generation) as temporary:
        _write_generation(temporary, model, optimizer, rng, progress, best)
        if generation.exists():  # found damaged by load_state, and its steps done again
            discard(generation)
    for later in generations(folder):
        if later > generation:  # found damaged by load_state, and its steps are being done again
            discard(later)
    _keep_newest(folder, generation)


def _keep_newest(folder: Path, newest: Path) -> None:
    """Of `newest` and the generations before it, delete all but the last GENERATIONS."""
    for old in [path for path in generations(folder) if path <= newest][GENERATIONS:]:
        discard(old)


def _write_generation(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, rng: dict, progress: dict, best: Path | None
) -> None:
    moments = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    parts = zip(TENSORS, (lora_state(model), moments, rng))
    contents = {
        name: save({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}) for name, tensors in parts
    }
    if best is not None and best.exists():
        contents[BEST] = best.read_bytes()
    contents[STEP] = (json.dumps(progress, indent=2) + "\n").encode()
    manifest = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    for name, content in contents.items():
        write_flushed(folder / name, content)
    write_flushed(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def generations(folder: Path) -> list[Path]:
    """The states in `folder`, newest first."""
    return sorted(folder.glob("step-[0-9]*"), reverse=True)


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, best: Path | None = None
) -> dict | None:
    """Put the newest whole state back into model, optimizer and random generators; returns its progress.

    best: where the best adapter of that time is put; nothing is left there if there was none.
    None if the run had not come as far as saving one. A damaged state is named and passed over;
    raises RunError if all are damaged.
    """
    damaged = []
    for generation in generations(folder):
        try:
            progress, (adapter, moments, rng), best_adapter = _read_generation(generation)
            moments = optimizer_state(moments, optimizer)
        except ValueError as error:
            damaged.append(f"{generation.name}: damaged, {error}")
            continue
        for line in damaged:
            notice(f"{folder / line}; going on from {generation.name}, the state before it")
        break
    else:
        if damaged:
            raise RunError(
                f"{folder}: no whole state to go on from ({'; '.join(damaged)}); remove this folder to do the run again from its first step"
            )
        return None
    put_lora_state(model, adapter, str(generation))
    _keep_newest(folder, generation)  # a kill may have come between saving and this
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    _put_random_state(rng, progress["step"])
    if best is not None and ranks.is_first():
        _put_best(best, best_adapter)
    return progress


def _put_random_state(rng: dict[str, torch.Tensor], step: int) -> None:
    """This rank's state of those saved, (ranks, bytes); where another number of ranks goes on, masks of their own."""
    saved = len(rng["cpu"])
    if saved != ranks.count():
        notice(
            f"Saved by {saved} process(es), resumed by {ranks.count()}: dropout draws other masks than in a run that was not broken"
        )
        ranks.seed_dropout(torch.initial_seed(), step)
        return
    torch.set_rng_state(rng["cpu"][ranks.index()].clone())  # torch does not read a view right
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(rng["cuda"][ranks.index()].clone())


def _put_best(path: Path, content: bytes | None) -> None:
    """A later step than the state's may have left its adapter, and need not come out best when it is done again."""
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def _read_generation(folder: Path) -> tuple[dict, list[dict[str, torch.Tensor]], bytes | None]:
    """(progress, [adapter, moments, rng], best adapter or None). Raises ValueError naming the file that is not as it was written."""
    manifest = _json_object(folder, MANIFEST)
    contents = {}
    for name in (*TENSORS, STEP, *([BEST] if BEST in manifest else [])):
        content, written = _content(folder, name), manifest.get(name)
        if not isinstance(written, dict) or written.get("bytes") != len(content):
            raise ValueError(f"{name} has not the length that {MANIFEST} says")
        if written.get("sha256") != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{name} has not the sha256 that {MANIFEST} says")
        contents[name] = content
    progress = _json_object(folder, STEP)
    refuse_progress(progress)
    try:
        tensors = [load(contents[name]) for name in TENSORS]
    except SafetensorError as error:
        raise ValueError(f"a file of tensors cannot be read ({str(error)[:80]!r})") from None
    refuse_rng(tensors[-1])
    return progress, tensors, contents.get(BEST)


def _content(folder: Path, name: str) -> bytes:
    try:
        return read_whole(folder / name)
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from None


def _json_object(folder: Path, name: str) -> dict:
    try:
        content = json.loads(_content(folder, name))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a JSON object")
    return content
