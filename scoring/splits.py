"""From a split to its scores, and from scores to metrics: train.py does it before and after, eval.py at any time."""

from dataclasses import replace

import numpy as np

from baselines.rules import all_rules
from consistency import bundle_metrics, constant_share
from data.interactions import Interaction
from data.questions import Questions
from data.splits import Split
from machine import ranks
from machine.sharding import equal_forward_passes
from metrics import Scored, agreement, constants, metric_values, share_metrics
from model.llama import Llama
from scoring.forward import COLUMNS, score


def score_split(model: Llama, split: Split, progress: str | None = None) -> Scored:
    """All answers to every row of the split. progress: the name of the progress bar; none if None."""
    return _with_others(model, split, _score_on_all_ranks(model, split, negatives=True, progress=progress))


def validation_measures(model: Llama, split: Split) -> dict[str, float]:
    """Every metric of a validation that is defined, as metrics.jsonl has it: {"valid_auc": ..., ...}.

    Only the two answers are looked at, so that nothing that needs the whole vocabulary, as the KL, is among them.
    """
    both = split, _negatives(split)
    sides = [_score_on_all_ranks(model, side, negatives=False, progress="validation") for side in both]
    odds = np.stack([side.z_pos for side in sides], axis=1)  # (N, 2)
    values = metric_values(_with_others(model, split, Scored(sides[0].users, sides[0].labels, odds=odds)))
    return {f"valid_{name}": value for name, value in values.items() if not np.isnan(value)}


def log_odds_of_question(model: Llama, split: Split, question: str) -> np.ndarray:
    """Log-odds of Yes to another question, (N,). split: the rows with `question` in the place of "will dislike"."""
    return _score_on_all_ranks(model, _negatives(split), negatives=False, progress=f'"{question}"').z_pos


def _with_others(model: Llama, split: Split, scored: Scored) -> Scored:
    """The answers with those in other words, if the split has any."""
    if not split.others:
        return scored
    asked = [_negatives(replace(split, pairs=other.pairs)) for other in split.others]
    odds = [_score_on_all_ranks(model, side, negatives=False, progress="in other words").z_pos for side in asked]
    return replace(scored, others=np.stack(odds, axis=1), same=np.array([other.same for other in split.others]))


def _negatives(split: Split) -> Split:
    """The split with the negative prompts in the place of the positive ones."""
    return replace(split, pairs=[replace(pair, positive=pair.negative) for pair in split.pairs])


def wording_matrix(scored: Scored, z: dict[str, np.ndarray], questions: Questions, trained: set[str]) -> dict:
    """How the answers to every question agree with those to the first positive, and what is right over all of them.

    scored: both answers of training's wording; z: {question: log-odds of Yes, (N,)}; trained: the questions that
    training asked. Returns "rows", one for each question; "bundles": of all, of those that training asked and of those
    that it did not, the share of rows with every answer right, and with answers that say one thing; "constant": of the
    best answer that is the same whoever is asked, and is never inconsistent. All with intervals.
    """
    rows = [
        {
            "asks": question,
            "kind": questions.kinds[question],
            "trained_on": question in trained,
            "held_out": question in questions.held_out,
            "same_answer_is_right": questions.same_answer(question),
            **agreement(scored, odds, questions.same_answer(question)),
        }
        for question, odds in z.items()
    ]
    members = {
        "all": list(z),
        "asked in training": [question for question in z if question in trained],
        "held out": [question for question in z if question not in trained],
    }
    right = float(constant_share(scored.labels.mean()))
    return {
        "rows": rows,
        "bundles": {
            name: {"asks": words, **_bundle(scored, np.stack([z[q] for q in words], 1), questions, words)}
            for name, words in members.items()
            if len(words) > 1
        },
        "constant": {"inconsistent_rate": 0.0, "right_rate": right, "auc": 0.5, "all_right": right},
    }


def _bundle(scored: Scored, z: np.ndarray, questions: Questions, words: list[str]) -> dict:
    """bundle_metrics without the rates of single questions, which the rows of the matrix have. z: (N, W)."""
    found = bundle_metrics(z, scored.labels, np.array([questions.same_answer(q) for q in words]), scored.users)
    kept = {name: value for name, value in found.items() if not name.startswith("right_")}
    return kept | {"interval_95": {name: bounds for name, bounds in found["interval_95"].items() if name in kept}}


def without_learning(train: list[Interaction], rows: list[Interaction]) -> dict[str, dict]:
    """What is reached on these rows without learning, with intervals, as results.json has it.

    "rules": AUC and UAUC of the trivial rules, whose item means come from `train`, and what they know if they decide.
    "constants": contradictions, and both answers right, of answers that are the same whoever is asked.
    """
    labels, users = labels_of(rows), users_of(rows)
    rules = {name: share_metrics(labels, shares, users) for name, shares in all_rules(train, rows).items()}
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
