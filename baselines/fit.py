"""The one loop that trains every recommender, and the scores of a trained one."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import nn

from baselines.rows import Rows
from errors import RunError
from metrics import auc
from tensors import all_finite, trainable_parameters

SCORING_BATCH = 8192  # rows


class Progress(Protocol):
    """How far a run has come, and its early stop; run/progress.py has the class. step: epochs done."""

    step: int

    def validated(self, auc: float) -> bool:
        """Note a validation; returns whether its AUC is better than any before."""
        ...

    def is_over(self, total_steps: int, patience: int) -> bool:
        """Whether the epochs are done, or validation has stopped improving."""
        ...


def make_optimizer(module: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """Adam with l2 * w added to the gradient of every weight w, or AdamW, which takes l2 * lr * w off each weight."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings["optimizer"]]
    # One pass over each table instead of ten: on a CPU a step of a large table takes a quarter of the time.
    return kind(trainable_parameters(module).values(), lr=settings["lr"], weight_decay=settings["l2"], fused=True)


def fit(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Rows,
    valid: Rows,
    settings: dict,
    progress: Progress,
) -> Iterator[tuple[dict, bool]]:
    """Train epoch by epoch until the early stop; after each give (its record, whether its validation AUC is the best).

    The record: step (the epoch's number from 1), loss (mean over the epoch's rows), valid_auc. Between two epochs the
    caller may save, show or stop. Every draw comes from torch's global generator, so a run that is put back to where it
    was saved, with that generator's state, goes on bit for bit. Raises RunError if loss or scores are not finite.
    """
    while not progress.is_over(settings["epochs"], settings["patience"]):
        loss = train_epoch(module, optimizer, train, settings["batch_size"])
        progress.step += 1
        if not (np.isfinite(loss) and all_finite(list(trainable_parameters(module).values()))):
            raise RunError(f"epoch {progress.step}: loss or weights are no longer finite; try a lower --lr")
        valid_auc = auc(valid.labels.cpu().numpy(), score_rows(module, valid))
        yield {"step": progress.step, "loss": loss, "valid_auc": valid_auc}, progress.validated(valid_auc)


def train_epoch(module: nn.Module, optimizer: torch.optim.Optimizer, train: Rows, batch_size: int) -> float:
    """One pass over the rows in random order, the last batch may be short; returns the mean loss over all rows."""
    module.train()
    total = torch.zeros((), device=train.items.device)
    for index in torch.randperm(len(train)).to(train.items.device).split(batch_size):
        loss = module.loss(train[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(index)
    return float(total) / len(train)


@torch.no_grad()
def score_rows(module: nn.Module, rows: Rows, batch_size: int = SCORING_BATCH) -> np.ndarray:
    """A score per row, (N,) float64, from the module as it is now; its mode is evaluation afterwards."""
    module.eval()
    parts = [module(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    return torch.cat(parts).double().cpu().numpy()
