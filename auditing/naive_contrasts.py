"""The second implementation of the terms in the place of the KL, and of CoLLM's loss: nothing from loss.py."""

import math
from collections.abc import Sequence

from auditing.naive import naive_kl
from data.pairs import EncodedPair


def with_contrast(naive: dict, pair: EncodedPair, contrast: tuple | None) -> dict:
    """naive_terms with another reading: what the run was trained with. contrast: of auditing/terms.py, or None."""
    if contrast is None:
        return naive
    name, kind, *_ = contrast
    if name in ("collm", "lcft-colmf"):
        more = {"CE": naive_main_loss(pair, naive["first_logits"][: contrast[2]], kind), "KL": naive["KL"]["first"]}
    else:
        term = naive_contrast(name, *naive["first"], pair.positive.answer[0], pair.negative.answer[0], kind)
        more = {"CE": naive["CE"]["own"], "KL": term}
    return naive | {part: naive[part] | {name: value} for part, value in more.items()}


def naive_main_loss(pair: EncodedPair, logits: Sequence[Sequence[float]], kind: str) -> float:
    """CoLLM's loss, the sum over these prompts: X+, and perhaps X-. logits: V each, at the first answer token.

    log(1 + exp(-z)) if yes is right, log(1 + exp(z)) if not; z is the logit of yes, with kind "ce" less that of no.
    """
    yes, no = pair.positive.answer[0], pair.negative.answer[0]
    if not pair.liked:
        yes, no = no, yes
    total = 0.0
    for side, row in enumerate(logits):
        z = row[yes] - (row[no] if kind == "ce" else 0.0)
        yes_is_right = pair.liked if side == 0 else not pair.liked
        total += math.log1p(math.exp(-z if yes_is_right else z))
    return total


def naive_contrast(name: str, log_p: Sequence[float], log_q: Sequence[float], y: int, n: int, margin: float) -> float:
    """The term of --objective `name` at one position, as minimised; docs/method.md has the equations.

    log_p, log_q: V log-probabilities each; y, n: the first tokens of Y+ and Y-; margin: nats.
    """
    if name in ("js", "jeffreys", "margin"):
        return _of_vocabulary(name, log_p, log_q, margin)
    if name in ("complement", "xor", "arbitrage"):
        return _of_two_answers(name, _among_two(log_p, y, n), _among_two(log_q, y, n))
    if name == "bundle":
        own_y = 1 / (1 + math.exp(log_q[y] - log_p[y]))
        own_n = 1 / (1 + math.exp(log_p[n] - log_q[n]))
        return -math.log(own_y) - math.log(own_n)
    return -math.log(_all_but(log_q, y)) - math.log(_all_but(log_p, n))  # unlikelihood


def _of_vocabulary(name: str, log_p: Sequence[float], log_q: Sequence[float], margin: float) -> float:
    if name == "jeffreys":
        return -naive_kl(log_p, log_q) - naive_kl(log_q, log_p)
    if name == "margin":
        return max(0.0, margin - naive_kl(log_p, log_q))
    log_m = []
    for a, b in zip(log_p, log_q):
        larger = max(a, b)
        log_m.append(larger + math.log((math.exp(a - larger) + math.exp(b - larger)) / 2))
    return -(naive_kl(log_p, log_m) + naive_kl(log_q, log_m)) / 2


def _of_two_answers(name: str, at_pos: tuple[float, float], at_neg: tuple[float, float]) -> float:
    """at_*: (probability of Y+, of Y-) among these two."""
    (p, not_p), (q, not_q) = at_pos, at_neg
    if name == "complement":
        return (p - not_q) ** 2
    if name == "xor":
        return -math.log(p * not_q + not_p * q)
    return -2 * math.log(math.sqrt(p * not_q) + math.sqrt(not_p * q))  # arbitrage


def _among_two(log_p: Sequence[float], y: int, n: int) -> tuple[float, float]:
    """Each from its own quotient: one less the other would lose all digits where one is almost certain."""
    return 1 / (1 + math.exp(log_p[n] - log_p[y])), 1 / (1 + math.exp(log_p[y] - log_p[n]))


def _all_but(log_p: Sequence[float], left_out: int) -> float:
    """The probability of every entry but one, for the same reason as a sum."""
    total = 0.0
    for v in range(len(log_p)):
        if v != left_out:
            total += math.exp(log_p[v])
    return total
