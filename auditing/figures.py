"""What the report of audit.py shows of a pair: its tokens, its terms, the vocabulary entries behind each KL.

Shape letters: T tokens, N positions of the positive row, V vocabulary.
"""

import difflib

import torch
from torch import Tensor

from auditing.terms import Contrast, MainLoss, Terms, sign
from data.pairs import EncodedPair
from loss import log_probabilities
from protocols import Tokenizer

MARKS = "ĠĊ"  # how byte-level vocabularies show a space and a line break; both are letters of Maltese and Irish, too
TOP = 10  # vocabulary entries shown for each KL


def row_figures(tokenizer: Tokenizer, pair: EncodedPair) -> dict[str, list[dict]]:
    """(X+, Y+) and (X-, Y-), token by token.

    Each token has its id, its piece, whether it belongs to the answer, whether the rows differ there, and whether it
    ends a line of the prompt.
    """
    rows = {"positive": pair.positive, "negative": pair.negative}
    figures = {
        side: [
            {
                **_token(tokenizer, token_id),
                "answer": i >= len(row.prompt),
                "changed": False,
                "ends_line": tokenizer.ends_line(token_id),
            }
            for i, token_id in enumerate(row.ids)
        ]
        for side, row in rows.items()
    }
    alignment = difflib.SequenceMatcher(None, pair.positive.ids, pair.negative.ids, autojunk=False)
    for kind, start, end, start_neg, end_neg in alignment.get_opcodes():
        for token in figures["positive"][start:end] + figures["negative"][start_neg:end_neg]:
            token["changed"] = kind != "equal"
    return figures


def answer_figures(tokenizer: Tokenizer, pair: EncodedPair, terms: Terms, logits: Tensor) -> list[dict]:
    """For each answer token t: the targets, their log-probabilities, every term, and the top entries of each KL.

    logits: (3, T, V). log_q_pos_own and log_q_pos_shared are the log-probabilities of the positive target after
    X-: own continues Y-_<t, shared continues Y+_<t. Everything is in nats.
    """
    log_probs = log_probabilities(logits)
    y_pos, y_neg = pair.positive.answer, pair.negative.answer
    figures = []
    for t in range(min(len(y_pos), len(y_neg))):
        at, at_neg = len(pair.positive.prompt) - 1 + t, len(pair.negative.prompt) - 1 + t
        aligned = at + len(pair.negative.ids) - len(pair.positive.ids)
        log_p, own, shared = log_probs[0, at], log_probs[1, at_neg], log_probs[2, at_neg]  # (V,) each
        figures.append(
            {
                "t": t + 1,
                "target_pos": _token(tokenizer, y_pos[t]),
                "target_neg": _token(tokenizer, y_neg[t]),
                "log_p_pos": float(log_p[y_pos[t]]),
                "log_q_pos_own": float(own[y_pos[t]]),
                "log_q_pos_shared": float(shared[y_pos[t]]),
                "log_q_neg": float(own[y_neg[t]]),
                "ce_pos": float(terms.paper["own"].ce_pos[0, t]),
                "ce_neg": float(terms.paper["own"].ce_neg[0, t]),
                "kl_own": float(terms.paper["own"].kl[0, t]),
                "kl_shared": float(terms.paper["shared"].kl[0, t]),
                "kl_first": float(terms.paper["first"].kl[0, t]),
                "kl_released": float(terms.kl[at]),
                "top": {
                    "own": top_contributions(tokenizer, log_p, own),
                    "shared": top_contributions(tokenizer, log_p, shared),
                    "released": top_contributions(tokenizer, log_probs[1, aligned], log_p),
                },
            }
        )
    return figures


def top_contributions(tokenizer: Tokenizer, log_a: Tensor, log_b: Tensor) -> list[dict]:
    """The TOP vocabulary entries of KL(a || b) = sum_v a(v) [log a(v) - log b(v)], largest first; log_*: (V,)."""
    a = log_a.exp()
    contributions = torch.where(a > 0, a * (log_a - log_b), 0.0)
    return [
        {**_token(tokenizer, v), "a": float(a[v]), "b": float(log_b[v].exp()), "nats": float(contributions[v])}
        for v in contributions.abs().topk(min(TOP, len(contributions))).indices.tolist()
    ]


