"""The results of a study: a JSON line for each finished run, so that a study goes on anywhere.

A file whose name ends in .bz2 is compressed: answers in all wordings take eight times the space.

A line holds no user, item or label, only the answers of the model by row, so it may be passed on where the data may
not. Labels and users come from the data set when a table is made.
"""

import bz2
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.interactions import Interaction
from errors import DataError
from files import read_whole, write_bytes
from metrics import Scored
from scoring.splits import labels_of, users_of

BASE = "base"  # the name of the line that holds the answers before training
DIGITS = 4  # of a log-odds in a line
LARGEST = 2**28  # bytes
COMPRESSED = ".bz2"


@dataclass(frozen=True)
class Line:
    """One run. run: its name; about: everything but the answers; z_pos, z_neg: (N,) log-odds of Yes, test rows.

    Of a recommender that is no language model z_pos is the rank of its score, of which only the order counts, and z_neg
    is None. Of what asked in all wordings about["questions"] says which: z_pos, z_neg are the answers to the first two
    of them, and more, (W - 2, N), those to the others; None elsewhere.
    """

    run: str
    about: dict
    z_pos: np.ndarray
    z_neg: np.ndarray | None = None
    more: np.ndarray | None = None

    def numbers(self, test: list[Interaction]) -> list[int]:
        """Those of the rows of the test split that it has answers to. Raises DataError if the split is another one."""
        numbers = self.about.get("rows", range(len(test)))
        if len(numbers) != len(self.z_pos) or max(numbers, default=0) >= len(test):
            raise DataError(f"{self.run}: has answers to {len(self.z_pos):,} rows, the data set has {len(test):,}")
        return list(numbers)

    def scored(self, test: list[Interaction], wanted: list[int] | None = None) -> Scored:
        """The answers beside users and labels, of the rows `wanted` alone or of all that it has. test: all rows."""
        wanted = self.numbers(test) if wanted is None else wanted
        chosen, rows = self._places(test, wanted), [test[number] for number in wanted]
        known = users_of(rows), labels_of(rows)
        if self.z_neg is None:
            return Scored(*known, score=self.z_pos[chosen])
        return Scored(*known, odds=np.stack((self.z_pos[chosen], self.z_neg[chosen]), axis=1))

    def all_answers(self, test: list[Interaction], wanted: list[int]) -> np.ndarray:
        """(N, W) log-odds of Yes to each of about["questions"], of the rows `wanted`."""
        return np.vstack((self.z_pos, self.z_neg, self.more)).T[self._places(test, wanted)]

    def _places(self, test: list[Interaction], wanted: list[int]) -> list[int]:
        """Where the answers to these rows stand. Raises DataError if there is none to one of them."""
        place = {number: i for i, number in enumerate(self.numbers(test))}
        if missing := len(set(wanted) - set(place)):
            raise DataError(f"{self.run}: has no answer to {missing:,} of the rows on which the study is measured")
        return [place[number] for number in wanted]


def read_lines(path: Path) -> dict[str, Line]:
    """The lines of a file by the run's name; {} if there is no file yet. Raises DataError naming a malformed line."""
    lines: dict[str, Line] = {}
    if not path.exists():
        return lines
    for number, text in enumerate(content_of(path).decode(errors="replace").splitlines(), start=1):
        try:
            record = json.loads(text)
            name = str(record.pop("run"))
            keys = ("rank",) if "rank" in record else ("z_pos", "z_neg")
            answers = [np.array(record.pop(key), dtype=np.float64) for key in keys]
            if any(z.ndim != 1 or not np.isfinite(z).all() for z in answers) or len({len(z) for z in answers}) != 1:
                raise ValueError
            if "rows" in record and not all(type(number) is int and number >= 0 for number in record["rows"]):
                raise ValueError
            lines[name] = Line(name, record, *answers, **_further_answers(record, len(answers[0])))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(f"{path} line {number}: not a result of reproduce.py; delete the line") from None
    return lines


def content_of(path: Path) -> bytes:
    """What the file holds, decompressed. Raises DataError if it is not compressed as its name says, or too large."""
    content = read_whole(path, LARGEST)
    if path.suffix != COMPRESSED:
        return content
    unpack = bz2.BZ2Decompressor()
    try:
        text = unpack.decompress(content, LARGEST)
    except OSError:  # says that it is no such file
        text = b""
    if not unpack.eof or unpack.unused_data:
        raise DataError(f"{path}: not a results file of {COMPRESSED}, or larger than {LARGEST:,} bytes; delete it")
    return text


def _further_answers(record: dict, rows: int) -> dict[str, np.ndarray]:
    """{"more": ...} of a line that has it, taken out of the record. Raises ValueError if it is malformed."""
    if "more" not in record:
        return {}
    more, questions = np.array(record.pop("more"), dtype=np.float64), record["questions"]
    if more.shape != (len(questions) - 2, rows) or not np.isfinite(more).all():
        raise ValueError
    for question in questions:
        texts = [question[name] for name in ("asks", "kind")]
        flags = [question[name] for name in ("trained_on", "held_out", "same_answer_is_right")]
        if not all(type(text) is str for text in texts) or not all(type(flag) is bool for flag in flags):
            raise ValueError
    return {"more": more}


def write_lines(path: Path, lines: dict[str, Line]) -> None:
    """All lines, in the order of their names, written aside and renamed."""
    texts = []
    for name in sorted(lines):
        line = lines[name]
        if line.z_neg is None:
            answers = {"rank": np.unique(line.z_pos, return_inverse=True)[1].tolist()}
        else:
            keys = ("z_pos", "z_neg") if line.more is None else ("z_pos", "z_neg", "more")
            answers = {key: np.round(getattr(line, key), DIGITS).tolist() for key in keys}
        texts.append(json.dumps({"run": name} | line.about | answers, allow_nan=False))
    content = "".join(f"{text}\n" for text in texts).encode()
    write_bytes(path, bz2.compress(content) if path.suffix == COMPRESSED else content)
