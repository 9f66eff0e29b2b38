"""What a run was, in words and JSON: config.json, and the heading of results.json."""

import platform

import numpy
import torch

from data.interactions import Dataset
from runtime import ranks, setup
from runtime.flags import Resolved, RunError
from runtime.run_folder import RunFolder


def run_config(resolved: Resolved, data: Dataset, device: torch.device) -> dict:
    """config.json: every flag with its source, what ran it, and which data it saw."""
    return {
        "flags": {name: {"value": value, "source": resolved.sources[name]} for name, value in resolved.values.items()},
        "data_source": data.source,
        "noun": data.noun,
        "wording": data.wording,
        "data_fingerprint": data.fingerprint(),
        "rows": {"train": len(data.train), "valid": len(data.valid), "selection": len(data.rows_that_select()), "test": len(data.test)},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "ranks": ranks.count(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
    }


def chosen_flags(resolved: Resolved) -> str:
    """The flags that are not at their default, by where their value came from."""
    by_source: dict[str, list[str]] = {}
    for name, source in resolved.sources.items():
        if source != "default":
            by_source.setdefault(source, []).append(f"--{name.replace('_', '-')} {resolved.values[name]}")
    return "\n".join(f"{source}: {' '.join(words)}" for source, words in by_source.items())


def refuse_other_data(run: RunFolder, data: Dataset) -> None:
    """Raises RunError if the rows are not those that the run in this folder was started with."""
    if run.config().get("data_fingerprint") != data.fingerprint():
        raise RunError(f"--resume --out {run.path}: that run saw other data ({run.config().get('data_source')}); start another run")


def results_heading(flags, data: Dataset, summary: dict) -> dict:
    """The part of results.json above the splits."""
    return {
        "data": data.name,
        "data_source": data.source,
        "model": flags.model,
        "demo_model": setup.is_demo(flags.model),
        "objective": flags.objective,
        "kl_weight": flags.kl_weight,
        "template": flags.template,
        "shots": flags.shots,
        "seed": flags.seed,
        **summary,
    }
