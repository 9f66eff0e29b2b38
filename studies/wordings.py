"""The tables of a study whose runs were asked in all wordings: what is inconsistent and what is right, by kind.

Groups of questions are the same in every row, so that a row that trained on more of them can be compared with one that
trained on fewer: by kind, those that no run is ever trained on. Beside them, the negations that the row trained on.

Shape letters: N rows, W questions, S draws.
"""

from dataclasses import replace

import numpy as np

from baselines.rules import all_rules
from consistency import bundle_columns, constant_share
from data.interactions import Dataset, Interaction
from metrics import auc, weighted_auc
from resampling import user_resamples
from scoring.splits import labels_of, users_of
from studies.results import BASE, Line
from studies.study import UNTUNED, Study, asking
from studies.tables import Measured, as_csv, fitted, intervals, measured_cell, numbers_scored, rows_scored

TRAINED = "negations trained on"
HELD_OUT = ("negated verb", "antonym", "hedged", "double negation", "paraphrase")  # kinds of data/questions.py
GROUPS = (TRAINED, *HELD_OUT)
BUNDLES = (
    *(("auc", "AUC"), ("auc_all", "AUC of all answers")),
    ("all_consistent", "all consistent"),
    ("all_right", "all right"),
    ("informative_all_right", "informative"),
    ("held_out_consistent", "held out: all consistent"),
    ("held_out_informative", "held out: informative"),
    *(("informative_asked_once", "asked once"), ("informative_combined", "combined")),
)
LESS_CONSTANT = ("informative_all_right", "held_out_informative", "informative_asked_once", "informative_combined")
INCONSISTENT = tuple((f"inconsistent, {group}", group) for group in GROUPS)
BOTH_RIGHT = tuple((f"both right, {group}", group) for group in GROUPS)
SHOWN = (  # in a terminal
    *(("auc", "AUC"), ("inconsistent, negated verb", "negated verb")),
    *(("inconsistent, double negation", "double"), ("informative_all_right", "informative")),
)
MEANINGS = (
    "Mean over the runs ± standard deviation (n - 1) [95 % interval of the mean, from resampling the users; none "
    "where every resample gives the same]. Shares of rows. Inconsistent: not what the answer to the first question "
    "implies. Both right: that answer and the answer to the first question. Several questions of a kind: the mean "
    "over them. Negations trained on: those of the row; the other kinds are of questions that no run is trained on. "
    "All: every question together; consistent if the answers say one thing; informative: all right, less the best "
    "constant's share. Held out: the first question and those that no run is trained on. AUC of all answers: of the "
    "mean log-odds, with the sign reversed for a negation. Asked once and combined: informative, where the first "
    "answer, or the sign of that mean, decides for all questions; without learning, whether the share is above a "
    "half. p of a difference: the larger one of that over users (paired bootstrap) and that over seeds (paired "
    "t-test), not corrected for the number of comparisons."
)


Figures = tuple[dict[str, float], dict[str, np.ndarray]]  # (value, (S,) draws) of every measure


def figures_of(questions: list[dict], rows: list[Interaction], z: np.ndarray) -> Figures:
    """Every measure of answers z, (N, W) log-odds of Yes to these questions."""
    labels, (weights, _) = labels_of(rows), user_resamples(users_of(rows), 0)
    same = np.array([question["same_answer_is_right"] for question in questions])
    says_liked = (z > 0) == same  # (N, W)
    consistent, right = says_liked == says_liked[:, :1], says_liked == labels[:, None]
    columns: dict[str, np.ndarray] = {}
    for group, members in _members(questions).items():
        if members.any():
            columns[f"inconsistent, {group}"] = 1 - consistent[:, members].mean(1)
            columns[f"both right, {group}"] = (right[:, :1] & right[:, members]).mean(1)
    unseen = np.array([question["held_out"] for question in questions]) | (np.arange(len(questions)) == 0)
    whole, part = bundle_columns(z, labels, same), bundle_columns(z[:, unseen], labels, same[unseen])
    columns |= {"all_consistent": whole["all_consistent"], "all_right": whole["all_right"]}
    columns |= {"held_out_consistent": part["all_consistent"], "held_out_informative": part["all_right"]}
    together = np.where(same, z, -z).mean(1)  # (N,)
    columns |= {"informative_all_right": whole["all_right"], "informative_asked_once": right[:, 0]}
    columns["informative_combined"] = (together > 0) == labels
    values = {name: float(column.mean()) for name, column in columns.items()}
    draws = {name: weights @ column / weights.sum(1) for name, column in columns.items()}
    for name in LESS_CONSTANT:
        values[name] -= float(constant_share(labels.mean()))
        draws[name] = draws[name] - constant_share(weights @ labels / weights.sum(1))
    for name, scores in (("auc", z[:, 0]), ("auc_all", together)):
        values[name], draws[name] = auc(labels, scores), weighted_auc(labels, scores, weights)
    return values, draws


def _members(questions: list[dict]) -> dict[str, np.ndarray]:
    """{group: (W,) which questions belong to it}; never the first, with which they are compared."""
    trained = [question["trained_on"] and not question["same_answer_is_right"] for question in questions]
    of_kind = {kind: [q["held_out"] and q["kind"] == kind for q in questions] for kind in HELD_OUT}
    return {group: np.array(members) for group, members in ({TRAINED: trained} | of_kind).items()}


