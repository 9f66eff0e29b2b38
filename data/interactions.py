"""One representation of recommendation data, for the language model and the ID-based baselines.

A data set is a catalogue (item -> title) and three lists of interactions. Each interaction is a
row to predict: a user, what that user rated before (in order, liked or not), a target item, and
whether the user liked the target.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from errors import DataError

SPLITS = ("train", "valid", "test")
HISTORY = 10  # items before the target in a row, as in TALLRec
DEFAULT_WORDING = "tallrec"  # one of data.prompts.WORDINGS


@dataclass(frozen=True)
class Item:
    """What a prompt shows of an item."""

    title: str
    author: str | None = None


@dataclass(frozen=True)
class Interaction:
    """A row to predict.

    user: None where the source does not say; history: (item, liked), oldest first;
    timestamp: unix seconds of the target, or None.
    """

    user: int | str | None
    history: tuple[tuple[int | str, bool], ...]
    target: int | str
    label: bool
    timestamp: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A catalogue and three splits.

    source: where the rows come from; printed with every figure that is computed on them
    noun: what the prompts call an item; wording: which prompts they are, see data.prompts.wording_of
    selection: the validation rows that choose the best state in training; all of `valid` if None
    """

    name: str
    source: str
    noun: str
    catalogue: dict[int | str, Item]
    train: list[Interaction]
    valid: list[Interaction]
    test: list[Interaction]
    wording: str = DEFAULT_WORDING
    selection: list[Interaction] | None = None

    def selection_rows(self) -> list[Interaction]:
        """The validation rows that choose the best state."""
        return self.valid if self.selection is None else self.selection

    def fingerprint(self) -> str:
        """sha256 over everything that training or scoring can see: wording, items, rows."""
        digest = hashlib.sha256(json.dumps([self.noun, self.wording]).encode())
        for item, shown in self.catalogue.items():
            digest.update(json.dumps([item, shown.title, shown.author]).encode())
        for split in (self.train, self.valid, self.test):
            for row in split:
                digest.update(json.dumps([row.user, row.history, row.target, row.label]).encode())
            digest.update(b"|")
        return digest.hexdigest()


def not_cold(data: Dataset, rows: list[Interaction]) -> list[bool]:
    """Whether both user and target of each row occur in the training split, as CoLLM counts it."""
    users, items = {row.user for row in data.train}, {row.target for row in data.train}
    return [row.user in users and row.target in items for row in rows]


def select_shots(train: list[Interaction], shots: int | None, seed: int) -> list[Interaction]:
    """The first `shots` rows of a seeded permutation, as TALLRec draws them; all of them if None.

    Raises DataError if there are fewer rows than shots.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    if shots is None:
        return [train[i] for i in order]
    if not 0 < shots <= len(train):
        raise DataError(f"--shots {shots}: the training split has {len(train)} rows; choose 1 to {len(train)}, or all")
    return [train[i] for i in order[:shots]]
