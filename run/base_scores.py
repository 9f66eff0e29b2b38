"""The base's answers before training, kept in the run folder: scoring may take hours, so it is done once."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data.splits import Split
from files import write_bytes
from machine import ranks
from metrics import Scored
from model.llama import Llama
from run.folder import RunFolder
from scoring.forward import COLUMNS
from scoring.splits import labels_of, score_split, users_of


def score_base(run: RunFolder, name: str, model: Llama, split: Split) -> Scored:
    """score_split before training; what the run folder has already is read instead."""
    path = run.path / "last" / f"base-{name}.scores"
    columns = _read_columns(path, len(split.pairs))
    if not ranks.any_rank(columns is None):
        return Scored(users_of(split.rows), labels_of(split.rows), **columns)
    scored = score_split(model, split, f"base on {name}")
    _keep(run, path, save({column: getattr(scored, column) for column in COLUMNS}))
    return scored


@ranks.first_only
def _keep(run: RunFolder, path: Path, columns: bytes) -> None:
    with run.writing():
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, hashlib.sha256(columns).digest() + columns)


def _read_columns(path: Path, rows: int) -> dict[str, np.ndarray] | None:
    """What score_base wrote, after the sha256 of it; None if it is not there or not whole."""
    content = path.read_bytes() if path.is_file() else b""
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        columns = load(content)
    except SafetensorError:
        return None
    return (
        columns
        if set(columns) == set(COLUMNS) and all(values.shape == (rows,) for values in columns.values())
        else None
    )
