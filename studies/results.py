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
    """One run. run: its name; about: everything but the answers; z_pos, z_neg: (N,) log-odds of Yes, test rows.

    Of a recommender that is no language model z_pos is the rank of its score, of which only the order counts, and z_neg
    is None.
    """

    run: str
    about: dict
    z_pos: np.ndarray
    z_neg: np.ndarray | None = None

    def numbers(self, test: list[Interaction]) -> list[int]:
        """Those of the rows of the test split that it has answers to. Raises DataError if the split is another one."""
        numbers = self.about.get("rows", range(len(test)))
        if len(numbers) != len(self.z_pos) or max(numbers, default=0) >= len(test):
            raise DataError(f"{self.run}: has answers to {len(self.z_pos):,} rows, the data set has {len(test):,}")
        return list(numbers)

    def scored(self, test: list[Interaction], wanted: list[int] | None = None) -> Scored:
        """The answers beside users and labels, of the rows `wanted` alone or of all that it has. test: all rows."""
        place = {number: i for i, number in enumerate(self.numbers(test))}
        wanted = list(place) if wanted is None else wanted
        if missing := len(set(wanted) - set(place)):
            raise DataError(f"{self.run}: has no answer to {missing:,} of the rows on which the study is measured")
        chosen, rows = [place[number] for number in wanted], [test[number] for number in wanted]
        known = users_of(rows), labels_of(rows)
        if self.z_neg is None:
            return Scored(*known, score=self.z_pos[chosen])
        return Scored(*known, odds=np.stack((self.z_pos[chosen], self.z_neg[chosen]), axis=1))


def read_lines(path: Path) -> dict[str, Line]:
    """The lines of a file by the run's name; {} if there is no file yet. Raises DataError naming a malformed line."""
    lines: dict[str, Line] = {}
    if not path.exists():
        return lines
    for number, text in enumerate(read_whole(path, LARGEST).decode(errors="replace").splitlines(), start=1):
        try:
            record = json.loads(text)
            name = str(record.pop("run"))
            keys = ("rank",) if "rank" in record else ("z_pos", "z_neg")
            answers = [np.array(record.pop(key), dtype=np.float64) for key in keys]
            if any(z.ndim != 1 or not np.isfinite(z).all() for z in answers) or len({len(z) for z in answers}) != 1:
                raise ValueError
            if "rows" in record and not all(type(number) is int and number >= 0 for number in record["rows"]):
                raise ValueError
            lines[name] = Line(name, record, *answers)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(f"{path} line {number}: not a result of reproduce.py; delete the line") from None
    return lines


def write_lines(path: Path, lines: dict[str, Line]) -> None:
    """All lines, in the order of their names, written aside and renamed."""
    texts = []
    for name in sorted(lines):
        line = lines[name]
        if line.z_neg is None:
            answers = {"rank": np.unique(line.z_pos, return_inverse=True)[1].tolist()}
        else:
            answers = {key: np.round(getattr(line, key), DIGITS).tolist() for key in ("z_pos", "z_neg")}
        texts.append(json.dumps({"run": name} | line.about | answers, allow_nan=False))
    write_text(path, "".join(f"{text}\n" for text in texts))
