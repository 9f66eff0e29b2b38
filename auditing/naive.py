"""The second implementation of the loss: float64, in nested loops, and nothing from loss.py.

It follows the definitions in docs/method.md one to one and is meant to be read, not to be fast.
All values are in nats. Shape letters: T tokens, V vocabulary.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data.pairs import EncodedPair

TERMS = ("ce_pos", "ce_neg", "kl_own", "kl_shared")  # one value per answer token each
LONGEST_LOOP = 2048  # vocabulary entries; a larger vocabulary is left to NumPy, tokens are looped over all the same
RELEASED_KL_CAP = 10_000.0  # nats; the bound in the authors' code, written out a second time on purpose


def naive_log_softmax(logits: Sequence[float]) -> Sequence[float]:
    """The logarithm of softmax, for one position."""
    if len(logits) > LONGEST_LOOP:
        shifted = np.asarray(logits)
        shifted = shifted - shifted.max()
        return shifted - np.log(np.exp(shifted).sum())
    largest = max(logits)
    total = 0.0
    for logit in logits:
        total += math.exp(logit - largest)
    return [logit - largest - math.log(total) for logit in logits]


def naive_contributions(log_a: Sequence[float], log_b: Sequence[float]) -> Sequence[float]:
    """What each vocabulary entry adds to KL(a || b)."""
    if len(log_a) > LONGEST_LOOP:
        log_a, a = np.asarray(log_a), np.exp(log_a)
        return np.multiply(a, log_a - log_b, out=np.zeros(len(a)), where=a > 0)
    contributions = []
    for a, b in zip(log_a, log_b):
        contributions.append(math.exp(a) * (a - b) if math.exp(a) > 0 else 0.0)
    return contributions


def naive_kl(log_a: Sequence[float], log_b: Sequence[float]) -> float:
    """KL(a || b)."""
    contributions = naive_contributions(log_a, log_b)
    return float(np.sum(contributions)) if len(contributions) > LONGEST_LOOP else sum(contributions)


def naive_terms(pair: EncodedPair, logits: Tensor, detached: Tensor | None = None) -> dict:
    """Every term of the pair: lists over the answer tokens (TERMS, "kl_released"), "CE" and "KL" by reading, "first".

    logits: (3, T, V) of the rows (X+, Y+), (X-, Y-), (X-, Y+), float64 on the CPU; the logits at one token
    predict the next token. detached: (T, V), the negative row that `released` detaches from the graph, which
    a central difference must therefore keep fixed; None stands for logits[1]. "first": log-probabilities at the first
    answer token, after X+ and X-; "first_logits": the logits there.
    """
    positive, negative = pair.positive, pair.negative
    n_pos, n_neg = len(positive.prompt), len(negative.prompt)
    terms: dict = {name: [] for name in TERMS}
    for t in range(len(positive.answer)):
        log_p = naive_log_softmax(logits[0, n_pos - 1 + t].tolist())
        terms["ce_pos"].append(-log_p[positive.answer[t]])
        terms["kl_shared"].append(naive_kl(log_p, naive_log_softmax(logits[2, n_neg - 1 + t].tolist())))
        if t < len(negative.answer):
            terms["kl_own"].append(naive_kl(log_p, naive_log_softmax(logits[1, n_neg - 1 + t].tolist())))
    for t in range(len(negative.answer)):
        terms["ce_neg"].append(-naive_log_softmax(logits[1, n_neg - 1 + t].tolist())[negative.answer[t]])
    ce = sum(terms["ce_pos"]) + sum(terms["ce_neg"])
    released_ce, terms["kl_released"] = naive_released(pair, logits[0], logits[1] if detached is None else detached)
    terms["CE"] = {"own": ce, "shared": ce, "first": ce, "released": released_ce}
    terms["KL"] = {
        "own": sum(terms["kl_own"]),
        "shared": sum(terms["kl_shared"]),
        "first": terms["kl_own"][0],
        "released": min(sum(terms["kl_released"]), RELEASED_KL_CAP),
    }
    terms["first_logits"] = tuple(row.tolist() for row in (logits[0, n_pos - 1], logits[1, n_neg - 1]))
    terms["first"] = tuple(map(naive_log_softmax, terms["first_logits"]))
    return terms


def naive_released(pair: EncodedPair, logits_pos: Tensor, logits_neg: Tensor) -> tuple[float, list[float]]:
    """(CE, KL at every position) as the authors' published code computes them. logits_*: (T, V).

    CE is the mean over the whole positive row, without ids beyond the vocabulary: these are vectors, which
    nothing predicts. The KL compares the positive row with the negative row,
    position by position, after shifting the negative row so that both end together.
    """
    ids, longer = pair.positive.ids, len(pair.negative.ids) - len(pair.positive.ids)
    ce, counted, kl = 0.0, 0, []
    for column in range(len(ids)):
        log_p = naive_log_softmax(logits_pos[column].tolist())
        if column + 1 < len(ids) and ids[column + 1] < len(log_p):
            ce -= log_p[ids[column + 1]]
            counted += 1
        if column + longer >= 0:
            kl.append(naive_kl(naive_log_softmax(logits_neg[column + longer].tolist()), log_p))
        else:
            kl.append(0.0)
    return ce / counted, kl
