"""consistency.json: the answers of any model to several wordings of one question, written, checked and measured.

docs/consistency-format.md describes it. Whoever fills it, with any library or API, gets every measure.

Shape letters: N rows, W wordings.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from baselines.rules import all_rules
from consistency import bundle_metrics
from data.interactions import Dataset
from data.prompts import wording_of
from data.splits import Split
from errors import DataError, notice, quoted
from files import NamedTwice, parse_json, read_whole, write_text
from metrics import Scored, agreement, constants, evaluate, ranking_metrics
from report.tables import adapter_in_words, data_in_words, model_in_words, part_of_split

FORMAT, VERSION = "consistency", 1
LARGEST_FILE = 2**29  # bytes
MOST_ROWS, MOST_QUESTIONS, MOST_RULES, LONGEST_TEXT = 10**5, 100, 20, 300
LARGEST_ODDS = 1e300
NEAREST = 2.0**-53  # to 0 or 1 that a probability is taken for; its log-odds are 36.7
MOST_FAULTS = 10  # that are shown
NEEDED = {"format", "version", "model", "data", "questions", "rows"}
OPTIONAL = {"rules", "comment"}


@dataclass(frozen=True)
class Answers:
    """What a consistency.json holds.

    model: in words; data, split: their names. questions: (W,) words after "the user", the first the question itself,
    the second its opposite; same: (W,) bool, whether Yes is right where it is right to the first. rows: (user, item,
    liked), all text but the last, the user None if unknown. odds: (N, W) log-odds of Yes among {Yes, No}. rules:
    scores, (N,), of rankings that learn nothing, by name.
    """

    model: str
    data: str
    split: str
    questions: list[str]
    same: np.ndarray
    rows: list[tuple[str | None, str, bool]]
    odds: np.ndarray
    rules: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def scored(self) -> Scored:
        """The answers to the first two questions."""
        labels = np.array([liked for _, _, liked in self.rows], dtype=bool)
        return Scored([user for user, _, _ in self.rows], labels, odds=self.odds[:, :2])

    def fingerprint(self) -> str:
        """sha256 of user, item and label of each row: files with the same one have the same rows in the same order."""
        return _fingerprint(self.rows)


def _fingerprint(rows: list[tuple[str | None, str, bool]]) -> str:
    lines = [json.dumps([user, item, int(liked)]) for user, item, liked in rows]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def answers_of(results: dict, data: Dataset, split: Split, asked: dict[str, np.ndarray]) -> Answers:
    """What the file holds of an evaluation. results: its heading; asked: {question: log-odds of Yes, (N,)}."""
    questions = wording_of(data.wording).questions
    rows = [(None if row.user is None else str(row.user), str(row.target), bool(row.label)) for row in split.rows]
    same = np.array([questions.same_answer(question) for question in asked])
    name = f"{model_in_words(results)}; {adapter_in_words(results)}"
    rules = all_rules(data.train, split.rows)
    of = data_in_words(data.name, data.source)
    of += f", {part_of_split(results['chosen'])}" if results.get("chosen") else ""
    return Answers(name, of, results["split"], list(asked), same, rows, np.stack([*asked.values()], 1), rules)


def measure_answers(answers: Answers) -> dict:
    """Every measure of the file, with intervals, as results.json has them; one of each question, and of the bundle."""
    scored, same = answers.scored, answers.same.tolist()
    bundle = bundle_metrics(answers.odds, scored.labels, answers.same, scored.users)
    asked = [
        {"asks": question, "same_answer_is_right": same[k], **agreement(scored, answers.odds[:, k], same[k])}
        for k, question in enumerate(answers.questions)
    ]
    return {
        "model": answers.model,
        "data": answers.data,
        "split": answers.split,
        "rows_sha256": answers.fingerprint(),
        **evaluate(scored),
        "questions": asked,
        "bundle": bundle,
        "constants": constants(scored.labels, scored.users),
        "rules": {name: ranking_metrics(scored.labels, scores, scored.users) for name, scores in answers.rules.items()},
    }


def write_answers(path: Path, answers: Answers) -> None:
    """The file, a line for each row, every number with all its digits."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "model": answers.model,
        "data": {"name": answers.data, "split": answers.split, "rows_sha256": answers.fingerprint()},
        "questions": [
            {"words": words, "right": "same" if same else "opposite"}
            for words, same in zip(answers.questions, answers.same.tolist(), strict=True)
        ],
        "rules": {name: scores.tolist() for name, scores in answers.rules.items()},
    }
    rows = [
        {"user": user, "item": item, "label": int(liked), "z": z}
        for (user, item, liked), z in zip(answers.rows, answers.odds.tolist(), strict=True)
    ]
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in head.items()]
    listed = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    write_text(path, "{" + ",\n".join([*lines, f'"rows": [\n{listed}\n]']) + "}\n")