def released_figures(tokenizer: Tokenizer, pair: EncodedPair, terms: Terms) -> dict:
    """Where the KL of the published code comes from: at each position of the positive row and summed by part, nats.

    A position predicts the next token, so the first token of the answer belongs to the last position of the prompt.
    """
    ids, n_prompt = pair.positive.ids, len(pair.positive.prompt)
    rows = row_figures(tokenizer, pair)["positive"]
    first_change = next((i for i, token in enumerate(rows) if token["changed"]), n_prompt)
    kl = terms.kl.tolist()  # N
    parts = {
        "prompt, before the first changed word": (0, first_change),
        "prompt, from there on": (first_change, n_prompt - 1),
        "answer tokens": (n_prompt - 1, len(ids) - 1),
        "after EOS": (len(ids) - 1, len(ids)),
    }
    return {
        "kl": kl,
        "ce": terms.ce.tolist(),
        "parts": [
            {"part": part, "positions": end - start, "kl": sum(kl[start:end])} for part, (start, end) in parts.items()
        ],
    }


def reading_figures(
    name: str, terms: Terms, naive: dict, grads: dict[str, dict[str, Tensor]], kl_weight: float
) -> dict:
    """L of one reading, its parts, and the norms of its gradients over all trainable tensors.

    naive: of naive_terms. grads: {"CE" or "KL": {parameter's name: gradient}}.
    cosine: between the gradients of CE and KL, None where one of them is zero. L subtracts the KL, so a positive
    cosine means that the two terms pull in opposite directions; a term in the place of the KL is added.
    """
    ce, kl = (torch.cat([grad.double().flatten() for grad in grads[term].values()]) for term in ("CE", "KL"))
    norm_ce, norm_kl = float(ce.norm()), float(kl.norm())
    divergence = float(terms.divergence(name))
    return {
        "ce": float(terms.cross_entropy(name)),
        "kl": divergence,
        "weighted_kl": kl_weight * divergence,
        "loss": float(terms.loss(name, kl_weight)),
        "loss_naive": naive["CE"][name] + sign(name) * kl_weight * naive["KL"][name],
        "grad_ce": norm_ce,
        "grad_weighted_kl": kl_weight * norm_kl,
        "cosine": float(ce @ kl) / (norm_ce * norm_kl) if norm_ce and norm_kl else None,
    }


def contrast_figures(
    pair: EncodedPair, contrast: Contrast | MainLoss | None, terms: Terms, logits: Tensor
) -> dict | None:
    """The term in the place of the KL that was trained, or CoLLM's loss: its name, its value, and what it is made of.

    logits: (3, T, V). z_*: the log-odds of Y+ against Y- at the first answer token, after X+ and X-; of CoLLM's loss
    the logit that it looks at.
    """
    if contrast is None:
        return None
    if isinstance(contrast, MainLoss):
        yes, no = (pair.positive.answer[0], pair.negative.answer[0])[:: 1 if pair.liked else -1]
        rows = logits[0, len(pair.positive.prompt) - 1], logits[1, len(pair.negative.prompt) - 1]  # (V,) each
        z = [float(row[yes] - (row[no] if contrast.main_loss == "ce" else 0.0)) for row in rows]
        return {**contrast._asdict(), "z_pos": z[0], "z_neg": z[1]}
    log_p = log_probabilities(logits[0, len(pair.positive.prompt) - 1])  # (V,)
    log_q = log_probabilities(logits[1, len(pair.negative.prompt) - 1])
    y, n = pair.positive.answer[0], pair.negative.answer[0]
    z = {"z_pos": float(log_p[y] - log_p[n]), "z_neg": float(log_q[y] - log_q[n])}
    return {**contrast._asdict(), "term": float(terms.divergence(contrast.name)), **z}


def _token(tokenizer: Tokenizer, token_id: int) -> dict:
    """Its id and its piece; and its text, if that has a letter by which other pieces mark a space or a line break."""
    token = {"id": token_id, "piece": tokenizer.piece(token_id)}
    if any(mark in token["piece"] for mark in MARKS):
        text = tokenizer.decode([token_id])
        token |= {"text": text} if any(mark in text for mark in MARKS) else {}
    return token
