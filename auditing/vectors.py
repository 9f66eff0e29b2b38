"""The vectors in the prompts of a run: their names in the report, and each computed a second time from the run's files.

Nothing of model/soft_tokens.py is used for the second computation, and the places in the table are counted anew.
Shape letters: d numbers of a recommender's vector, H hidden numbers of the mapping, D hidden_size of the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from auditing.naive import LONGEST_LOOP
from data.interactions import Interaction
from data.parts import PLACES_OF_SOFT_PROMPT
from files import read_whole
from model.llama import Llama
from model.soft_file import VECTORS
from model.soft_tokens import vectors_of
from protocols import Tokenizer
from run.collaborative import USER
from run.vectors import RECORD

ABSOLUTE, RELATIVE = 1e-5, 1e-5  # float32 sums of H products against float64 ones


@dataclass(frozen=True)
class NamedVectors:
    """A tokenizer that calls each vector by its placeholder. names: {id: placeholder}."""

    tokenizer: Tokenizer
    names: Mapping[int, str]

    def piece(self, token_id: int) -> str:
        """The placeholder, or the token as visible text."""
        return self.names.get(token_id) or self.tokenizer.piece(token_id)

    def ends_line(self, token_id: int) -> bool:
        """Whether the text of this token ends with a line break; a vector's does not."""
        return token_id not in self.names and self.tokenizer.ends_line(token_id)

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids)


def vector_checks(model: Llama, row: Interaction, ids: Mapping[str, int], folder: Path) -> list[dict]:
    """For each vector of the row's prompts: the number that differs most from the second computation, and their sum.

    ids: {placeholder: id}; folder: of the run.
    """
    checks = []
    for placeholder, token_id in ids.items():
        number = torch.tensor([token_id - model.config.vocab_size], device=model.lm_head.weight.device)
        with torch.no_grad():
            ours = vectors_of(model)(number)[0].double().cpu().tolist()
        naive = naive_vector(folder, row, placeholder, model)
        worst = max(range(len(ours)), key=lambda i: abs(ours[i] - naive[i]))
        for what, value, exact in (
            ("the worst number", ours[worst], naive[worst]),
            ("sum of the numbers' sizes", sum(map(abs, ours)), sum(map(abs, naive))),
        ):
            ok = abs(value - exact) <= ABSOLUTE + RELATIVE * abs(exact)
            name = f"vector of {placeholder}, {what}"
            checks.append({"what": name, "float32": value, "float64": None, "naive": exact, "ok": ok})
    return checks


def naive_vector(folder: Path, row: Interaction, placeholder: str, model: Llama) -> list[float]:
    """The vector that stands for the placeholder, (D,) in float64: by loops, or by NumPy where they would be long."""
    tensors = {name: tensor.double().tolist() for name, tensor in load_file(folder / VECTORS).items()}
    if "weight" in tensors:
        return tensors["weight"][PLACES_OF_SOFT_PROMPT.index(placeholder)]
    record = json.loads(read_whole(folder / RECORD))
    if "table.weight" in tensors:
        v = tensors["table.weight"][_place(record, row, placeholder)]
    else:  # the recommender's own state after the history; the table has it, and then the items
        table = vectors_of(model).table.weight.double().tolist()
        items = record["items"]
        known = 2 + items.index(row.target) if row.target in items else 0
        v = table[1] if placeholder == USER else table[known]
    hidden = _linear(tensors["mapping.0.weight"], tensors["mapping.0.bias"], v)  # H
    return _linear(tensors["mapping.2.weight"], tensors["mapping.2.bias"], [max(x, 0.0) for x in hidden])


def _place(record: dict, row: Interaction, placeholder: str) -> int:
    """The row of the table: 0 is the unknown, users and then items follow in the order of the record."""
    users, items = record["users"], record["items"]
    if placeholder == USER:
        return 1 + users.index(row.user) if row.user in users else 0
    return 1 + len(users) + items.index(row.target) if row.target in items else 0


def _linear(weight: Sequence[Sequence[float]], bias: Sequence[float], v: Sequence[float]) -> list[float]:
    if len(weight) > LONGEST_LOOP or len(v) > LONGEST_LOOP:
        return (np.asarray(weight) @ np.asarray(v) + np.asarray(bias)).tolist()
    out = []
    for entries, b in zip(weight, bias):
        total = b
        for w, x in zip(entries, v):
            total += w * x
        out.append(total)
    return out
