"""The rows of a split as tensors of numbers: what a recommender without a language model reads.

Users and items are numbered from 1. Number 0 is padding, and a user whom the training split does not know: a model that
has a vector for each user has learnt nothing about the others. Every item of the catalogue has a number, whether a
training row has it or not, so that neither validation nor test rows decide which numbers there are.

Shape letters: B rows, L history items.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from data.interactions import Dataset, Interaction


@dataclass(frozen=True)
class Ids:
    """users, items: the number of each, from 1; titles: of every item by its number, "" for padding, |I| + 1."""

    users: dict[int | str, int]
    items: dict[int | str, int]
    titles: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """Which history a method reads: the latest `length` items.

    side: where padding stands, "left" or "right" of the items; which: "all" items, the "liked" ones alone, or "signed":
    all, and the method uses whether each was liked.
    """

    length: int = 0
    side: str = "right"
    which: str = "all"


@dataclass(frozen=True)
class Rows:
    """Rows of a split.

    users (B,) int64; items (B,) int64: the targets; history (B, L) int64: oldest first, 0 is padding; liked (B, L)
    bool, False at padding; lengths (B,) int64: real history items; labels (B,) float32: 1 if the target was liked.
    """

    users: Tensor
    items: Tensor
    history: Tensor
    liked: Tensor
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Tensor | slice) -> "Rows":
        """Some of the rows: a slice, their numbers (int64), or a mask (bool)."""
        return Rows(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on another device."""
        return Rows(*(getattr(self, field.name).to(device) for field in fields(self)))


def number_ids(data: Dataset, train: list[Interaction]) -> Ids:
    """Numbers for the users of the training rows in order of appearance, and for the items of the catalogue in its."""
    users = dict.fromkeys(row.user for row in train if row.user is not None)
    return Ids(
        {user: number for number, user in enumerate(users, start=1)},
        {item: number for number, item in enumerate(data.catalogue, start=1)},
        ("", *(item.title for item in data.catalogue.values())),
    )


def encode_rows(rows: list[Interaction], ids: Ids, form: History) -> Rows:
    """The rows as tensors, with histories in this form."""
    history = torch.zeros(len(rows), form.length, dtype=torch.int64)
    liked = torch.zeros(len(rows), form.length, dtype=torch.bool)
    lengths = torch.zeros(len(rows), dtype=torch.int64)
    for i, row in enumerate(rows if form.length else []):
        latest = _latest(row.history, form)
        lengths[i] = len(latest)
        if latest:
            place = slice(-len(latest), None) if form.side == "left" else slice(len(latest))
            history[i, place] = torch.tensor([ids.items[item] for item, _ in latest])
            liked[i, place] = torch.tensor([was_liked for _, was_liked in latest])
    return Rows(
        torch.tensor([ids.users.get(row.user, 0) for row in rows], dtype=torch.int64),
        torch.tensor([ids.items[row.target] for row in rows], dtype=torch.int64),
        history,
        liked,
        lengths,
        torch.tensor([row.label for row in rows], dtype=torch.float32),
    )


def _latest(history: tuple[tuple[int | str, bool], ...], form: History) -> list[tuple[int | str, bool]]:
    """The latest items of a history, oldest first."""
    if form.which != "liked":
        return list(history[-form.length :])
    found = []
    for entry in reversed(history):
        if entry[1]:
            found.append(entry)
            if len(found) == form.length:
                break
    return found[::-1]
