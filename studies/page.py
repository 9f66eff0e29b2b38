"""The page of a study: one sentence, pictures, tables, and a link to the page of each run that has one."""

import shlex
from html import escape
from pathlib import Path
from urllib.parse import quote

from data.sources.stand_in import STAND_IN
from report.charts import Interval, figure, forest
from report.html import page, paragraph, table
from report.tables import CAUTION
from studies.bench import is_recommender
from studies.results import BASE, Line
from studies.tables import (
    COLUMNS,
    MINUS,
    Measured,
    columns_of,
    interval_text,
    intervals,
    is_close,
    p_value,
    published_texts,
    useful,
)
from studies.texts import Outcome

RUN_PAGE = "report.html"
RANKING, ANSWERS = ("auc", "uauc", "auc_combined"), ("contradiction_rate", "group_accuracy", "informative_consistency")
DECIDED = ("informative_asked_once", "informative_combined")
HEADS = dict(COLUMNS)
PICTURES = {"auc": "AUC, positive prompt", "contradiction_rate": "Contradicts itself", "group_accuracy": "Both right"}
DEMO = "The base is the built-in demo model, or was made from it. It is tiny."


def study_page(outcome: Outcome, out: Path, lines: dict[str, Line], words: tuple[str, ...]) -> str:
    """The page. out: the folder that it is written to; lines: of all runs; words: of the command, after the study."""
    title = f"{outcome.name}: {outcome.heading}"
    made = [name for name in outcome.study.runs() if name in lines]
    cautions = [CAUTION] * (outcome.source == STAND_IN) + [DEMO] * outcome.demo
    parts = [
        paragraph(in_a_sentence(outcome), "lead"),
        paragraph(f"{outcome.study.about}. Asked for: {_so_many_runs(len(outcome.study.runs()))}; there: {len(made)}."),
        *(paragraph(text, "caution") for text in cautions),
        *_pictures(outcome),
        *_tables(outcome),
        *_runs(made, out, lines),
        "<h2>How these figures were made</h2>",
        f"<pre>{escape(shlex.join(['python', 'reproduce.py', outcome.name, *words]))}</pre>",
        *(paragraph(note, "note") for note in outcome.notes),
        table(["", ""], [[name, text] for name, text in _facts(made, lines).items()], "words"),
    ]
    return page(title, f"<h1>{escape(title)}</h1>", parts)


def in_a_sentence(outcome: Outcome) -> str:
    """What came out: LCFT against its control if both were run, else the row that ranks best."""
    change = next((row for row in outcome.changes if row.runs and row.label.startswith("LCFT")), None)
    best_rule = max((rule for rule in outcome.unlearned if rule.get("auc")), key=lambda rule: rule["auc"])
    constant = f"The best constant has both answers right on {outcome.constant:.1%} of the rows."
    if change:
        names = {
            "contradiction_rate": "contradictions",
            "group_accuracy": "pairs with both answers right",
            "auc": "AUC",
        }
        said = [f"{text} {_cell(change, name, '+')}" for name, text in names.items()]
        return f"{change.label} ({_so_many_runs(_count(change))}): {'; '.join(said)}. {constant}"
    there = [row for row in outcome.rows if row.runs and "auc" in row.values]
    if not there:
        return "No run of this study is there yet."
    best = max(there, key=lambda row: row.values["auc"].mean())
    rule = f"Without learning, {best_rule['label']} has {best_rule['auc']:.3f}."
    return f"{best.label} ranks best of {len(there)} rows: AUC {_cell(best, 'auc')}. {rule}"


def _pictures(outcome: Outcome) -> list[str]:
    """A forest plot for each measure that some row has."""
    figures = []
    for name, title in PICTURES.items():
        rows = [row for row in outcome.rows if row.runs and name in row.values]
        kinds = ["grey" if row.label == outcome.rows[0].label and row.planned == 1 else "blue" for row in rows]
        drawn = [
            Interval(row.label, row.values[name].mean(), tuple(intervals(row)[name]), row.values[name].tolist(), kind)
            for row, kind in zip(rows, kinds)
        ]
        marks = {"auc": {0.5: "grey"}, "group_accuracy": {outcome.constant: "orange"}}.get(name, {})
        keys = {"auc": {"grey": "chance"}, "group_accuracy": {"orange": "the best constant"}}.get(name, {})
        if drawn:
            figures.append(figure(title, keys, forest(drawn, marks, title, () if name == "auc" else (0, 1))))
    if not figures:
        return []
    note = "Large dots: the mean over the runs, with its 95 % interval over users. Small dots: single runs."
    return ["<h2>In pictures</h2>", paragraph(note, "note"), f'<div class="figures">{"".join(figures)}</div>']


