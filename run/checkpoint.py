"""Resume state: everything that the next step depends on, as safetensors and JSON; no pickle.

last/step-00000040/
  trained.safetensors    every trained tensor by its name in the model: A and B of every layer
                         (adapter.safetensors, with PEFT's names, in runs of version 0.1)
  optimizer.safetensors  AdamW's moments
  rng.safetensors        random state of torch on every rank (LoRA's dropout); the data order needs none
  best.safetensors       the adapter that was best on validation so far, if there was one
  best-vectors.safetensors  the vectors that belong to it, if there are any
  step.json              step, best validation AUC and step, evaluations since
  manifest.json          bytes and sha256 of each of them, written last

A generation is renamed into place when it is whole. The one before it is kept, and is used if the newest is damaged.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from errors import RunError, notice, quoted
from files import discard, new_folder, read_whole, write_bytes, write_flushed
from lora.inject import own_name
from machine import ranks
from model.soft_file import VECTORS
from run.progress import Progress
from run.validate import optimizer_state, read_progress, refuse_rng
from tensors import put_tensors, trainable_parameters

GENERATIONS = 2
TRAINED, OPTIMIZER, RNG = "trained.safetensors", "optimizer.safetensors", "rng.safetensors"
STEP, MANIFEST = "step.json", "manifest.json"
BEST, BEST_VECTORS = "best.safetensors", "best-vectors.safetensors"
TRAINED_OF_0_1 = "adapter.safetensors"


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, best: Path | None = None
) -> None:
    """Write the state after progress.step steps as the newest generation in `folder`.

    best: the file of the best adapter so far; it may not be there. Takes all ranks. Raises OSError naming a file.
    """
    rng = {"cpu": ranks.gather(torch.get_rng_state())}  # (ranks, bytes)
    if (gpu := _gpu_of(model)) is not None:
        rng["cuda"] = ranks.gather(torch.cuda.get_rng_state(gpu))
    ranks.refuse_drift(list(trainable_parameters(model).values()))
    if not ranks.is_first():
        return
    generation = folder / f"step-{progress.step:08d}"
    contents = _contents(trainable_parameters(model), optimizer, rng)
    contents |= {name: path.read_bytes() for name, path in _files_of_best(best).items() if path.exists()}
    contents[STEP] = (json.dumps(asdict(progress), indent=2) + "\n").encode()
    with new_folder(generation) as temporary:
        _write_generation(temporary, contents)
        if generation.exists():  # found damaged by load_state, and its steps done again
            discard(generation)
    for later in generations(folder):
        if later > generation:  # found damaged by load_state, and its steps are being done again
            discard(later)
    _keep_newest(folder, generation)


def _files_of_best(best: Path | None) -> dict[str, Path]:
    """{name in a generation: file in the run folder} of what is kept of the best state. best: its adapter."""
    return {} if best is None else {BEST: best, BEST_VECTORS: best.with_name(VECTORS)}


def _keep_newest(folder: Path, newest: Path) -> None:
    """Of `newest` and the generations before it, delete all but the last GENERATIONS."""
    for old in [path for path in generations(folder) if path <= newest][GENERATIONS:]:
        discard(old)


def _contents(trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, rng: dict) -> dict[str, bytes]:
    """The files of tensors by name."""
    moments = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    files = {TRAINED: trained, OPTIMIZER: moments, RNG: rng}
    return {
        name: save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        for name, tensors in files.items()
    }


def _write_generation(folder: Path, contents: dict[str, bytes]) -> None:
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


@dataclass(frozen=True)
class State:
    """What a generation holds. trained, moments, rng: tensors by name; best: the files of the best state by name."""

    progress: Progress
    trained: dict[str, torch.Tensor]
    moments: dict[int, dict[str, torch.Tensor]]
    rng: dict[str, torch.Tensor]
    best: dict[str, bytes]


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, best: Path | None = None
) -> Progress | None:
    """Put the newest whole state back into model, optimizer and random generators; returns its progress.

    best: where the best adapter of that time is put; the file is removed if there was none.
    Returns None if the run never saved a state. A damaged state is reported and the one before it is taken;
    raises RunError if all are damaged.
    """
    generation, state = _newest_whole(folder, optimizer)
    if state is None:
        return None
    put_tensors(trainable_parameters(model), state.trained, str(generation))
    _keep_newest(folder, generation)  # a kill may have come between saving and this
    optimizer.load_state_dict({"state": state.moments, "param_groups": optimizer.state_dict()["param_groups"]})
    _put_random_state(state.rng, state.progress.step, _gpu_of(model))
    for name, path in _files_of_best(best).items() if ranks.is_first() else ():
        _put_best(path, state.best.get(name))
    return state.progress


def _newest_whole(folder: Path, optimizer: torch.optim.Optimizer) -> tuple[Path, State | None]:
    """The newest generation that is whole, and what it holds; None if there is no generation."""
    damaged = []
    for generation in generations(folder):
        try:
            state = _read_generation(generation, optimizer)
        except ValueError as error:
            damaged.append(f"{generation.name}: damaged, {error}")
            continue
        for line in damaged:
            notice(f"{folder / line}; resuming from {generation.name}, the state before it")
        return generation, state
    if damaged:
        raise RunError(
            f"{folder}: no whole state to resume from ({'; '.join(damaged)}); "
            "remove this folder to do the run again from its first step"
        )
    return folder, None


def _gpu_of(model: nn.Module) -> torch.device | None:
    """The GPU that holds what is trained, and whose generator draws the dropout; None if a CPU does."""
    devices = {parameter.device for parameter in trainable_parameters(model).values()}
    return next((device for device in devices if device.type == "cuda"), None)


def _put_random_state(rng: dict[str, torch.Tensor], step: int, gpu: torch.device | None) -> None:
    """This rank's saved state, of (ranks, bytes); if another number of ranks resumes, each draws masks of its own."""
    saved = len(rng["cpu"])
    if saved != ranks.count():
        notice(
            f"Saved by {saved} process(es), resumed by {ranks.count()}: "
            "dropout draws other masks than in a run without interruption"
        )
        ranks.seed_dropout(torch.initial_seed(), step)
        return
    torch.set_rng_state(rng["cpu"][ranks.index()].clone())  # torch misreads a view
    if "cuda" in rng and gpu is not None:
        torch.cuda.set_rng_state(rng["cuda"][ranks.index()].clone(), gpu)


