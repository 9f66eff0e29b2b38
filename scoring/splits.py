"""From a split to its scores, and from scores to metrics: train.py does it before and after, eval.py at any time."""

from dataclasses import replace

import numpy as np

from baselines.rules import all_rules
from data.interactions import Interaction
from data.splits import Split
from machine import ranks
from machine.sharding import equal_forward_passes
from metrics import Scored, agreement, constants, metric_values, ranking_metrics
from model.llama import Llama
from scoring.forward import COLUMNS, score


def score_split(model: Llama, split: Split, progress: str | None = None) -> Scored:
    """Both answers to every row of the split. progress: the name of the progress bar; none if None."""
    return _score_on_all_ranks(model, split, negatives=True, progress=progress)


def validation_measures(model: Llama, split: Split) -> dict[str, float]:
    """Every metric of a validation that is defined, as metrics.jsonl has it: {"valid_auc": ..., ...}.

    Only the two answers are looked at, so that nothing that needs the whole vocabulary, as the KL, is among them.
    """
    both = (split, _negatives(split))
    sides = [_score_on_all_ranks(model, side, negatives=False, progress="validation") for side in both]
    odds = np.stack([side.z_pos for side in sides], axis=1)  # (N, 2)
    values = metric_values(Scored(sides[0].users, sides[0].labels, odds=odds))
    return {f"valid_{name}": value for name, value in values.items() if not np.isnan(value)}


def trained_wording(scored: Scored, question: str) -> dict:
    """How the answers to the negative question of training agree with those to "will like". scored: both."""
    return {
        "asks": question,
        "trained_on": True,
        "same_answer_is_right": False,
        **agreement(scored, scored.z_neg, False),
    }


def odds_of_wording(model: Llama, split: Split, question: str) -> np.ndarray:
    """Log-odds of Yes to another wording of the question, (N,). split: `question` is in the place of "will dislike"."""
    return _score_on_all_ranks(model, _negatives(split), negatives=False, progress=f'"{question}"').z_pos


def _negatives(split: Split) -> Split:
    """The split with the negative prompts in the place of the positive ones."""
    return replace(split, pairs=[replace(pair, positive=pair.negative) for pair in split.pairs])


def wording_row(scored: Scored, odds: np.ndarray, question: str, same_answer_is_right: bool) -> dict:
    """How the answers to another wording, log-odds (N,), agree with those to "will like". scored: the same rows.

    An answer is inconsistent if it is the same to a negation, or another to a paraphrase.
    """
    return {
        "asks": question,
        "trained_on": False,
        "same_answer_is_right": same_answer_is_right,
        **agreement(scored, odds, same_answer_is_right),
    }


def without_learning(train: list[Interaction], rows: list[Interaction]) -> dict[str, dict]:
    """What is reached on these rows without learning, with intervals, as results.json has it.

    "rules": AUC and UAUC of the trivial rules, whose item means come from `train`. "constants": contradictions, and
    both answers right, of answers that are the same whoever is asked.
    """
    labels, users = labels_of(rows), users_of(rows)
    rules = {name: ranking_metrics(labels, scores, users) for name, scores in all_rules(train, rows).items()}
    return {"rules": rules, "constants": constants(labels, users)}


def _score_on_all_ranks(model: Llama, split: Split, negatives: bool, progress: str | None = None) -> Scored:
    """score() of all rows; each rank does its part of them and has the whole in the end."""
    part = ranks.rows_of_rank(len(split.rows))
    columns = COLUMNS if negatives else COLUMNS[:2]
    values = {column: np.empty(0) for column in columns}  # of a rank without rows
    with equal_forward_passes(model):
        if split.rows[part]:
            own = replace(split, rows=split.rows[part], pairs=split.pairs[part])
            scored = score(model, own, negatives, progress)
            values = {column: getattr(scored, column) for column in columns}
    gathered = {column: ranks.gather_rows(own, len(split.rows)) for column, own in values.items()}
    return Scored(users_of(split.rows), labels_of(split.rows), **gathered)


def labels_of(rows: list[Interaction]) -> np.ndarray:
    """(N,) bool."""
    return np.array([row.label for row in rows], dtype=bool)


def users_of(rows: list[Interaction]) -> list:
    """The user of each row, None where it is unknown."""
    return [row.user for row in rows]
