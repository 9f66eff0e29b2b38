"""A base checkpoint and an adapter merged into one plain checkpoint folder, tensor by tensor."""

import hashlib
import json
from pathlib import Path

import torch

from errors import AdapterError, CheckpointError, FlagError, notice
from files import new_folder, refuse_unwritable
from lora.adapter import read_tensors
from lora.inject import lora_layers
from model.demo import LABEL
from model.llama import Llama
from model.tokenizer import kept_files
from model.weights import read_json, read_stored, stored_sizes
from model.write import plan_shards, write_checkpoint

ADAPTED = ", with an adapter merged in"  # at the end of the label of a merged base
MERGED = "merged_adapters"  # in config.json: digests of the adapters that are in the weights already


def refuse_unusable_output(out: Path, flag: str, results: Path | None = None) -> None:
    """Raises FlagError, naming `flag`, if no checkpoint can be written to this folder. Changes nothing.

    results: the --out of the same command, which will be there first.
    """
    if results is not None and out.resolve() in (results.resolve(), *results.resolve().parents):
        raise FlagError(f"{flag} {out}: is where --out {results} writes, or above it; choose another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FlagError(f"{flag} {out}: already exists; choose another folder")
    refuse_unwritable(out, flag, FlagError)


def refuse_merging_twice(base: Path, adapter: Path) -> None:
    """Raises AdapterError if this adapter has been merged into `base` already."""
    if digest_of(adapter) in _merged_into(base, read_json(base / "config.json")):
        raise AdapterError(f"{adapter}: is merged into {base} already; merging it again would count it twice")


def _merged_into(base: Path, config: dict) -> list[str]:
    digests = config.get(MERGED, [])
    if not isinstance(digests, list):
        raise CheckpointError(
            f"{base / 'config.json'}: {MERGED} is not a list of adapters; remove it, or fetch the file again"
        )
    return digests


def write_merged(base: Path, model: Llama, adapter: Path, out: Path) -> None:
    """Write `base` with the LoRA layers of `model` added to its weights.

    Each weight becomes the stored weight plus (alpha / r) B A, computed in float32 and rounded once to the stored
    dtype. Prints a notice if the model itself computes with an int8 form of the stored weights. Raises AdapterError
    naming the first weight that is not finite after merging; nothing is left behind then.
    """
    layers = {f"{name}.weight": layer for name, layer in lora_layers(model)}
    sizes = stored_sizes(base)
    if any(not layer.base.weight.is_floating_point() for layer in layers.values()):
        notice(
            "The checkpoint's own weights are merged, not their int8 form, "
            "so the merged model's scores will differ slightly from this model's"
        )

    def merged(names: list[str]) -> dict[str, torch.Tensor]:
        tensors = read_stored(base, names)
        for name in names:
            if name in layers:
                tensors[name] = layers[name].merged(tensors[name].to(layers[name].lora_A.device)).cpu()
                if not torch.isfinite(tensors[name]).all():
                    raise AdapterError(
                        f"{adapter}: after merging, {name} has NaN or infinite values in {tensors[name].dtype}"
                    )
        return tensors

    config = read_json(base / "config.json")
    if isinstance(config.get(LABEL), str):
        config[LABEL] = config[LABEL].removesuffix(ADAPTED) + ADAPTED
    config[MERGED] = [*_merged_into(base, config), digest_of(adapter)]
    with new_folder(out) as temporary:
        write_checkpoint(
            temporary,
            plan_shards(sizes),
            merged,
            config,
            {path.name: path.read_bytes() for path in kept_files(base)},
        )
        if out.exists():
            out.rmdir()  # it is empty; the new folder takes its place


def digest_of(adapter: Path) -> str:
    """sha256 over names, shapes and values of the adapter's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_tensors(adapter).items()):
        digest.update(json.dumps([name, tensor.shape]).encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()