def _put_best(path: Path, content: bytes | None) -> None:
    """A later step than the state's may have left its adapter, which need not be the best when it is done again."""
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
        write_bytes(path, content)


def _read_generation(folder: Path, optimizer: torch.optim.Optimizer) -> State:
    """Raises ValueError naming the file that is not as it was written."""
    manifest = _json_object(folder, MANIFEST)
    trained = TRAINED_OF_0_1 if TRAINED_OF_0_1 in manifest else TRAINED
    contents = {}
    of_best = [name for name in (BEST, BEST_VECTORS) if name in manifest]
    for name in (trained, OPTIMIZER, RNG, STEP, *of_best):
        content, written = _content(folder, name), manifest.get(name)
        if not isinstance(written, dict) or written.get("bytes") != len(content):
            raise ValueError(f"{name} does not have the length that {MANIFEST} says")
        if written.get("sha256") != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{name} does not have the sha256 that {MANIFEST} says")
        contents[name] = content
    progress = read_progress(_json_object(folder, STEP))
    try:
        tensors, moments, rng = (load(contents[name]) for name in (trained, OPTIMIZER, RNG))
    except SafetensorError as error:
        raise ValueError(f"a file of tensors cannot be read ({quoted(str(error), 80)})") from None
    if trained == TRAINED_OF_0_1:
        tensors = {own_name(name): tensor for name, tensor in tensors.items()}
    refuse_rng(rng)
    best = {name: contents[name] for name in of_best}
    return State(progress, tensors, optimizer_state(moments, optimizer), rng, best)


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
