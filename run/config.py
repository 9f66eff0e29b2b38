"""What a run is, in words and JSON: config.json, and the heading of results.json."""

import hashlib
import platform
from array import array
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

from cli.flags import Resolved, flag_name
from cli.train import TrainFlags
from data.interactions import Dataset
from data.splits import Split
from machine import ranks
from model.demo import base_in_results, model_folder
from model.weights import read_llama_config
from objectives.by_name import make_objective
from run.catalogue import history_lengths
from run.inputs import Inputs
from run.merge import digest_of

PACKAGES = ("safetensors", "sentencepiece", "scikit-learn")


def run_config(resolved: Resolved, data: Dataset, device: torch.device, fingerprints: dict[str, str]) -> dict:
    """config.json: every flag with its source, what ran it, which data it saw, and all that --resume compares."""
    return {
        "flags": {name: {"value": value, "source": resolved.sources[name]} for name, value in resolved.values.items()},
        "data_source": data.source,
        "noun": data.noun,
        "wording": data.wording,
        "history": history_lengths(data),
        "rows": {
            "train": len(data.train),
            "valid": len(data.valid),
            "selection": len(data.selection_rows()),
            "test": len(data.test),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "ranks": ranks.count(),
        "versions": versions(),
        "fingerprints": fingerprints,
    }


def versions() -> dict[str, str]:
    """Of the interpreter and of every package that a figure depends on."""
    own = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    return own | {name: version(name) for name in PACKAGES}


def fingerprints(inputs: Inputs, model: str, init_adapter: str | None) -> dict[str, str]:
    """A sha256 of everything outside the flags that a run depends on; of the data also a description in words."""
    data, splits = inputs.data, {"train": inputs.train, "valid": inputs.valid, "test": inputs.test}
    rows = " + ".join(f"{len(split):,}" for split in (data.train, data.valid, data.test))
    return {
        "data": f"{data.fingerprint()} ({data.source}, {rows} rows)",
        **{f"prompts of {name}": _of_prompts(split) for name, split in splits.items()},
        "weights of the base": inputs.adapter["base_fingerprint"],
        "config.json of the base": hashlib.sha256(repr(read_llama_config(model_folder(model))).encode()).hexdigest(),
        "adapter to start from": digest_of(Path(init_adapter)) if init_adapter else "none",
    } | ({"vectors in the prompt": inputs.vectors.fingerprint} if inputs.vectors else {})


def _of_prompts(split: Split) -> str:
    """sha256 over the token ids of both rows of every pair, and of those in other words.

    It covers wording, tokenizer, order and lengths.
    """
    digest = hashlib.sha256()
    for pair in split.all_pairs:
        for part in (pair.positive.prompt, pair.positive.answer, pair.negative.prompt, pair.negative.answer):
            digest.update(len(part).to_bytes(8, "little") + array("i", part).tobytes())
    return digest.hexdigest()


def chosen_flags(resolved: Resolved) -> str:
    """The flags that are not at their default, by where their value came from."""
    by_source: dict[str, list[str]] = {}
    for name, source in resolved.sources.items():
        if source != "default":
            by_source.setdefault(source, []).append(f"{flag_name(name)} {resolved.values[name]}")
    return "\n".join(f"{source}: {' '.join(words)}" for source, words in by_source.items())


def vectors_in_words(flags: TrainFlags) -> dict:
    """What stands in the prompts beside tokens, for results.json; {} if nothing does."""
    if flags.collaborative:
        method = flags.collaborative.partition(":")[0]
        return {"collaborative": method, "tuning": flags.tuning, "trained_table": flags.trains_table}
    return {"soft_prompt": flags.soft_prompt} if flags.soft_prompt != "none" else {}


def results_heading(flags: TrainFlags, data: Dataset, summary: dict) -> dict:
    """The part of results.json above the splits."""
    return {
        "data": data.name,
        "data_source": data.source,
        **base_in_results(flags.model),
        "objective": flags.objective,
        "kl_weight": flags.kl_weight,
        "template": flags.template,
        "shots": flags.shots,
        "seed": flags.seed,
        "probability": make_objective(vars(flags)).reading,
        **vectors_in_words(flags),
        **summary,
    }
