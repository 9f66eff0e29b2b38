"""The base's answers before training: scoring may take hours, so it is done once.

A run keeps them in its folder; with --base-scores DIR all runs of the same base on the same rows share them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cli.train import TrainFlags
from data.splits import SOFTMAX, Split
from files import write_bytes
from machine import ranks
from metrics import Scored
from model.llama import Llama
from run.config import fingerprints
from run.folder import RunFolder
from run.inputs import Inputs
from scoring.forward import COLUMNS
from scoring.splits import labels_of, score_split, users_of

OTHER = "other_{}"  # the column of the answers in other words, by number
ROUNDING = ("precision", "base_dtype", "compile", "deterministic")  # flags that change the last digits of an answer


def score_base(run: RunFolder, name: str, model: Llama, split: Split, shared: Path | None = None) -> Scored:
    """score_split before training; answers that are there are read instead.

    name: of the split; shared: the file that holds the answers, see shared_file; None: one in the run folder.
    """
    path = shared or run.path / "last" / f"base-{name}.scores"
    names = [OTHER.format(number) for number in range(len(split.others))]
    columns = _read_columns(path, len(split.pairs), names)
    if not ranks.any_rank(columns is None):
        scored = Scored(users_of(split.rows), labels_of(split.rows), **{name: columns[name] for name in COLUMNS})
        same = np.array([other.same for other in split.others])
        return replace(scored, others=np.stack([columns[name] for name in names], 1), same=same) if names else scored
    scored = score_split(model, split, f"base on {name}")
    others = dict(zip(names, scored.others.T)) if names else {}
    _keep(run, path, save({column: getattr(scored, column) for column in COLUMNS} | others))
    return scored


def shared_answers(folder: Path, name: str) -> list[dict[str, np.ndarray]]:
    """The columns of every whole file in a folder of --base-scores that is of a split of this name.

    There are several if runs asked in different prompts. Each column is an array (N,), see metrics.Scored.
    """
    return [columns for path in sorted(folder.glob(f"{name}-*.scores")) if (columns := _read_columns(path))]


def shared_file(name: str, inputs: Inputs, flags: TrainFlags) -> Path | None:
    """Where --base-scores keeps the answers to this split; its name has a sha256 of all that determines them."""
    if not flags.base_scores:
        return None
    of_run = fingerprints(inputs, flags.model, flags.init_adapter)
    names = (f"prompts of {name}", "weights of the base", "config.json of the base", "adapter to start from")
    rounding = [str(getattr(flags, flag)) for flag in ROUNDING]
    if inputs.vectors:
        rounding.append(of_run["vectors in the prompt"])
    if inputs.valid.reading != SOFTMAX:
        rounding.append(inputs.valid.reading)
    device = torch.cuda.get_device_name(inputs.device) if inputs.device.type == "cuda" else inputs.device.type
    place = [device, str(torch.get_num_threads()), torch.__version__, str(ranks.count())]
    key = hashlib.sha256(repr([of_run[name] for name in names] + rounding + place).encode()).hexdigest()[:16]
    return Path(flags.base_scores) / f"{name}-{key}.scores"


@ranks.first_only
def _keep(run: RunFolder, path: Path, columns: bytes) -> None:
    with run.writing():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, hashlib.sha256(columns).digest() + columns)


def _read_columns(path: Path, rows: int | None = None, others: Sequence[str] = ()) -> dict[str, np.ndarray] | None:
    """What score_base wrote, after the sha256 of it; None if it is not there or not whole.

    rows: if they are known; others: the names of further columns.
    """
    content = path.read_bytes() if path.is_file() else b""
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        columns = load(content)
    except SafetensorError:
        return None
    shapes = {values.shape for values in columns.values()}
    whole = set(columns) == {*COLUMNS, *others} and len(shapes) == 1 and len(next(iter(shapes))) == 1
    return columns if whole and rows in (None, len(next(iter(columns.values())))) else None
