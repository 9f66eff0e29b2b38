"""What a run folder says of its run, checked when it is read again: a folder may come from anywhere."""

import json
from dataclasses import Field, fields
from pathlib import Path

import torch

from cli.flags import of_today, parse_value
from data.interactions import DEFAULT_WORDING
from data.prompts import wording_of
from errors import FlagError, RunError, quoted
from files import read_whole
from run.progress import Progress

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
LARGEST = 1e300  # of any figure: none comes near, and a plot must be able to hold it
TEXTS = ("data_source", "noun", "wording", "device")  # of config.json, beside its flags


def refuse_config(config: object, path: Path, verb: str) -> None:
    """Raises RunError unless this is what config.json of a run of `verb` holds, as far as any verb uses it."""
    try:
        for entry in config["flags"].values():
            entry["value"]
        sources = [entry["source"] for entry in config["flags"].values()]
        texts = sources + [config[name] for name in TEXTS if name in config]
        wording_of(config.get("wording", DEFAULT_WORDING))
    except (KeyError, TypeError, AttributeError, ValueError):
        texts = [None]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise RunError(f"{path}: not the config.json of a run; give the folder that {verb} wrote")


def recorded_flags(verb: type, config: dict, path: Path) -> dict:
    """{flag: value} of a run, each of the type and within the bounds of the verb's flag of that name.

    Raises RunError naming the file and the flag that is not.
    """
    known = {f.name: f for f in fields(verb)}
    recorded = {name: entry["value"] for name, entry in config["flags"].items()}
    recorded |= {name: of_today(f"{path}: {name}", known[name], recorded[name]) for name in recorded.keys() & known}
    for name, value in recorded.items():
        if name in known and not _is_value_of(known[name], value):
            raise RunError(
                f"{path}: {name} is {quoted(value)}, which that flag cannot be; was the file changed? Start another run"
            )
    return recorded


def shown(value: object) -> str:
    """A recorded value as it may stand in a message: unchanged, or as Python writes it if it could spoil a terminal."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 200 else repr(text[:200])


def _is_value_of(f: Field, value: object) -> bool:
    if value is None:
        return f.default is None
    if type(value) is not f.type and not (f.type is float and type(value) is int):
        return False
    if f.type is str and ("\0" in value or not value):
        return False
    try:
        return f.type is bool or parse_value(f.name, f, str(value)) == value
    except FlagError:
        return False


def step_lines(path: Path, terms: tuple[str, ...]) -> list[tuple[dict, bytes]]:
    """(record, line) for each line of metrics.jsonl, which has `terms`, or of timings.jsonl, which has none.

    A line that a crash cut off is left out; without the file there are no lines. Raises RunError naming a line that is
    not the record of a step.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(read_whole(path).split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            step, values = record["step"], [record[name] for name in terms] + list(record.values())
            if type(step) is not int or not all(
                type(value) in (int, float) and abs(value) < LARGEST for value in values
            ):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RunError(
                f"{path} line {number}: not the record of a step, found {line[:60]!r}; "
                "remove that line, or start another run"
            ) from None
        lines.append((record, line + b"\n"))
    return lines


# ---- resume state -------------------------------------------------------------------------------


def read_progress(content: dict) -> Progress:
    """What step.json holds. Raises ValueError if it holds anything else."""
    if "best_auc" in content and "best_value" not in content:  # its name when nothing but the AUC could choose
        content = {"best_value" if name == "best_auc" else name: value for name, value in content.items()}
    if set(content) != {field.name for field in fields(Progress)}:
        raise ValueError("step.json does not say how far the run had come")
    if not all(type(value) in (int, float) for value in content.values()):
        raise ValueError("step.json does not say how far the run had come")
    progress = Progress(**content)
    whole = (progress.step, progress.best_step, progress.since_best)
    if not all(type(value) is int and 0 <= value < 2**53 for value in whole) or not -1 <= progress.best_value <= 1:
        raise ValueError("step.json has impossible figures")
    return progress


def optimizer_state(
    tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, torch.Tensor]]:
    """AdamW's state by parameter from {"0.exp_avg": ...}.

    Raises ValueError if it is not that of this optimizer, or not finite.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {
        f"{i}.{name}": () if name == "step" else tuple(p.shape) for i, p in enumerate(parameters) for name in MOMENTS
    }
    if not tensors:  # saved before the first step
        return {}
    if {key: tuple(value.shape) for key, value in tensors.items()} != wanted:
        raise ValueError("the optimizer's moments are not those of this adapter")
    if not all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError("the optimizer's moments are not finite float32 numbers")
    return {i: {name: tensors[f"{i}.{name}"] for name in MOMENTS} for i in range(len(parameters))}


def refuse_rng(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError unless these are random states as torch has them, (ranks, bytes) each."""
    try:
        for state in tensors["cpu"]:
            torch.Generator().set_state(state.clone())
    except (KeyError, TypeError, RuntimeError):
        raise ValueError("the random state is not one of torch's") from None
    if any(
        state.dtype != torch.uint8 or state.dim() != 2 or len(state) != len(tensors["cpu"])
        for state in tensors.values()
    ):
        raise ValueError("a random state is not made of bytes, one row per rank")
