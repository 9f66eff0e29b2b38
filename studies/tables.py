"""The tables of a study: Markdown and CSV for papers and pages, and a short form for a terminal.

Each figure is the mean over the runs of a setting with their standard deviation (n - 1). Its interval comes from
resampling the users: the same users in all runs, and the mean over the runs within each draw.
"""

import csv
import io
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from data.interactions import Dataset, Interaction
from data.sources.stand_in import STAND_IN
from metrics import Scored, bootstrap_metrics, metric_values
from resampling import with_intervals
from scoring.splits import without_learning
from studies.published import PUBLISHED, WEIGHTS, Published
from studies.results import BASE, Line
from studies.significance import both_p
from studies.study import MARK, TRAIN, Study

COLUMNS = (
    ("auc", "AUC"),
    ("uauc", "UAUC"),
    ("auc_combined", "AUC of both answers"),
    ("contradiction_rate", "contradiction"),
    ("group_accuracy", "both right"),
    ("informative_consistency", "informative"),
    ("informative_asked_once", "asked once"),
    ("informative_combined", "combined"),
)
NAMES = tuple(name for name, _ in COLUMNS)
MINUS = ", minus the control"  # ends the label of a difference
P_NAMES = ("p", "p_users", "p_seeds")  # of a CSV file
OF_VALIDATION = (("auc", "validation AUC"), ("informative_consistency", "validation informative"))


@dataclass(frozen=True)
class Measured:
    """A row of a table: by metric, its value in each run, and draws of the mean over the runs, (S,).

    A recommender that gives one score has no metric of answers. published: what the paper has for it. validation: of a
    study that shows them, figures of the chosen state on the validation rows, in each run. paired: whether it is a
    difference between two settings, to be tested.
    """

    label: str
    values: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]
    planned: int
    published: Published | None = None
    validation: dict[str, np.ndarray] = field(default_factory=dict)
    paired: bool = False

    @property
    def runs(self) -> int:
        """How many runs are there."""
        return len(next(iter(self.values.values()))) if self.values else 0


def measure(label: str, scored: list[Scored], planned: int, published: Published | None = None) -> Measured:
    """Values and draws of the metrics of COLUMNS; the same users are drawn for every run and every setting.

    A metric that these rows do not define is left out: UAUC where no user has both a liked and a disliked row.
    """
    of_runs = [metric_values(one) for one in scored]
    draws = [bootstrap_metrics(one) for one in scored]
    names = [name for name in NAMES if scored and np.isfinite([one.get(name, np.nan) for one in of_runs]).all()]
    return Measured(
        label,
        {name: np.array([one[name] for one in of_runs]) for name in names},
        {name: np.mean([one[name] for one in draws], axis=0) for name in names},
        planned,
        published,
    )


def measured_rows(study: Study, lines: dict[str, Line], data: Dataset) -> list[Measured]:
    """The base, then each setting of the study; a setting whose runs are not made has no values."""
    base = [lines[BASE].scored(data.test)] if BASE in lines else []
    compared = any(setting.verb == TRAIN and setting.plain for setting in study.settings)
    rows = [measure("untuned base", base, 1)] if base or compared else []
    numbers = numbers_scored(lines, data)
    published = {} if data.source == STAND_IN else PUBLISHED.get(data.name, {})
    changed = any(MARK in shlex.split(line.about.get("train_flags", "")) for line in lines.values())
    as_declared = len(numbers) == len(data.test) and not changed  # the ranges were set for all rows and no other flags
    for setting in study.settings:
        there = [lines[name].scored(data.test, numbers) for name in setting.run_names() if name in lines]
        weight = setting.flags.get("kl-weight")
        of_paper = weight in (None, WEIGHTS.get(data.name))  # a row with another lambda is not the paper's
        figures = published.get((setting.method, setting.shots)) if of_paper else None
        if figures and not as_declared:
            figures = replace(figures, close={})
        row = measure(setting.label, there, setting.seeds, figures)
        made = [lines[name] for name in setting.run_names() if name in lines]
        rows.append(replace(row, validation=_of_validation(made)) if study.validation and made else row)
    return rows


def _of_validation(lines: list[Line]) -> dict[str, np.ndarray]:
    """{measure: (runs,)} of the chosen states on the validation rows; NaN where a line of an older version lacks it."""
    chosen = [
        line.about["selection"][line.about["select"]]["valid"] if "selection" in line.about else {} for line in lines
    ]
    return {name: np.array([one.get(name, np.nan) for one in chosen], dtype=np.float64) for name, _ in OF_VALIDATION}


