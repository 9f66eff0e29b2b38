"""Rows at random, and the sequence models at a small size, for their tests."""

import numpy as np
import torch

from baselines import caser, dros, gru4rec, sasrec, sasrec_full
from baselines.base import Training, settings_of
from baselines.rows import Ids, Rows

ITEMS = 30
FEW_SHOT = {module.METHOD.name: module.METHOD for module in (gru4rec, caser, sasrec, dros)}
ALL = FEW_SHOT | {sasrec_full.METHOD.name: sasrec_full.METHOD}


def random_rows(count, length=10, side="right", seed=0, shortest=0):
    """Rows with histories of `shortest` to `length` items."""
    draw = np.random.default_rng(seed)
    history, lengths = np.zeros((count, length), int), draw.integers(shortest, length + 1, count)
    for i, real in enumerate(lengths):
        place = slice(length - real, None) if side == "left" else slice(real)
        history[i, place] = draw.integers(1, ITEMS + 1, real)
    liked = (draw.random((count, length)) < 0.5) & (history > 0)
    return Rows(
        torch.from_numpy(draw.integers(1, 9, count)),
        torch.from_numpy(draw.integers(1, ITEMS + 1, count)),
        torch.from_numpy(history),
        torch.from_numpy(liked),
        torch.from_numpy(lengths),
        torch.from_numpy(draw.integers(0, 2, count)).float(),
    )


def rows_for(name, count, **how):
    full = name == "sasrec-full"
    return random_rows(count, **({"length": 25, "side": "left"} if full else {}) | how)


def built(name, rows, **changes):
    """The module with random biases, since many of them start at 0, in evaluation mode."""
    torch.manual_seed(1)
    items = {i: i for i in range(1, ITEMS + 1)}
    settings = settings_of(ALL[name], "movie", False) | {"dim": 8} | changes
    module = ALL[name].build(Training(Ids({}, items, ("",) * (ITEMS + 1)), rows), settings)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    return module.eval()


def change(rows, **changes):
    return Rows(**vars(rows) | changes)
