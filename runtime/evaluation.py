"""Score a split and measure it: what train.py does before and after, and eval.py at any time."""

import numpy as np

from baselines.rules import all_rules
from data.interactions import Interaction
from metrics import Scored, auc, ranking_metrics
from model.llama import Llama
from runtime.scoring import score
from runtime.setup import Split


def score_split(model: Llama, split: Split, answers: dict[bool, list[int]], progress: str | None = None) -> Scored:
    """Both answers to every row of the split."""
    return score(model, split.pairs, _labels(split.rows), _users(split.rows), answers, progress=progress)


def positive_auc(model: Llama, split: Split, answers: dict[bool, list[int]]) -> float:
    """AUC of the positive prompts alone: what the best state is chosen by."""
    scored = score(model, split.pairs, _labels(split.rows), _users(split.rows), answers, negatives=False)
    return auc(scored.labels, scored.z_pos)


def rules_without_learning(train: list[Interaction], rows: list[Interaction]) -> dict[str, dict]:
    """AUC and UAUC of the trivial rules on these rows, with intervals; item means come from `train`."""
    labels, users = np.array(_labels(rows), dtype=bool), _users(rows)
    return {name: ranking_metrics(labels, scores, users) for name, scores in all_rules(train, rows).items()}


def _labels(rows: list[Interaction]) -> list[bool]:
    return [row.label for row in rows]


def _users(rows: list[Interaction]) -> list:
    return [row.user for row in rows]