def figures_of_lines(lines: dict[str, Line], data: Dataset) -> dict[str, Figures]:
    """{run: figures} of every line that has answers to all questions."""
    numbers = numbers_scored(lines, data)
    rows = [data.test[number] for number in numbers]
    return {
        name: figures_of(line.about["questions"], rows, line.all_answers(data.test, numbers))
        for name, line in lines.items()
        if line.more is not None
    }


def _row(label: str, found: list[Figures], planned: int) -> Measured:
    """The mean over runs, of the measures that all of them have; the same users are drawn for every run."""
    names = [name for name in found[0][0] if all(name in values for values, _ in found)] if found else []
    return Measured(
        label,
        {name: np.array([values[name] for values, _ in found]) for name in names},
        {name: np.mean([draws[name] for _, draws in found], axis=0) for name in names},
        planned,
    )


def asked_rows(study: Study, figures: dict[str, Figures]) -> list[Measured]:
    """The base, then each setting of the study; a setting whose runs were not asked has no values."""
    wanted = [(UNTUNED.method, [asking(BASE)])]
    wanted += [(setting.label, [asking(name) for name in setting.run_names()]) for setting in study.settings]
    return [_row(label, [figures[name] for name in names if name in figures], len(names)) for label, names in wanted]


def asked_differences(study: Study, figures: dict[str, Figures]) -> list[Measured]:
    """Each setting minus the control, and minus TALLRec, with as many shots; of the seeds that both have."""
    rows = []
    for other in (setting for setting in study.settings if setting.is_control or setting.method == "TALLRec"):
        for setting in (one for one in study.settings if one.shots == other.shots and one != other):
            pairs = [
                (figures[asking(a)], figures[asking(b)])
                for a, b in zip(setting.run_names(), other.run_names())
                if asking(a) in figures and asking(b) in figures
            ]
            label = f"{setting.label}, minus {'the control' if other.is_control else other.method}"
            if pairs:
                rows.append(replace(_row(label, [_minus(*pair) for pair in pairs], setting.seeds), paired=True))
    return rows


def _minus(one: Figures, other: Figures) -> Figures:
    names = [name for name in one[0] if name in other[0]]
    return tuple({name: a[name] - b[name] for name in names} for a, b in zip(one, other))


def constants_and_rules(lines: dict[str, Line], data: Dataset) -> list[Measured]:
    """What answers the same questions alike whoever is asked; and what the rules reach. [] if no line has answers."""
    asked = next((line for line in lines.values() if line.more is not None), None)
    if asked is None:
        return []
    rows = rows_scored(lines, data)
    questions = [question | {"trained_on": False} for question in asked.about["questions"]]
    as_liked = np.array([1.0 if question["same_answer_is_right"] else -1.0 for question in questions])
    constants = {"as if everybody liked it": as_liked, "as if nobody did": -as_liked, "Yes": np.ones(len(as_liked))}
    made = [
        _row(f"no learning: always {label}", [figures_of(questions, rows, np.tile(z, (len(rows), 1)))], 0)
        for label, z in constants.items()
    ]
    for label, shares in all_rules(data.train, rows).items():
        found = figures_of(questions[:1], rows, shares[:, None] - 0.5)  # an item is called liked above a half
        asked_once = tuple({name: part[name] for name in ("auc", "informative_asked_once")} for part in found)
        made.append(_row(f"no learning: {label}", [asked_once], 0))
    return made


def wording_texts(
    name: str, study: Study, lines: dict[str, Line], data: Dataset, heading: str
) -> tuple[dict[str, str], str]:
    """({file: content}, the table for a terminal) of a study that asks in all wordings. heading: data, base, rows."""
    figures = figures_of_lines(lines, data)
    rows, changes = [*asked_rows(study, figures), *constants_and_rules(lines, data)], asked_differences(study, figures)
    parts = [f"{heading}\n"]
    for title, columns in (("Inconsistent", INCONSISTENT), ("Both right", BOTH_RIGHT), ("All questions", BUNDLES)):
        parts += [f"## {title}\n", _markdown(rows, columns), ""]
        parts += [_markdown(changes, columns, "+"), ""] if changes else []
    texts = {
        f"{name}-questions.md": "\n".join([*parts, MEANINGS, ""]),
        f"{name}-questions.csv": as_csv([*rows, *changes]),
    }
    return texts, _terminal(rows)


def _markdown(rows: list[Measured], columns: tuple[tuple[str, str], ...], sign: str = "") -> str:
    lines = [f"| | {' | '.join(label for _, label in columns)} | runs |", f"|---|{'---|' * (len(columns) + 1)}"]
    for row in (row for row in rows if not row.runs or any(name in row.values for name, _ in columns)):
        bounds = {name: ends for name, ends in intervals(row).items() if ends[0] != ends[1]} if row.runs else {}
        cells = [measured_cell(row, name, bounds, sign) for name, _ in columns]
        runs = str(row.runs) if row.runs == row.planned else f"{row.runs} of {row.planned}"
        cells.append(runs if row.planned else "")
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _terminal(rows: list[Measured]) -> str:
    """Within 80 columns, means alone: inconsistent answers to two kinds of held-out questions, and the whole bundle."""
    lines = [f"{'asked in all wordings':28}" + "".join(f"{label:>13}" for _, label in SHOWN)]
    for row in rows:
        absent = "" if row.runs else "not run"
        cells = [f"{row.values[name].mean():.3f}" if name in row.values else absent for name, _ in SHOWN]
        lines.append(
            f"{fitted(row.label.removeprefix('no learning: '), 27):28}" + "".join(f"{c:>13}" for c in cells).rstrip()
        )
    return "\n".join(lines)
