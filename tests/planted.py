"""Data in which the label depends on one thing alone, and how a method does on such rows that it has not seen."""

import numpy as np
import torch

from baselines.base import Training, history_form, settings_of
from baselines.fit import make_optimizer, score_rows, train_epoch
from baselines.methods import METHODS
from baselines.rows import encode_rows, number_ids
from data.interactions import Dataset, Interaction, Item
from metrics import auc

ITEMS, USERS = 20, 40

PATTERNS = {  # name: the label from (user, history, target); each is true of about half of the rows
    "item": lambda user, history, target: target <= ITEMS // 2,
    "last": lambda user, history, target: history[-1] <= ITEMS // 2,
    "any": lambda user, history, target: bool({1, 2} & set(history)),
    # Odd users like odd items, even users even ones: neither the user nor the item alone says anything.
    "group": lambda user, history, target: user % 2 == target % 2,
}


def planted(pattern, count, seed):
    """Rows with random users, targets and histories of 3 to 10 liked items, labelled by the pattern."""
    draw, label = np.random.default_rng(seed), PATTERNS[pattern]
    rows = []
    for _ in range(count):
        user, target = int(draw.integers(1, USERS + 1)), int(draw.integers(1, ITEMS + 1))
        history = [int(item) for item in draw.integers(1, ITEMS + 1, draw.integers(3, 11))]
        rows.append(Interaction(user, tuple((item, True) for item in history), target, label(user, history, target)))
    return rows


def data_of(train, valid=(), test=()):
    catalogue = {i: Item(f"film {i}") for i in range(1, ITEMS + 1)}
    return Dataset("planted", "made here", "movie", catalogue, train, list(valid), list(test))


def learn(name, data, epochs, seed=0, **changes):
    """(the module, how its rows are encoded) after some epochs with the method's settings and these changes."""
    method = METHODS[name]
    settings = settings_of(method, data.name, False) | changes
    ids, form = number_ids(data, data.train), history_form(method, settings)
    rows = encode_rows(data.train, ids, form)
    torch.manual_seed(seed)
    module = method.build(Training(ids, rows), settings)
    optimizer = make_optimizer(module, settings)
    for _ in range(epochs):
        train_epoch(module, optimizer, rows, settings["batch_size"])
    return module, lambda wanted: encode_rows(wanted, ids, form)


def auc_of(module, rows):
    return auc(rows.labels.numpy(), score_rows(module, rows))
