"""DROS: distributionally robust optimisation over items, as a term beside the loss of a sequence model.

Source: Yang et al. 2023 and their public code. The term is the dual of a worst case over all distributions within a
KL divergence of the items' own. It pulls the target's logit to the label and all other logits to 0. On unlabelled data
the label is always 1; that is the published form.
"""

import torch
from torch import Tensor, nn

from baselines import caser, gru4rec, sasrec
from baselines.base import ANY, DROPOUT, Method, Option, Training
from baselines.rows import Rows
from baselines.sequence import FORM, OPTIONS, PUBLISHED, SequenceModel, label_loss

EXPONENT = 0.05  # of the propensities, as published; it makes them nearly equal
ENCODERS = {"gru4rec": gru4rec.encoder, "caser": caser.encoder, "sasrec": sasrec.encoder}


def propensities(counts: Tensor) -> Tensor:
    """ρ_j = ((n_j + 1) / Σ_k (n_k + 1))^0.05 from how often each item is a target in training; (|I|,) to (|I|,)."""
    smoothed = counts.double() + 1
    return (smoothed / smoothed.sum()).pow(EXPONENT).float()


def robust_term(logits: Tensor, target: Tensor, labels: Tensor, rho: Tensor, beta: float) -> Tensor:
    """log [ Σ_{j ≠ t} exp(ρ_j s_j² / β) + exp(ρ_t (s_t - label)² / β) ], for each row; (B,).

    logits: (B, |I|); target: (B,) from 0; labels: (B,); rho: (|I|,). The target's entry is replaced before one
    log-sum-exp: subtracting its exponential from a sum of all would cancel, and overflow once a logit passes 10.
    """
    wanted = torch.zeros_like(logits).scatter(1, target.unsqueeze(1), labels.unsqueeze(1))
    return torch.logsumexp(rho * (logits - wanted).square() / beta, dim=1)


class DROS(SequenceModel):
    """L = L_main + α · mean over rows of robust_term.

    encoder: of any sequence model; counts: (|I|,), how often each item is a target in training; alpha: the published
    code has 0, i.e. the term is off, so it must be searched. forward is that of the sequence model.
    """

    def __init__(
        self,
        encoder: nn.Module,
        counts: Tensor,
        alpha: float = 0.1,
        beta: float = 1.0,
        loss: str = "bce",
    ):
        super().__init__(encoder, len(counts), loss)
        self.alpha, self.beta = alpha, beta
        self.register_buffer("rho", propensities(counts), persistent=False)

    def loss(self, rows: Rows) -> Tensor:
        """The main loss alone if alpha is 0; the logits of all items are computed otherwise."""
        if self.alpha == 0:
            return super().loss(rows)
        logits, target = self.all_logits(rows), rows.items - 1
        main = label_loss(logits.gather(1, target.unsqueeze(1)).squeeze(1), rows, self.loss_name)
        return main + self.alpha * robust_term(logits, target, rows.labels, self.rho, self.beta).mean()


def build(training: Training, settings: dict) -> DROS:
    """The module for these training rows; the propensities come from their targets alone."""
    counts = target_counts(training)
    encoder = ENCODERS[settings["encoder"]](training, settings)
    return DROS(encoder, counts, settings["alpha"], settings["beta"], settings["loss"])


def target_counts(training: Training) -> Tensor:
    """How often each item is a target of the training rows, (|I|,)."""
    return torch.bincount(training.rows.items - 1, minlength=training.items)


METHOD = Method(
    "dros",
    "a sequence model whose loss is also small for the worst distribution of items nearby",
    build,
    options=(
        *OPTIONS,
        DROPOUT,
        Option("encoder", "gru4rec", "what reads the history (the paper does not say which)", choices=tuple(ENCODERS)),
        Option("alpha", 0.0, "weight of the robust term", low=0, high=1000),
        Option("beta", 1.0, "temperature of the robust term, which sets how far the distributions may lie", low=1e-6),
    ),
    history=FORM,
    published={ANY: PUBLISHED},
    ours={"alpha": 0.1},
    # the same number of trials as the other methods have: 2 x 4 x 3 = 24
    grid={"lr": (1e-2, 1e-3), "alpha": (0.01, 0.1, 0.5, 1.0), "beta": (0.5, 1.0, 2.0)},
)
