"""Score a split and measure it: what train.py does before and after, and eval.py at any time."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from baselines.rules import all_rules
from data.interactions import Interaction
from data.pairs import EncodedPair
from data.prompts import WORDINGS
from metrics import Scored, agreement, auc, ranking_metrics
from model.llama import Llama
from runtime import ranks
from runtime.scoring import score
from runtime.setup import Split
from runtime.sharding import in_step


def score_split(model: Llama, split: Split, answers: dict[bool, list[int]], progress: str | None = None) -> Scored:
    """Both answers to every row of the split."""
    return _score(model, split.pairs, split.rows, answers, progress=progress)


def score_wordings(model: Llama, scored: Scored, encoded: Callable[[str], Split], answers: dict[bool, list[int]], wording: str) -> list[dict]:
    """How the answers to other wordings of the question agree with those to "will like", a dict each.

    scored: both answers to "will like" and "will dislike"; encoded: the split with other words in the
    place of "will dislike". An answer is inconsistent if it is the same to a negation, or another
    to a paraphrase.
    """
    rows, words = [], WORDINGS[wording]
    for asks, same_wanted in {words.dislike: False, **words.held_out}.items():
        if asks != words.dislike:
            split = encoded(asks)
            swapped = [replace(pair, positive=pair.negative) for pair in split.pairs]
            other = _score(model, swapped, split.rows, answers, negatives=False, progress=f'"{asks}"')
        yes, no = (scored.log_yes_neg, scored.log_no_neg) if asks == words.dislike else (other.log_yes_pos, other.log_no_pos)
        rows.append({"asks": asks, "trained_on": asks == words.dislike, "same_answer_is_right": same_wanted, **agreement(scored, yes - no, same_wanted)})
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
    model: Llama, pairs: list[EncodedPair], rows: list[Interaction], answers: dict[bool, list[int]], negatives: bool = True, progress: str | None = None
) -> Scored:
    """score() of all rows, each rank doing its part of them and having the whole in the end."""
    part = ranks.part_of(len(rows))
    with in_step(model):
        scored = score(model, pairs[part], _labels(rows[part]), _users(rows[part]), answers, negatives, progress)
    values = {f.name: getattr(scored, f.name) for f in fields(Scored) if f.name not in ("users", "labels")}
    gathered = {name: None if value is None else ranks.whole(value, len(rows)) for name, value in values.items()}
    return Scored(_users(rows), np.array(_labels(rows), dtype=bool), **gathered)


def _labels(rows: list[Interaction]) -> list[bool]:
    return [row.label for row in rows]


def _users(rows: list[Interaction]) -> list:
    return [row.user for row in rows]
