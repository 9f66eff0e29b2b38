"""Score a split and measure it: what train.py does before and after, and eval.py at any time."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from baselines.rules import all_rules
from data.interactions import Interaction
from data.pairs import EncodedPair
from data.prompts import WORDINGS
from data.splits import Split
from files import write_bytes
from machine import ranks
from machine.sharding import equal_forward_passes
from metrics import Scored, agreement, auc, ranking_metrics
from model.llama import Llama
from run.folder import RunFolder
from scoring.forward import score

COLUMNS = ("log_yes_pos", "log_no_pos", "log_yes_neg", "log_no_neg", "kl", "js")  # of Scored


def score_split(model: Llama, split: Split, answers: dict[bool, list[int]], progress: str | None = None) -> Scored:
    """Both answers to every row of the split."""
    return _score(model, split.pairs, split.rows, answers, progress=progress)


def score_base(run: RunFolder, name: str, model: Llama, split: Split, answers: dict[bool, list[int]]) -> Scored:
    """score_split before training, kept in the run folder: scoring takes hours with much data, and is done once."""
    path = run.path / "last" / f"base-{name}.scores"
    columns = _read_columns(path, len(split.pairs))
    if not ranks.any_rank(columns is None):
        return Scored(_users(split.rows), np.array(_labels(split.rows), dtype=bool), **columns)
    scored = score_split(model, split, answers, f"base on {name}")
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


def score_wordings(
    model: Llama, scored: Scored, encoded: Callable[[str], Split], answers: dict[bool, list[int]], wording: str
) -> list[dict]:
    """How the answers to other wordings of the question agree with those to "will like", a dict each.

    scored: both answers to "will like" and "will dislike"; encoded: the split with other words in the
    place of "will dislike". An answer is inconsistent if it is the same to a negation, or another
    to a paraphrase.
    """
    rows, words = [], WORDINGS[wording]
    for question, same_wanted in {words.dislike: False, **words.held_out}.items():
        if question != words.dislike:
            split = encoded(question)
            swapped = [replace(pair, positive=pair.negative) for pair in split.pairs]
            other = _score(model, swapped, split.rows, answers, negatives=False, progress=f'"{question}"')
        yes, no = (
            (scored.log_yes_neg, scored.log_no_neg)
            if question == words.dislike
            else (other.log_yes_pos, other.log_no_pos)
        )
        rows.append(
            {
                "asks": question,
                "trained_on": question == words.dislike,
                "same_answer_is_right": same_wanted,
                **agreement(scored, yes - no, same_wanted),
            }
        )
    return rows


def positive_auc(model: Llama, split: Split, answers: dict[bool, list[int]]) -> float:
    """AUC of the positive prompts alone: what the best state is chosen by."""
    scored = _score(model, split.pairs, split.rows, answers, negatives=False)
    return auc(scored.labels, scored.z_pos)


def rules_without_learning(train: list[Interaction], rows: list[Interaction]) -> dict[str, dict]:
    """AUC and UAUC of the trivial rules on these rows, with intervals; item means come from `train`."""
    labels, users = np.array(_labels(rows), dtype=bool), _users(rows)
    return {name: ranking_metrics(labels, scores, users) for name, scores in all_rules(train, rows).items()}


def _score(
    model: Llama,
    pairs: list[EncodedPair],
    rows: list[Interaction],
    answers: dict[bool, list[int]],
    negatives: bool = True,
    progress: str | None = None,
) -> Scored:
    """score() of all rows, each rank doing its part of them and having the whole in the end."""
    part = ranks.rows_of_rank(len(rows))
    labels, users, columns = _labels(rows), _users(rows), COLUMNS if negatives else COLUMNS[:2]
    values = {column: np.empty(0) for column in columns}  # of a rank without rows
    with equal_forward_passes(model):
        if rows[part]:
            scored = score(model, pairs[part], labels[part], users[part], answers, negatives, progress)
            values = {column: getattr(scored, column) for column in columns}
    return Scored(
        users,
        np.array(labels, dtype=bool),
        **{column: ranks.gather_rows(own, len(rows)) for column, own in values.items()},
    )


def _labels(rows: list[Interaction]) -> list[bool]:
    return [row.label for row in rows]


def _users(rows: list[Interaction]) -> list:
    return [row.user for row in rows]