# ---- reading ------------------------------------------------------------------------------------


def read_answers(path: Path) -> Answers:
    """What the file holds. Raises DataError with a line for each of its first faults."""
    try:
        content = parse_json(read_whole(path, LARGEST_FILE))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a consistency.json") from None
    except NamedTwice as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not JSON ({quoted(str(error))}); docs/consistency-format.md shows the format"
        ) from None
    faults = []
    for fault in _faults(content):
        faults.append(f"{path}: {fault}")
        if len(faults) == MOST_FAULTS:
            faults.append(f"{path}: perhaps more; mend these first")
            break
    if faults:
        raise DataError("\n".join(faults))
    data, questions = content["data"], content["questions"]
    same = np.array([question["right"] == "same" for question in questions])
    rules = {name: np.array(scores, dtype=np.float64) for name, scores in content.get("rules", {}).items()}
    rows = _rows(content["rows"])
    _tell_of_repeats(path, rows)
    words = [question["words"] for question in questions]
    return Answers(
        content["model"], data["name"], data["split"], words, same, rows, _odds(path, content["rows"]), rules
    )


def _rows(rows: list[dict]) -> list[tuple[str | None, str, bool]]:
    return [(None if row["user"] is None else str(row["user"]), str(row["item"]), row["label"] == 1) for row in rows]


def _tell_of_repeats(path: Path, rows: list[tuple[str | None, str, bool]]) -> None:
    """A notice if a known user is asked about an item twice: each of these rows counts."""
    labels: dict[tuple[str, str], set[bool]] = {}
    known = [row for row in rows if row[0] is not None]
    for user, item, liked in known:
        labels.setdefault((user, item), set()).add(liked)
    if repeats := len(known) - len(labels):
        both = sum(len(of_pair) > 1 for of_pair in labels.values())
        notice(f"{path}: {repeats:,} rows repeat a user and an item; {both:,} such pairs have both labels. All count")


def _odds(path: Path, rows: list[dict]) -> np.ndarray:
    """(N, W). A probability of 0 or 1 has no log-odds: it is moved by NEAREST, which is said."""
    if "z" in rows[0]:
        return np.array([row["z"] for row in rows], dtype=np.float64)
    p = np.array([row["p_yes"] for row in rows], dtype=np.float64)
    inner = p.clip(NEAREST, 1 - NEAREST)
    if moved := int((inner != p).sum()):
        notice(f"{path}: {moved:,} of {p.size:,} probabilities are 0 or 1, or next to it: their log-odds count as 36.7")
    return np.log(inner) - np.log1p(-inner)


def _faults(content: object) -> Iterator[str]:
    """A line for everything that is wrong; what builds on something wrong is not looked at."""
    if not isinstance(content, dict):
        yield "holds no JSON object; docs/consistency-format.md shows the format"
        return
    if content.get("format") != FORMAT or type(content.get("version")) is not int:
        yield f'"format" must be "{FORMAT}" and "version" {VERSION}; docs/consistency-format.md shows the format'
        return
    if content["version"] != VERSION:
        yield f'"version" is {quoted(content["version"])}, this program reads {VERSION}; write it anew'
        return
    lacking, unknown = sorted(NEEDED - set(content)), sorted(set(content) - NEEDED - OPTIONAL)
    yield from (f'"{name}" is missing; add it' for name in lacking)
    yield from (f'{quoted(name)} is no field of this format; put it into "comment"' for name in unknown)
    if lacking:
        return
    if not _is_text(content["model"]):
        yield f'"model" is {quoted(content["model"])}; say in 1 to {LONGEST_TEXT} printable characters who answered'
    rows, wrong = content["rows"], [*_data_faults(content["data"]), *_question_faults(content["questions"])]
    yield from wrong
    if wrong:
        return
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
        yield f'"rows" must be a list of 1 to {MOST_ROWS:,} rows'
        return
    found = False
    for fault in _row_faults(rows, len(content["questions"])):
        found = True
        yield fault
    if not found:
        yield from _rule_faults(content.get("rules", {}), len(rows))
        yield from _fingerprint_faults(content["data"], rows)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and value.isprintable()