def _tables(outcome: Outcome) -> list[str]:
    rows = outcome.rows
    ranks = [name for name in RANKING if name in columns_of(rows)]
    ranking = [[row.label, *(_cell(row, name) for name in ranks), _count(row)] for row in rows]
    close = any(is_close(row) for row in rows)
    published = [
        [row.label, _cell(row, "auc"), *published_texts(row.published), *[is_close(row)] * close]
        for row in rows
        if row.published
    ]
    answering = [row for row in rows if not row.runs or any(name in row.values for name in ANSWERS)]
    answers = [[row.label, *(_cell(row, name) for name in ANSWERS)] for row in answering]
    answered = ("contradiction_rate", "group_accuracy") if answering else ()
    unlearned = [
        [rule["label"], *(interval_text(rule, name) for name in ("auc", *answered))]
        for rule in useful(outcome.unlearned, answered)
    ]
    changes = [row for row in outcome.changes if row.runs]
    parts = ["<h2>How well it ranks</h2>", table(["", *(HEADS[name] for name in ranks), "runs"], ranking)]
    if published:
        heads = ["", "our AUC", "published AUC, UAUC", "run again by others", *["as close as was set"] * close]
        parts += ["<h2>Beside what is published</h2>", table(heads, published)]
    if answering:
        parts += ["<h2>What it answers</h2>", table(["", *(HEADS[name] for name in ANSWERS)], answers)]
        decided = [[row.label, *(_cell(row, name) for name in DECIDED)] for row in answering]
        note = "Informative, where one answer decides for both questions: the first, or the surer one."
        parts += ["<h2>One answer for both questions</h2>", paragraph(note, "note")]
        parts += [table(["", *(HEADS[name] for name in DECIDED)], decided)]
    parts += ["<h2>Without any learning</h2>", table(["", *(HEADS[name] for name in ("auc", *answered))], unlearned)]
    if changes:
        cells = [[row.label.removesuffix(MINUS), *(_cell(row, name, "+") for name in PICTURES)] for row in changes]
        parts += ["<h2>Minus the control</h2>", table(["", *(HEADS[name] for name in PICTURES)], cells)]
    return parts


def _so_many_runs(count: int | str) -> str:
    return f"{count} run" if str(count) == "1" else f"{count} runs"


def _count(row: Measured) -> str:
    return str(row.runs) if row.runs == row.planned else f"{row.runs}\u00a0of\u00a0{row.planned}"


def _cell(row: Measured, name: str, sign: str = "") -> str:
    """A mean, its standard deviation and interval, and the p of a difference."""
    if not row.runs:
        return "not run"
    if name not in row.values:
        return ""
    text = interval_text(row, name, sign)
    return f"{text}, {p_value(row, name)}" if row.paired else text


def _runs(made: list[str], out: Path, lines: dict[str, Line]) -> list[str]:
    """A line for each run, with a link if its page is in the folder."""
    if not made:
        return []
    entries = []
    for name in made:
        auc = lines[name].about["test"].get("auc")
        figures = f" <span class='note'>AUC {auc:.3f}</span>" if auc is not None else ""
        there = (out / name / RUN_PAGE).is_file()
        text = f'<a href="{quote(name)}/{RUN_PAGE}">{escape(name)}</a>' if there else escape(name)
        entries.append(f"<p>{text}{figures}</p>")
    return ["<h2>The runs</h2>", f"<details><summary>{len(made)} runs</summary>{''.join(entries)}</details>"]


def _facts(made: list[str], lines: dict[str, Line]) -> dict[str, str]:
    """sha256 of data and base, and the versions, of the runs."""
    there = [lines[name] for name in (*made, BASE) if name in lines]
    facts = {
        "data": {line.about.get("data") for line in there},
        "weights of the base": {line.about.get("base") for line in there if not is_recommender(line)},
        "versions": {", ".join(map(" ".join, line.about.get("versions", {}).items())) for line in there},
    }
    told = {name: "; ".join(sorted(filter(None, values))) for name, values in facts.items()}
    return {name: text for name, text in told.items() if text}
