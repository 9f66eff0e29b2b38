"""The results of a study: a JSON line for each finished run, so that a study goes on anywhere.

A line holds no user, item or label, only the answers of the model by row, so it may be passed on where the data may
not. Labels and users come from the data set when a table is made.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.interactions import Interaction
from errors import DataError
from files import read_whole, write_text
from metrics import Scored
from scoring.splits import labels_of, users_of

BASE = "base"  # the name of the line that holds the answers before training
DIGITS = 4  # of a log-odds in a line
LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class Line:
    """One run. run: its name; about: everything but the answers; z_pos, z_neg: (N,) log-odds of Yes, test rows."""

    run: str
    about: dict
    z_pos: np.ndarray
    z_neg: np.ndarray

    def rows(self, test: list[Interaction]) -> list[Interaction]:
        """Those of the test split that it has answers to."""
        numbers = self.about.get("rows")
        return test if numbers is None else [test[i] for i in numbers if i < len(test)]

    def scored(self, test: list[Interaction]) -> Scored:
        """The answers beside users and labels. test: all rows of the split. Raises DataError if they do not fit."""
        rows = self.rows(test)
        if len(rows) != len(self.z_pos):
            raise DataError(f"{self.run}: has answers to {len(self.z_pos):,} rows, the data set has {len(rows):,}")
        logs = [-np.logaddexp(0, sign * z) for z in (self.z_pos, self.z_neg) for sign in (-1, 1)]
        return Scored(users_of(rows), labels_of(rows), *logs)


def read_lines(path: Path) -> dict[str, Line]:
    """The lines of a file by the run's name; {} if there is no file yet. Raises DataError naming a malformed line."""
    lines: dict[str, Line] = {}
    if not path.exists():
        return lines
    for number, text in enumerate(read_whole(path, LARGEST).decode(errors="replace").splitlines(), start=1):
        try:
            record = json.loads(text)
            name = str(record.pop("run"))
            answers = [np.array(record.pop(name), dtype=np.float64) for name in ("z_pos", "z_neg")]
            if any(z.ndim != 1 or not np.isfinite(z).all() for z in answers) or len(answers[0]) != len(answers[1]):
                raise ValueError
            lines[name] = Line(name, record, *answers)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(f"{path} line {number}: not a result of reproduce.py; delete the line") from None
    return lines


def write_lines(path: Path, lines: dict[str, Line]) -> None:
    """All lines, in the order of their names, written aside and renamed."""
    texts = []
    for name in sorted(lines):
        answers = {key: np.round(getattr(lines[name], key), DIGITS).tolist() for key in ("z_pos", "z_neg")}
        texts.append(json.dumps({"run": name} | lines[name].about | answers, allow_nan=False))
    write_text(path, "".join(f"{text}\n" for text in texts))
