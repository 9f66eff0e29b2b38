"""The equations: the LCFT objective (Eq. 1-3), terms in the place of its KL, and what the published code computes.

Pure functions of tensors, nearly all of logits: no data, no ranks. Everything is in nats. objectives/ says which rows
are fed for these logits, and how the terms are put together. For a pair i: positive prompt X+ ("will like") with answer
Y+, negative prompt X- ("will dislike") with the inverted answer Y-; an answer is its tokens and EOS. p_t = P(. | X+,
Y_<t) and q_t = P(. | X-, Y_<t), over the whole vocabulary. A target of -1 means "no token here".
Shape letters: P pairs, A answer positions, N positions of all rows in line, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

RELEASED_KL_CAP = 10_000.0  # nats; the bound in the published code
CHUNK = 256  # positions of which sequence_terms has logits at the same time
Head = Callable[[Tensor], Tensor]  # hidden states (N, D) to logits (N, V)


class PairTerms(NamedTuple):
    """The terms of the objective, per pair and answer token: (P, A) in nats, 0 where there is no token."""

    ce_pos: Tensor
    ce_neg: Tensor
    kl: Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """Log softmax over the vocabulary in float32 or better; log(softmax) would underflow to -inf."""
    return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)


def token_cross_entropy(log_p: Tensor, targets: Tensor) -> Tensor:
    """-log p_t(Y_t). log_p: (..., V); targets: (...) int64. Returns (...), 0 where a target is -1.

    Gradient with respect to the logits: softmax - onehot(Y_t).
    """
    picked = log_p.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -picked.masked_fill(targets < 0, 0.0)


def token_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_v p(v) [log p(v) - log q(v)]. Both (..., V); returns (...).

    Gradients flow through both sides (detach a side to hold it constant): with respect to the logits
    of p they are p * (log p - log q - KL), with respect to those of q they are q - p.
    0 log 0 = 0. Where q(v) = 0 and p(v) > 0, the KL is infinite.
    """
    p = log_p.exp()
    log_ratio = log_p.masked_fill(p == 0, 0.0) - log_q.masked_fill(p == 0, 0.0)
    return (p * log_ratio).sum(-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, at most log 2. Both (..., V); returns (...)."""
    # Clamped, as the gradient of logaddexp(-inf, -inf) is NaN.
    log_m = torch.logaddexp(log_p.clamp(min=-1e30), log_q.clamp(min=-1e30)) - math.log(2)
    return (token_kl(log_p, log_m) + token_kl(log_q, log_m)) / 2


# ---- --objective paper and tallrec --------------------------------------------------------------


def answer_terms(
    logits: Tensor, targets: Tensor, pairs: int, *, kl_tokens: str = "all", kl_cap: float | None = None
) -> PairTerms:
    """Eq. 1 and Eq. 2, per pair and answer token.

    logits: (2P or 3P, A, V) in blocks of P rows, position t predicting answer token t; targets: (2P or 3P, A) int64.
    The blocks are (X+, Y+), (X-, Y-) and, for `--kl-forcing shared`, (X-, Y+): Eq. 2 writes one Y for both sides. With
    two blocks each side is forced on its own answer (`own`).
    kl_tokens: "all", or "first" for t = 1 alone, where both forcings are the same.
    kl_cap: nats; the KL of a pair above it keeps its value and sends no gradient.
    """
    log_p, log_q, *log_q_shared = log_probabilities(logits).split(pairs)  # (P, A, V) each
    targets_pos, targets_neg, *_ = targets.split(pairs)  # (P, A) each
    ce_pos = token_cross_entropy(log_p, targets_pos)  # Eq. 1: -log p_t(Y+_t)
    ce_neg = token_cross_entropy(log_q, targets_neg)  # Eq. 1: -log P(Y-_t | X-, Y-_<t)
    no_kl = targets_pos < 0
    if log_q_shared:
        (log_q,) = log_q_shared
    else:
        no_kl = no_kl | (targets_neg < 0)
    if kl_tokens == "first":
        no_kl = no_kl | (torch.arange(no_kl.shape[1], device=no_kl.device) > 0)
    held = no_kl
    if kl_cap is not None:
        with torch.no_grad():
            held = held | (token_kl(log_p, log_q).masked_fill(no_kl, 0.0).sum(-1, keepdim=True) > kl_cap)
    # Detached before the KL, not after: a zero gradient times an infinite KL would be NaN.
    log_p, log_q = (torch.where(held.unsqueeze(-1), side.detach(), side) for side in (log_p, log_q))
    kl = token_kl(log_p, log_q).masked_fill(no_kl, 0.0)  # Eq. 2: sum_v p_t(v) [log p_t(v) - log q_t(v)]
    return PairTerms(ce_pos, ce_neg, kl)


def paper_loss(terms: PairTerms, kl_weight: float, pairs_in_step: int) -> Tensor:
    """A micro-batch's share of Eq. 3, L = (1/P) sum_i [CE+_i + CE-_i - lambda KL_i]; a scalar.

    pairs_in_step: P over all micro-batches and ranks of the optimizer step, so that a step gives the same gradient
    however it is cut. `tallrec` is this with no KL and no negative rows.
    """
    return (terms.ce_pos + terms.ce_neg - kl_weight * terms.kl).sum() / pairs_in_step  # Eq. 3


# ---- terms in the place of the KL: --objective js, jeffreys, ... --------------------------------


class FirstToken(NamedTuple):
    """(P, V) after X+ and X-; (P,), the first tokens of Y+ and Y-, one of them Yes and the other No; nats."""

    log_p: Tensor
    log_q: Tensor
    y_pos: Tensor
    y_neg: Tensor
    margin: float = 0.0

    def log_odds(self) -> tuple[Tensor, Tensor]:
        """(z+, z-) of Y+ against Y-: of Yes against No, or both with the other sign, which changes no term below."""
        return tuple(token_cross_entropy(log, self.y_neg) - token_cross_entropy(log, self.y_pos) for log in self[:2])


def opposite(z_pos: Tensor, z_neg: Tensor, share: float = 1.0) -> Tensor:
    """log [(p+ (1 - p-))^share + ((1 - p+) p-)^share] with p = sigmoid(z); all (P,)."""
    one, other = (F.logsigmoid(sign * z_pos) + F.logsigmoid(-sign * z_neg) for sign in (1, -1))
    return torch.logaddexp(share * one, share * other)


def log_of_others(log_p: Tensor, targets: Tensor) -> Tensor:
    """log(1 - p(Y)) from the other entries, so that it is finite where p(Y) rounds to 1. (P, V), (P,) to (P,)."""
    return log_p.scatter(-1, targets.unsqueeze(-1), -math.inf).logsumexp(-1)


CONTRASTS: dict[str, Callable[[FirstToken], Tensor]] = {  # (P,) each, minimised; docs/method.md has the equations
    "js": lambda at: -jensen_shannon(at.log_p, at.log_q),
    "jeffreys": lambda at: -(token_kl(at.log_p, at.log_q) + token_kl(at.log_q, at.log_p)),
    "margin": lambda at: (at.margin - token_kl(at.log_p, at.log_q)).clamp(min=0),
    "complement": lambda at: (torch.sigmoid(at.log_odds()[0]) - torch.sigmoid(-at.log_odds()[1])).square(),
    "xor": lambda at: -opposite(*at.log_odds()),
    "arbitrage": lambda at: -2 * opposite(*at.log_odds(), share=0.5),
    "bundle": lambda at: (
        F.softplus(token_cross_entropy(at.log_p - at.log_q, at.y_pos))
        + F.softplus(token_cross_entropy(at.log_q - at.log_p, at.y_neg))
    ),
    "unlikelihood": lambda at: -(log_of_others(at.log_q, at.y_pos) + log_of_others(at.log_p, at.y_neg)),
}


# ---- --objective released -----------------------------------------------------------------------


def position_terms(logits_pos: Tensor, logits_neg: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(CE, KL(neg || pos)) at N positions of positive rows, (N,) each.

    logits_neg: (N, V) like logits_pos, at the aligned positions of the negative rows, without gradient;
    or None for no KL. targets: (N,) int64, the next token.
    """
    log_p = log_probabilities(logits_pos)
    ce = token_cross_entropy(log_p, targets)
    if logits_neg is None:
        return ce, torch.zeros_like(ce)
    return ce, token_kl(log_probabilities(logits_neg.detach()), log_p)


def sequence_terms(
    lm_head: Head, hidden_pos: Tensor, hidden_neg: Tensor | None, targets: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """position_terms of all N positions, hidden_* (N, D), computed a chunk at a time in both passes.

    Full-vocabulary logits exist for `chunk` positions only: those of all positions of one LLaMA-7B pair,
    2 x 250 x 32,000 in float32, would take 64 MB in every line of position_terms.
    """

    def terms(pos: Tensor, neg: Tensor | None, next_token: Tensor) -> tuple[Tensor, Tensor]:
        return position_terms(lm_head(pos), None if neg is None else lm_head(neg), next_token)

    negatives = hidden_neg.split(chunk) if hidden_neg is not None else [None] * len(targets)
    parts = zip(hidden_pos.split(chunk), negatives, targets.split(chunk))
    pieces = [checkpoint(terms, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat([ce for ce, _ in pieces]), torch.cat([kl for _, kl in pieces])


def released_loss(
    ce: Tensor, kl: Tensor, targets: Tensor, kl_weight: float, pairs: int, accumulation_steps: int
) -> Tensor:
    """A micro-batch's share of the published code's loss; a scalar.

    CE: mean over the positive rows' tokens. KL: sum over all positions, mean over the pairs of the micro-batch, then
    bounded. Both are divided by the micro-batches of a *full* step, so a shorter step counts less: this is the
    published behaviour, not Eq. 3.
    """
    mean_kl = (kl.sum() / pairs).clamp(max=RELEASED_KL_CAP)
    return (ce.sum() / (targets >= 0).sum() - kl_weight * mean_kl) / accumulation_steps
