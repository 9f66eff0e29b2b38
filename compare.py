"""Compare runs on the rows that all of them scored.

    python compare.py runs/A runs/B                      metrics side by side, B against A with intervals
    python compare.py runs/A runs/B runs/C --rows 20     each against the first, and 20 rows on which they disagree most
    python compare.py runs/A/eval-movie-valid runs/B/eval-movie-valid --json
    python compare.py A.json B.json --page board.html    the leaderboard of consistency; board.md writes Markdown

A RUN is a folder that train.py, baseline.py or eval.py wrote, a predictions.csv, or a consistency.json. Intervals of
differences come from the same resamples of the users for both runs; McNemar's exact test says whether one contradicts
itself on more rows.
docs/compare.md explains every figure.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from cli.flags import Resolved, flag, flag_name, parse_flags
from cli.verb import run_verb
from consistency import bundle_change, bundle_metrics
from errors import DataError, FlagError, RunError, notice
from files import missing_advice, read_whole, refuse_unwritable, write_text
from metrics import constants, evaluate, paired_change, ranking_metrics, row_metrics
from report.cells import ANSWERS
from report.comparison import about, comparison_text
from report.leaderboard import leaderboard
from resampling import mcnemar
from run.answers import read_answers
from run.predictions import Predictions, as_predictions, read_predictions

LARGEST_RESULTS = 2**26  # bytes
PAGES = (".html", ".md")


@dataclass(frozen=True)
class CompareFlags:
    """Output."""

    rows: int = flag(5, "rows to list on which a run disagrees most with the first", low=0, high=10**6)
    page: str = flag(None, "also write a leaderboard of consistency, as .html or .md", metavar="FILE")
    json: bool = flag(False, "print the results as one JSON line on standard output, and the tables on standard error")


def check_flags(flags: CompareFlags, resolved: Resolved) -> None:
    """Raises FlagError if --page cannot be written."""
    if flags.page and Path(flags.page).suffix not in PAGES:
        raise FlagError(f"--page {flags.page}: name a file that ends with {' or '.join(PAGES)}")
    if flags.page:
        refuse_unwritable(Path(flags.page).absolute().parent, "--page", FlagError)


def main(argv: list[str]) -> None:
    """Compare the runs and print the result."""
    folders, rest = split_arguments(argv)
    flags, _ = parse_flags(CompareFlags, rest, __doc__, check=check_flags, command="RUN RUN ...")
    if len(folders) < (1 if flags.page else 2):
        raise FlagError("compare.py: say which runs, two or more: python compare.py RUN RUN ...")
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise FlagError(f"{twice}: is given twice; name each run once")
    found = [find_predictions(folder) for folder in folders]
    paths = [predictions.path.resolve() for predictions in found]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise FlagError(f"{twice}: is given twice, under two names; name each run once")
    for predictions in found[1:]:
        refuse_other_rows(found[0], predictions)
    results = comparison(folders, found, flags.rows)
    if flags.page:
        Path(flags.page).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(flags.page), leaderboard(results, Path(flags.page).suffix))
        notice(f"Written to {flags.page}")
    text = comparison_text(results)
    if flags.json:
        notice(text)
        print(json.dumps(results, allow_nan=False))
    else:
        print(text)


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """(the runs, the flags with their values)."""
    with_value = {flag_name(f.name) for f in fields(CompareFlags) if f.type is not bool}
    runs, rest = [], []
    for i, word in enumerate(argv):
        is_run = not word.startswith("-") and not (i and argv[i - 1] in with_value)
        (runs if is_run else rest).append(word)
    return runs, rest


def find_predictions(folder: str) -> Predictions:
    """The predictions of a run, of an output folder of eval.py, or of a file. Raises RunError if there are none."""
    path = Path(folder)
    if path.is_dir():
        if not (path / "predictions.csv").is_file():
            unfinished = (path / "config.json").is_file() and (path / "metrics.jsonl").is_file()
            raise RunError(
                f"{folder}: has no predictions.csv; "
                + ("the run is not finished: resume it with --out DIR --resume" if unfinished else "")
                + ("" if unfinished else "give a folder that train.py, baseline.py or eval.py wrote")
            )
        path = path / "predictions.csv"
    if not path.is_file():
        raise RunError(
            f"{folder}: no such folder or file; give a folder that train.py, baseline.py or eval.py wrote"
            + missing_advice(folder)
        )
    if path.suffix == ".json":
        return as_predictions(path, read_answers(path))
    predictions = read_predictions(path)
    if not predictions.exact:
        notice(f"{path}: is of version 0.1.0, with 6 digits; its last digits may differ from those of its results.json")
    return predictions


def refuse_other_rows(first: Predictions, other: Predictions) -> None:
    """Raises DataError, naming the first difference, unless both are of the same rows in the same order."""
    fix = "compare runs on the same rows: same data, same split, same --test-rows or --rows"
    if len(first.rows) != len(other.rows):
        raise DataError(f"{other.path}: has {len(other.rows):,} rows, {first.path} has {len(first.rows):,}; {fix}")
    for i, (mine, theirs) in enumerate(zip(first.rows, other.rows)):
        if mine != theirs:
            a, b = (f"user {user or 'unknown'}, item {item}, label {label}" for user, item, label in (mine, theirs))
            raise DataError(f"{other.path} row {i + 1}: is {b}; in {first.path} it is {a}; {fix}")
    for name in ("numbers", "timestamps"):
        mine, theirs = getattr(first, name), getattr(other, name)
        if mine and theirs and mine != theirs:
            i = next(i for i in range(len(mine)) if mine[i] != theirs[i])
            shown = f"{name[:-1]} of row {i + 1} is {theirs[i] or 'missing'}, in {first.path} {mine[i] or 'missing'}"
            raise DataError(f"{other.path}: the {shown}; {fix}")


def comparison(names: list[str], found: list[Predictions], rows: int) -> dict:
    """All figures: of each run, of each run against the first, and of constants on these rows."""
    first = found[0]
    runs = [
        {"run": name, "exact": one.exact, **_about(one), **evaluate(one.scored), "bundle": _bundle(one)}
        for name, one in zip(names, found)
    ]
    differences = [
        {
            "run": name,
            "against": names[0],
            **paired_change(first.scored, other.scored),
            "bundle": _bundle_change(first, other),
            "mcnemar": _mcnemar(first, other),
            "rows": disagreements(first, other, rows),
        }
        for name, other in zip(names[1:], found[1:])
    ]
    labels, users = first.scored.labels, first.scored.users
    rules = {name: scores for one in reversed(found) if one.answers for name, scores in one.answers.rules.items()}
    ranked = {name: ranking_metrics(labels, scores, users) for name, scores in rules.items()}
    return {"runs": runs, "differences": differences, "constants": constants(labels, users), "rules": ranked}


def _about(one: Predictions) -> dict:
    """What is known of the model, from the file itself or from the results beside it."""
    if one.answers is None:
        return about(_results_beside(one.path))
    return {"about": {"answered_by": one.answers.model, "data": one.answers.data}, "chosen": None}


def _bundle(one: Predictions) -> dict | None:
    """The figures of all wordings at once, if there are more than two."""
    if one.answers is None or len(one.answers.questions) < 3:
        return None
    return bundle_metrics(one.answers.odds, one.scored.labels, one.answers.same, one.scored.users)


def _bundle_change(first: Predictions, other: Predictions) -> dict | None:
    """The paired difference of all wordings at once, if both were asked the same ones, more than two."""
    if _bundle(first) is None or other.answers is None or first.answers.questions != other.answers.questions:
        return None
    if (first.answers.same != other.answers.same).any():
        return None
    scored = first.scored
    return bundle_change(first.answers.odds, other.answers.odds, scored.labels, first.answers.same, scored.users)


def _mcnemar(first: Predictions, other: Predictions) -> dict:
    """Of the two metrics that are a yes or no of each row."""
    before, after = row_metrics(first.scored), row_metrics(other.scored)
    both = [name for name in ANSWERS if name in before and name in after]
    return {name: mcnemar(before[name] == 1, after[name] == 1) for name in both}


def disagreements(first: Predictions, other: Predictions, count: int) -> list[dict]:
    """The rows with the largest sum of both differences in P(Yes), largest first; none if a run has no P(Yes)."""
    a, b = first.scored, other.scored
    if not (a.has_answers and b.has_answers):
        return []
    distance = abs(a.p_pos - b.p_pos) + abs(a.p_neg - b.p_neg)
    rows = []
    for i in (-distance).argsort(kind="stable")[:count]:
        user, item, label = first.rows[i]
        answers = {"first": [float(a.p_pos[i]), float(a.p_neg[i])], "second": [float(b.p_pos[i]), float(b.p_neg[i])]}
        number = int(first.numbers[i]) if first.numbers else int(i)
        rows.append({"row": number, "user": user or None, "item": item, "label": int(label), **answers})
    return rows


def _results_beside(predictions: Path) -> dict:
    """results.json of the same folder; empty if it is not there or holds something else."""
    path = predictions.parent / "results.json"
    try:
        results = json.loads(read_whole(path, LARGEST_RESULTS)) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return results if isinstance(results, dict) else {}


if __name__ == "__main__":
    run_verb(main)
