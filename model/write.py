"""Tensors to a checkpoint folder: safetensors shards and their index, config.json, the tokenizer's files.

A shard gets its name when it is complete, and the index is written last. So a shard that is there is complete, and a
folder without an index is unfinished.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from files import clear_leftovers, write_bytes, write_file, write_json

SHARD_BYTES = 4 * 2**30
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ShardPlan:
    """Which file each tensor goes to. shards: tensor names by file name; total_size: bytes of all tensors."""

    shards: dict[str, list[str]]
    total_size: int


def plan_shards(sizes: dict[str, int], limit: int = SHARD_BYTES) -> ShardPlan:
    """The tensors in order, in shards of at most `limit` bytes; a larger tensor has a shard of its own.

    sizes: bytes by tensor name.
    """
    groups, filled = [[]], 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return name_shards(groups, sizes)


def name_shards(groups: list[list[str]], sizes: dict[str, int]) -> ShardPlan:
    """One shard for each group of tensor names, called as in published checkpoints. sizes: bytes by tensor name."""
    count = len(groups)
    shards = {f"model-{number:05d}-of-{count:05d}.safetensors": names for number, names in enumerate(groups, start=1)}
    return ShardPlan(shards, sum(sizes.values()))


def write_checkpoint(
    folder: Path,
    plan: ShardPlan,
    read_tensors: Callable[[list[str]], dict[str, torch.Tensor]],
    config: dict,
    kept: dict[str, bytes],
    progress: Callable[[str], None] = lambda file: None,
) -> None:
    """Write the folder. A shard that is there already is kept, so an interrupted call can be repeated.

    read_tensors: returns the named tensors; called for one shard at a time. config: the content of config.json.
    kept: the content of the files that are kept as they are, by name. progress: called with the name of each shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    for file, names in plan.shards.items():
        progress(file)
        if not (folder / file).exists():
            _write_shard(folder / file, read_tensors(names))
    for file, content in kept.items():
        write_bytes(folder / file, content)
    write_json(folder / "config.json", config)
    weight_map = {name: file for file, names in plan.shards.items() for name in names}
    write_json(folder / INDEX, {"metadata": {"total_size": plan.total_size}, "weight_map": weight_map})


def _write_shard(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_file(path, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
