"""LCFT written a second time, from the equations: nothing here comes from loss.py, train.py or data/pairs.py.

A model is anything that maps token ids (1, T) to an object with `logits`. Rows go through it one
at a time, so there is no padding and no mask; all logits are computed and then cut, and softmax is
taken in float64. Slow, and short enough to check by eye.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # AdamW's defaults


def logits_of(model, ids: list[int]) -> torch.Tensor:
    """(T, V) float64; row t predicts token t + 1."""
    return model(torch.tensor([ids])).logits[0].double()


def answer_logits(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(A, V): what predicts each token of the answer."""
    return logits_of(model, prompt + answer)[len(prompt) - 1 : -1]


def cross_entropy(logits: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    return F.cross_entropy(logits, torch.tensor(tokens), reduction="sum")


# ---- --objective paper, tallrec: Eq. 1-3 --------------------------------------------------------


def paper_terms(model, pair, flags) -> dict[str, torch.Tensor]:
    """CE+, CE- and KL(p || q) of one pair, each summed over answer tokens, in nats."""
    prompt_pos, answer_pos = pair.positive.prompt, pair.positive.answer
    prompt_neg, answer_neg = pair.negative.prompt, pair.negative.answer
    z_pos = answer_logits(model, prompt_pos, answer_pos)
    z_neg = answer_logits(model, prompt_neg, answer_neg)
    z_q = answer_logits(model, prompt_neg, answer_pos) if flags.kl_forcing == "shared" else z_neg
    count = 1 if flags.kl_tokens == "first" else min(len(z_pos), len(z_q))
    p, q = z_pos[:count].softmax(-1), z_q[:count].softmax(-1)
    kl = (p * (p / q).log()).sum()
    return {"ce_pos": cross_entropy(z_pos, answer_pos), "ce_neg": cross_entropy(z_neg, answer_neg), "kl": kl}


def paper_loss(model, batch, flags) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """L = (1/P) sum_i [CE+_i + CE-_i - lambda KL_i] and the means of its terms."""
    total, means = 0.0, {"ce_pos": 0.0, "ce_neg": 0.0, "kl": 0.0}
    for pair in batch:
        terms = paper_terms(model, pair, flags)
        for name in means:
            means[name] += terms[name] / len(batch)
        capped = flags.kl_cap is not None and terms["kl"] > flags.kl_cap
        total = (
            total
            + terms["ce_pos"]
            + terms["ce_neg"]
            - flags.kl_weight * (terms["kl"].detach() if capped else terms["kl"])
        )
    return total / len(batch), means


def tallrec_loss(model, batch, flags) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(1/P) sum_i CE+_i: the positive prompts alone."""
    ce = sum(
        cross_entropy(answer_logits(model, pair.positive.prompt, pair.positive.answer), pair.positive.answer)
        for pair in batch
    )
    return ce / len(batch), {"ce_pos": ce / len(batch)}


# ---- --objective released: the published code ---------------------------------------------------


def released_kl(model, pairs) -> torch.Tensor:
    """KL(q || p), summed over the positions that both rows of a pair have, aligned at their ends; mean over pairs."""
    total = 0.0
    for pair in pairs:
        z_pos = logits_of(model, pair.positive.prompt + pair.positive.answer)
        z_neg = logits_of(model, pair.negative.prompt + pair.negative.answer).detach()  # held still
        both = min(len(z_pos), len(z_neg))
        total = total + F.kl_div(z_pos[-both:].log_softmax(-1), z_neg[-both:].softmax(-1), reduction="sum")
    return total / len(pairs)


def released_micro_batch(model, pairs, flags) -> torch.Tensor:
    """CE+ per token, prompt included, - lambda min(KL, 10000)."""
    ce, tokens = 0.0, 0
    for pair in pairs:
        ids = pair.positive.prompt + pair.positive.answer
        ce, tokens = ce + cross_entropy(logits_of(model, ids)[:-1], ids[1:]), tokens + len(ids) - 1
    if flags.objective == "tallrec":
        return ce / tokens
    kl = released_kl(model, pairs)
    return ce / tokens - flags.kl_weight * (kl if kl <= 10_000 else kl.detach().clamp(max=10_000))


def released_loss(model, batch, flags) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Every micro-batch counts as one of those of a full step, however many pairs or micro-batches there are."""
    size, in_full_step = flags.micro_batch_size, math.ceil(flags.batch_size / flags.micro_batch_size)
    parts = [batch[i : i + size] for i in range(0, len(batch), size)]
    losses = [released_micro_batch(model, part, flags) for part in parts]
    return sum(losses) / in_full_step, {}


# ---- a step, and many ---------------------------------------------------------------------------


def step_loss(model, batch, flags) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one optimizer step and, where the objective has them, the means of its terms."""
    if flags.objective == "released" or flags.train_on_prompt:
        return released_loss(model, batch, flags)
    return (paper_loss if flags.objective == "paper" else tallrec_loss)(model, batch, flags)


def pairs_of_step(pairs, step: int, flags) -> list:
    """Each epoch goes through the pairs in an order drawn from (seed, epoch); within a step, by length."""
    per_epoch = math.ceil(len(pairs) / flags.batch_size)
    order = np.random.default_rng([flags.seed, step // per_epoch]).permutation(len(pairs))
    start = step % per_epoch * flags.batch_size
    chosen = [pairs[i] for i in order[start : start + flags.batch_size]]
    return sorted(
        chosen, key=lambda pair: max(len(row.prompt) + len(row.answer) for row in (pair.positive, pair.negative))
    )


def train_by_hand(model, pairs, flags, rates: list[float]) -> list[dict[str, float]]:
    """A step for every learning rate in `rates`: autograd, clipping, AdamW. Returns loss and gradient norm of each."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moments = [(torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in parameters]
    records = []
    for step, lr in enumerate(rates):
        loss, _ = step_loss(model, pairs_of_step(pairs, step, flags), flags)
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        records.append({"loss": float(loss.detach()), "grad_norm": norm})
        shrink = min(1.0, flags.clip / (norm + 1e-6))  # the 1e-6 is torch's
        with torch.no_grad():
            for parameter, gradient, (mean, square) in zip(parameters, gradients, moments):
                adamw(parameter, gradient * shrink, mean, square, step + 1, lr, flags.weight_decay)
    return records


def adamw(parameter, gradient, mean, square, step: int, lr: float, weight_decay: float) -> None:
    """Loshchilov & Hutter 2019, algorithm 2: decay is not part of the gradient. Changes arguments 1, 3 and 4."""
    mean.mul_(BETA1).add_((1 - BETA1) * gradient)
    square.mul_(BETA2).add_((1 - BETA2) * gradient**2)
    mean_hat, square_hat = mean / (1 - BETA1**step), square / (1 - BETA2**step)
    parameter.copy_(parameter - lr * weight_decay * parameter - lr * mean_hat / (square_hat.sqrt() + EPS))
