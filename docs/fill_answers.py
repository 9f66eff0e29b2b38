"""Fill a consistency.json with the answers of any model, whatever library or API answers.

docs/consistency-format.md shows how to call it, and two functions that ask.
"""

import json
from collections.abc import Callable
from pathlib import Path

from baselines.rules import all_rules
from data.interactions import Dataset, Interaction
from data.prompts import prompt_pair, wording_of
from run.answers import read_answers


def fill(path: Path, model: str, data: Dataset, ask: Callable[[str], float], rows: int | None = None) -> None:
    """Ask every wording of the first test rows, all if None, and write the file.

    model: its name, for tables. ask: (prompt) -> probability of Yes among Yes and No, for the answer that follows it.
    Raises DataError, with a line for each fault, if what was written is not as the format wants it.
    """
    words, chosen = wording_of(data.wording), data.test[:rows]
    right = {words.like: "same", words.dislike: "opposite"}
    right |= {question: "same" if same else "opposite" for question, same in words.held_out.items()}
    answered = [
        {
            "user": row.user,
            "item": row.target,
            "label": int(row.label),
            "p_yes": [ask(prompt_of(row, data, question)) for question in right],
        }
        for row in chosen
    ]
    content = {
        "format": "consistency",
        "version": 1,
        "model": model,
        "data": {"name": data.name, "split": "test"},
        "questions": [{"words": question, "right": answer} for question, answer in right.items()],
        "rules": {name: scores.tolist() for name, scores in all_rules(data.train, chosen).items()},
        "rows": answered,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    read_answers(path)


def prompt_of(row: Interaction, data: Dataset, question: str) -> str:
    """The prompt that asks this question about the row, up to where the answer begins."""
    if question == wording_of(data.wording).like:
        return prompt_pair(row, data).positive
    return prompt_pair(row, data, question=question).negative