def _data_faults(data: object) -> Iterator[str]:
    if not isinstance(data, dict) or not all(_is_text(data.get(name)) for name in ("name", "split")):
        yield '"data" must have "name" and "split", texts: which data set, and which part of it'


def _question_faults(questions: object) -> Iterator[str]:
    first: dict[str, int] = {}
    if not isinstance(questions, list) or not 2 <= len(questions) <= MOST_QUESTIONS:
        yield f'"questions" must be a list of 2 to {MOST_QUESTIONS}: the question, its opposite, and further wordings'
        return
    for number, question in enumerate(questions, start=1):
        if not isinstance(question, dict) or not _is_text(question.get("words")):
            yield f'question {number}: "words" must be the words that were asked, a text'
        elif first.setdefault(question["words"], number) != number:
            yield f"question {number}: has the words of question {first[question['words']]}; keep one of them"
        elif question.get("right") not in ("same", "opposite"):
            yield f'question {number}: "right" must be "same" or "opposite": the right answer, compared with question 1'
        elif number <= 2 and question["right"] != ("same", "opposite")[number - 1]:
            yield f'question {number}: "right" must be "{("same", "opposite")[number - 1]}"; put the opposite second'


def _row_faults(rows: list, questions: int) -> Iterator[str]:
    given = "z" if isinstance(rows[0], dict) and "z" in rows[0] else "p_yes"
    low, high = (-LARGEST_ODDS, LARGEST_ODDS) if given == "z" else (0, 1)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            yield f"row {number}: must be an object"
            continue
        if unknown := sorted(set(row) - {"user", "item", "label", given}):
            yield f'row {number}: {quoted(unknown[0])} is no field of a row that has "{given}"'
        if "user" not in row or not (row["user"] is None or _is_id(row["user"])):
            yield f'row {number}: "user" must be a text, a whole number, or null where it is unknown'
        if not _is_id(row.get("item")):
            yield f'row {number}: "item" must be a text or a whole number'
        if type(row.get("label")) is not int or row["label"] not in (0, 1):
            yield f'row {number}: "label" is {quoted(row.get("label"))}; write 1 for liked, 0 for not'
        values = row.get(given)
        if not isinstance(values, list) or len(values) != questions:
            yield f'row {number}: "{given}" must be a list of {questions} numbers, one for each question'
        elif wrong := [value for value in values if type(value) not in (int, float) or not low <= value <= high]:
            yield f'row {number}: "{given}" has {quoted(wrong[0])}; a number from {low:g} to {high:g} is needed'


def _is_id(value: object) -> bool:
    return _is_text(value) or (type(value) is int and abs(value) < 2**63)


def _rule_faults(rules: object, rows: int) -> Iterator[str]:
    if not isinstance(rules, dict) or len(rules) > MOST_RULES or not all(map(_is_text, rules)):
        yield f'"rules" must be an object of at most {MOST_RULES} rankings by name'
        return
    for name, scores in rules.items():
        if not isinstance(scores, list) or len(scores) != rows:
            yield f"rule {quoted(name)}: must be a list of {rows:,} scores, one for each row"
        elif not all(type(score) in (int, float) and abs(score) < LARGEST_ODDS for score in scores):
            yield f"rule {quoted(name)}: every score must be a finite number"


def _fingerprint_faults(data: dict, rows: list[dict]) -> Iterator[str]:
    told, found = data.get("rows_sha256"), _fingerprint(_rows(rows))
    if told not in (None, found):
        yield f'"rows_sha256" is {quoted(told)}, but that of the rows is {found}; were they changed? Leave it out if so'
