"""predictions.csv: the answers to every row of a split, or a recommender's scores, written and read again."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.interactions import Interaction
from data.splits import Split
from errors import DataError, quoted
from files import read_whole, write_file
from metrics import Scored
from run.answers import Answers

FIRST_COLUMNS = ("user", "item", "label", "p_yes_positive", "p_yes_negative", "contradiction")  # all, in version 0.1.0
LOGS = {  # column: field of Scored
    "log_yes_positive": "log_yes_pos",
    "log_no_positive": "log_no_pos",
    "log_yes_negative": "log_yes_neg",
    "log_no_negative": "log_no_neg",
    "kl": "kl",
    "js": "js",
}
COLUMNS = (*FIRST_COLUMNS, "row", "timestamp", *LOGS)
OF_SCORES = ("user", "item", "label", "score", "row", "timestamp")  # all columns of baseline.py
TEXTS = ("user", "item", "row", "timestamp")
HALF_DIGIT = 5e-7  # what rounding to 6 digits, as in version 0.1.0, may have changed


@dataclass(frozen=True)
class Predictions:
    """What a predictions.csv holds.

    rows: (user, item, label) of each line; numbers: their numbers in the whole split, and timestamps, both as text;
    None in a file of version 0.1.0. exact: whether the scores are those of the model to the last digit. answers: all of
    a consistency.json.
    """

    path: Path
    rows: list[tuple[str, str, str]]
    numbers: list[str] | None
    timestamps: list[str] | None
    scored: Scored
    exact: bool
    answers: Answers | None = None


def write_predictions(path: Path, split: Split, scored: Scored) -> None:
    """predictions.csv: one line per row of the split, in its order; every float has all its digits."""
    same = ((scored.p_pos > 0.5) == (scored.p_neg > 0.5)).astype(int)
    figures = [getattr(scored, field).tolist() for field in LOGS.values()]
    lines = []
    for i, (row, number) in enumerate(zip(split.rows, split.numbers, strict=True)):
        answers = [float(scored.p_pos[i]), float(scored.p_neg[i]), int(same[i])]
        known = [row.user, row.target, int(row.label), *answers, number, row.timestamp]
        lines.append(["" if value is None else value for value in known] + [column[i] for column in figures])
    _write_table(path, [COLUMNS, *lines])


def write_scores(path: Path, rows: list[Interaction], scores: np.ndarray) -> None:
    """predictions.csv of a recommender that gives one score per row; every float has all its digits."""
    lines = []
    for number, (row, score) in enumerate(zip(rows, scores.tolist(), strict=True)):
        known = [row.user, row.target, int(row.label), score, number, row.timestamp]
        lines.append(["" if value is None else value for value in known])
    _write_table(path, [OF_SCORES, *lines])


def _write_table(path: Path, lines: list) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)

    write_file(path, write)


def read_predictions(path: Path) -> Predictions:
    """What write_predictions wrote, of this version or of 0.1.0, or write_scores.

    Raises DataError naming the line that is malformed.
    """
    try:
        table = list(csv.reader(io.StringIO(read_whole(path).decode()), strict=True))
    except (UnicodeDecodeError, csv.Error):
        table = []
    if not table or tuple(table[0]) not in (COLUMNS, FIRST_COLUMNS, OF_SCORES):
        raise DataError(
            f"{path}: not a predictions.csv of train.py, eval.py or baseline.py, which begins {','.join(COLUMNS[:3])}"
        )
    header, lines = table[0], table[1:]
    if not lines:
        raise DataError(f"{path}: has no rows; score the run again")
    column = dict(zip(header, _figures(path, header, lines).T))
    exact = tuple(header) != FIRST_COLUMNS
    if "score" in column:
        values = {"score": column["score"]}
    else:
        values = {field: column[name] for name, field in LOGS.items()} if exact else _rounded_logs(column)
    known = [dict(zip(header, line)) for line in lines]
    users = [line["user"] or None for line in known]
    return Predictions(
        path,
        [(line["user"], line["item"], line["label"]) for line in known],
        [line["row"] for line in known] if exact else None,
        [line["timestamp"] for line in known] if exact else None,
        Scored(users, column["label"] == 1, **values),
        exact,
    )


def as_predictions(path: Path, answers: Answers) -> Predictions:
    """A consistency.json as what compare.py compares: its first two questions."""
    rows = [(user or "", item, str(int(liked))) for user, item, liked in answers.rows]
    return Predictions(path, rows, None, None, answers.scored, True, answers)


def _figures(path: Path, header: list[str], lines: list[list[str]]) -> np.ndarray:
    """The numbers of the table, (N, columns), 0 where a column is text. Raises DataError naming a malformed line."""
    figures = np.empty((len(lines), len(header)))
    for number, line in enumerate(lines, start=1):
        try:
            known = dict(zip(header, line, strict=True))
            values = [0.0 if name in TEXTS else float(text) for name, text in known.items()]
            answers = [float(known[name]) for name in known if name.startswith("p_yes_")]
            if (
                known["label"] not in ("0", "1")
                or not np.isfinite(values).all()
                or not all(0 <= p <= 1 for p in answers)
            ):
                raise ValueError
        except ValueError:
            raise DataError(f"{path} row {number}: malformed ({quoted(','.join(line))}); score the run again") from None
        figures[number - 1] = values
    return figures


def _rounded_logs(column: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The logarithms of probabilities among both answers that have 6 digits; what rounding hid stays hidden.

    Of a probability printed as 0.500000 the column `contradiction` tells on which side it was.
    """
    p_pos, p_neg = column["p_yes_positive"].copy(), column["p_yes_negative"].copy()
    hidden = ((p_pos > 0.5) == (p_neg > 0.5)) != (column["contradiction"] == 1)
    for p in (p_pos, p_neg):
        up = hidden & (p == 0.5)
        p[up] += HALF_DIGIT / 2
        hidden &= ~up
    logs = {}
    for name, p in (("pos", p_pos), ("neg", p_neg)):
        p = p.clip(HALF_DIGIT, 1 - HALF_DIGIT)
        logs |= {f"log_yes_{name}": np.log(p), f"log_no_{name}": np.log1p(-p)}
    return logs