def differences(study: Study, lines: dict[str, Line], data: Dataset) -> list[Measured]:
    """Each setting minus the control with as many shots, seed by seed; without the control itself."""
    rows = []
    controls = {setting.shots: setting for setting in study.settings if setting.is_control}
    for setting in study.settings:
        control = controls.get(setting.shots)
        if control in (None, setting) or setting.verb != TRAIN:
            continue
        pairs = [
            (measure("", [lines[a].scored(data.test)], 1), measure("", [lines[b].scored(data.test)], 1))
            for a, b in zip(setting.run_names(), control.run_names())
            if a in lines and b in lines
        ]
        names = [name for name in NAMES if pairs and all(name in a.values and name in b.values for a, b in pairs)]
        values = {name: np.array([(a.values[name] - b.values[name])[0] for a, b in pairs]) for name in names}
        draws = {name: np.mean([a.draws[name] - b.draws[name] for a, b in pairs], axis=0) for name in names}
        rows.append(Measured(f"{setting.label}{MINUS}", values, draws, setting.seeds, paired=True))
    return rows


def intervals(row: Measured) -> dict[str, list[float]]:
    """{metric: [low, high]} of the mean over the runs."""
    return with_intervals({name: float(values.mean()) for name, values in row.values.items()}, row.draws)["interval_95"]


def interval_text(row: Measured | dict, name: str, sign: str = "") -> str:
    """The cell of a setting, or of what learns nothing: mean, standard deviation, interval; "" if it has none."""
    if isinstance(row, Measured):
        return _cell(row.values[name], intervals(row).get(name), sign) if name in row.values else ""
    return _cell(np.array([row[name]]), row["interval_95"].get(name)) if row.get(name) is not None else ""


def p_value(row: Measured, name: str) -> str:
    """p of a difference, in words for a cell: that it would hold for other users and, with several runs, seeds."""
    return f"p {both_p(row.values[name], row.draws[name])[0]:.3f}"


def is_close(row: Measured) -> str:
    """Whether the means lie in the range that was set before the runs: yes or no; "" without a range, or runs."""
    close = row.published.close if row.published and row.runs else {}
    inside = [low <= row.values[name].mean() <= high for name, (low, high) in close.items() if name in row.values]
    return ("yes" if all(inside) else "no") if inside else ""


def numbers_scored(lines: dict[str, Line], data: Dataset) -> list[int]:
    """Numbers of the test rows on which the study is measured: those that language models were asked, or all."""
    asked = lines.get(BASE) or next((line for line in lines.values() if "rows" in line.about), None)
    return asked.numbers(data.test) if asked else list(range(len(data.test)))


def rows_scored(lines: dict[str, Line], data: Dataset) -> list[Interaction]:
    """The test rows on which the study is measured."""
    return [data.test[number] for number in numbers_scored(lines, data)]


def rows_without_learning(train: list[Interaction], rows: list[Interaction]) -> list[dict]:
    """Rules that rank, and constants that know no user, on the same rows: label, values, intervals."""
    unlearned = without_learning(train, rows)
    constant = [{"label": f"always {label}", **values} for label, values in unlearned["constants"].items()]
    return [*({"label": name, **values} for name, values in unlearned["rules"].items()), *constant]


def columns_of(rows: list[Measured]) -> dict[str, str]:
    """{metric: its head} of those that some row has; all while no run is there. Recommenders have none of answers."""
    made = [row for row in rows if row.runs]
    return {name: head for name, head in COLUMNS if not made or any(name in row.values for row in made)}


def useful(unlearned: list[dict], columns: Iterable[str]) -> list[dict]:
    """Without the constants, which give answers and no scores, where no column is of answers."""
    return [rule for rule in unlearned if "contradiction_rate" in columns or "contradiction_rate" not in rule]


def markdown(rows: list[Measured], unlearned: list[dict], sign: str = "") -> str:
    """A table of means, standard deviations and intervals. sign: "+" in a table of differences.

    Columns of the published figures stand last, if there are any.
    """
    columns = columns_of(rows)
    heads = [*columns.values(), "runs"]
    beside = any(row.published for row in rows)
    heads += ["published AUC, UAUC", "run again by others"] if beside else []
    compared = any(is_close(row) for row in rows)
    heads += ["as close as was set"] if compared else []
    on_validation = OF_VALIDATION if any(row.validation for row in rows) else ()
    heads += [label for _, label in on_validation]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for row in rows:
        bounds = intervals(row) if row.runs else {}
        cells = [measured_cell(row, name, bounds, sign) for name in columns]
        cells.append(str(row.runs) if row.runs == row.planned else f"{row.runs} of {row.planned}")
        cells += published_texts(row.published) if beside else []
        cells += [is_close(row)] if compared else []
        cells += [_cell(row.validation[name], None) if row.validation else "" for name, _ in on_validation]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    more = 2 * beside + compared + len(on_validation)
    for rule in useful(unlearned, columns):
        bounds = rule["interval_95"]
        cells = [
            _cell(np.array([rule[name]]), bounds.get(name)) if rule.get(name) is not None else "" for name in columns
        ]
        lines.append(f"| no learning: {rule['label']} | {' | '.join([*cells, ''])}{' | ' * more} |")
    return "\n".join(lines)


