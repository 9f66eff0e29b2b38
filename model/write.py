"""Tensors to a checkpoint folder: safetensors shards, their index, config.json, tokenizer.model.

A shard is renamed into place when it is whole, and the index comes last: a folder without it is unfinished, and a
shard that is there is complete.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from files import clear_leftovers, write_bytes, write_file, write_json

SHARD_BYTES = 4 * 2**30
INDEX = "model.safetensors.index.json"


def plan_shards(sizes: dict[str, int], limit: int = SHARD_BYTES) -> dict[str, list[str]]:
    """Tensor names by shard file name, in order, each shard of at most `limit` bytes unless one tensor is larger.

    sizes: bytes by tensor name.
    """
    groups, filled = [[]], 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return name_shards(groups)


def name_shards(groups: list[list[str]]) -> dict[str, list[str]]:
    """The groups under the file names that published checkpoints use."""
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": names for number, names in enumerate(groups, start=1)
    }


def write_checkpoint(
    folder: Path,
    shards: dict[str, list[str]],
    total_size: int,
    tensors_of: Callable[[list[str]], dict[str, torch.Tensor]],
    config: dict,
    tokenizer: bytes | None,
    progress: Callable[[str], None] = lambda file: None,
) -> None:
    """Write the folder; shards that are there already are taken as they are, so that a broken call can be repeated.

    shards: tensor names by file name; total_size: bytes of all tensors; tensors_of: the named tensors,
    asked for one shard at a time; progress is told each file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    for file, names in shards.items():
        progress(file)
        if not (folder / file).exists():
            tensors = {name: tensor.contiguous() for name, tensor in tensors_of(names).items()}
            write_file(folder / file, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
            del tensors  # before the next shard is read: one of them is held, never two
    if tokenizer is not None:
        write_bytes(folder / "tokenizer.model", tokenizer)
    write_json(folder / "config.json", config)
    weight_map = {name: file for file, names in shards.items() for name in names}
    write_json(folder / INDEX, {"metadata": {"total_size": total_size}, "weight_map": weight_map})