def measured_cell(row: Measured, name: str, bounds: dict[str, list[float]], sign: str = "") -> str:
    """Mean, deviation and interval of a metric of the row; "" if it has none. bounds: of intervals."""
    if not row.runs:
        return "not run"
    if name not in row.values:
        return ""
    return _cell(row.values[name], bounds.get(name), sign) + (f", {p_value(row, name)}" if row.paired else "")


def published_texts(figures: Published | None) -> list[str]:
    """The paper's AUC and UAUC, and those of an independent re-run, each in words for a cell."""
    if figures is None:
        return ["", ""]
    pairs = [(figures.auc, figures.uauc), figures.again or (None, None)]
    return [", ".join(f"{value:.4f}" for value in pair if value is not None) for pair in pairs]


def as_latex(rows: list[Measured], unlearned: list[dict]) -> str:
    """A table for a paper, with booktabs: mean and standard deviation; Markdown and CSV have the intervals."""
    beside = any(row.published for row in rows)
    columns = columns_of(rows)
    heads = [*columns.values(), "runs"] + ["published"] * beside
    lines = [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule", f"& {' & '.join(heads)} " + r"\\", r"\midrule"]
    for row in rows:
        cells = [_latex_cell(row.values[name]) if name in row.values else "--" for name in columns]
        cells += [f"{row.runs}" if row.runs == row.planned else f"{row.runs} of {row.planned}"]
        cells += [f"{row.published.auc:.4f}" if row.published else ""] if beside else []
        lines.append(f"{_latex_text(row.label)} & {' & '.join(cells)} " + r"\\")
    lines.append(r"\midrule")
    for rule in useful(unlearned, columns):
        cells = [f"{rule[name]:.3f}" if rule.get(name) is not None else "" for name in columns]
        lines.append(f"{_latex_text(rule['label'])} & {' & '.join(cells)}{' &' * (1 + beside)} " + r"\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_cell(values: np.ndarray) -> str:
    return f"${values.mean():.3f}" + (rf" \pm {values.std(ddof=1):.3f}$" if len(values) > 1 else "$")


def _latex_text(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", re.sub(r'"([^"]*)"', r"``\1''", text))


def terminal(rows: list[Measured], unlearned: list[dict]) -> str:
    """The same within 80 columns, without intervals: AUC, contradiction and what is both right; or AUC and UAUC."""
    columns = columns_of(rows)
    shown = [name for name in ("auc", "contradiction_rate", "group_accuracy") if name in columns]
    shown = shown if len(shown) > 1 else [name for name in ("auc", "uauc") if name in columns]
    lines = [f"{'':37}" + "".join(f"{columns[name]:>14}" for name in shown)]
    for row in rows:
        cells = [measured_cell(row, name, {}, "") for name in shown]
        lines.append(f"{fitted(row.label, 36):37}" + "".join(f"{cell:>14}" for cell in cells).rstrip())
    for rule in useful(unlearned, columns):
        cells = [f"{rule[name]:.3f}" if rule.get(name) is not None else "" for name in shown]
        lines.append(f"{rule['label']:37}" + "".join(f"{cell:>14}" for cell in cells).rstrip())
    return "\n".join(lines)


def fitted(label: str, width: int) -> str:
    """The label, cut off if it is longer than width."""
    return label if len(label) <= width else label[: width - 1] + "…"


def as_csv(rows: list[Measured]) -> str:
    """One line for each row and metric, with every digit; p, and of what it is the larger, of differences alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "metric", "mean", "standard_deviation", "low_95", "high_95", "runs", "planned", *P_NAMES])
    for row in rows:
        bounds = intervals(row) if row.runs else {}
        for name, values in row.values.items():
            low, high = bounds.get(name, ("", ""))
            deviation = values.std(ddof=1) if len(values) > 1 else ""
            p = both_p(values, row.draws[name]) if row.paired else [""] * len(P_NAMES)
            writer.writerow([row.label, name, values.mean(), deviation, low, high, row.runs, row.planned, *p])
    return text.getvalue()


def _cell(values: np.ndarray, bounds: list[float] | None, sign: str = "") -> str:
    text = _number(values.mean(), sign) + (f" ± {_number(values.std(ddof=1))}" if len(values) > 1 else "")
    return text + (f" [{_number(bounds[0], sign)}, {_number(bounds[1], sign)}]" if bounds else "")


def _number(value: float, sign: str = "") -> str:
    return f"{round(value, 3) + 0.0:{sign}.3f}"
