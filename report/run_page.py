"""report.html: what a run reached, as one self-contained page. run/page.py collects what it shows."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

import numpy as np

from data.sources.stand_in import STAND_IN
from metrics import Scored
from objectives.by_name import own_terms
from report.card import base_name
from report.cells import best_constant, column_cell, constant_rows, interval_cell, no_interval
from report.charts import SQUARE, Area, chart, curve, dots, figure, label, level, span, thinned, tint
from report.html import clipped, page, paragraph, table
from report.tables import (
    CAUTION,
    METRICS,
    adapter_in_words,
    change_in_words,
    part_of_split,
    provenance,
    score_in_words,
    tuning,
)

LONGEST_PROMPT, LONGEST_TEXT = 6000, 300  # letters that the page shows of a prompt, and of a title or a name
MOST_DOTS = 4000  # rows in a scatter
COLUMNS = {"before": "base", "after": "tuned", "change": "change", "value": "this model"}
UNIT = (0.0, 1.0)
KL_TITLE = "KL between the two prompts' answers"
FORGOT = "This run recorded these for the base and the best state alone."


@dataclass(frozen=True)
class Row:
    """A row on which the model contradicts itself. prompts: both, as the model read them."""

    number: int
    user: str
    title: str
    label: bool
    answers: tuple[float, float]
    prompts: tuple[str, str]


@dataclass(frozen=True)
class Shown:
    """What the page shows beside the results.

    scored: {"before" and "after", or "value": the answers to the rows of the split}; bins: by the same names,
    metrics.reliability of each; rows: the most contradictory ones of the last; history: of metrics.jsonl;
    command: that makes the run again; facts: hashes and settings, by name.
    """

    scored: dict[str, Scored]
    bins: dict[str, np.ndarray]
    rows: list[Row]
    command: str
    facts: dict[str, str]
    history: list[dict] = field(default_factory=list)


def run_page(results: dict, shown: Shown) -> str:
    """The page of a run of train.py."""
    test = results["test"]
    columns = {name: test[name] for name in ("before", "after", "change")}
    about = f"{provenance(_without_folders(results))}; {tuning(results)}."
    title = f"{results['data']}, {results['shots']} shots, seed {results['seed']}: objective {results['objective']}"
    parts = [
        paragraph(change_in_words(results, "test"), "lead"),
        paragraph(about),
        *_cautions(results),
        "<h2>On the test split</h2>",
        *_result_table(columns, test),
        *_scatters(shown, test),
        *_training(results, shown.history),
        *_calibration(shown, test),
        *contradictory_section(shown.rows),
        *_how(shown),
    ]
    return page(title, f"<h1>{escape(title)}</h1>", parts)


def score_page(results: dict, shown: Shown) -> str:
    """The page of a split that eval.py scored."""
    results = _without_folders(results)
    title = f"{results['data']}, {results['split']} split: {adapter_in_words(results)}"
    parts = [
        paragraph(score_in_words(results), "lead"),
        paragraph(f"{provenance(results)}; {adapter_in_words(results)}."),
        *_cautions(results),
        f"<h2>On the {results['split']} split</h2>",
        *_result_table({"value": results}, results),
        *_scatters(shown, results),
        *_calibration(shown, results),
        *contradictory_section(shown.rows),
        *_how(shown),
    ]
    return page(title, f"<h1>{escape(title)}</h1>", parts)


def _without_folders(results: dict) -> dict:
    """The results with names of folders in the place of their paths: a page may be passed on."""
    names = {key: base_name(results[key]) for key in ("model", "run", "adapter") if results.get(key)}
    return results | names


def _cautions(results: dict) -> list[str]:
    lines = [CAUTION] if results["data_source"] == STAND_IN else []
    if results["demo_model"]:
        lines.append("The base is the built-in demo model, or was made from it. It is tiny.")
    return [paragraph(line, "caution") for line in lines]


# ---- the table ----------------------------------------------------------------------------------


def _result_table(columns: dict[str, dict], split: dict) -> list[str]:
    """Every metric with its interval; then what needs no learning. split: with its rules, constants and chosen rows."""
    last = columns.get("after") or columns["value"]
    counts = last["counts"]
    unit = "users" if counts["users"] else "rows"
    rows = part_of_split(split["chosen"]) if split.get("chosen") else f"{counts['rows']:,} rows"
    users = f", {counts['users']:,} users" if counts["users"] else ""
    cells = [
        [name.strip(), *(column_cell(values, key, which) for which, values in columns.items())]
        for key, name in METRICS
        if last.get(key) is not None
    ]
    rules = [[rule, *(interval_cell(of, key) for key in ("auc", "uauc"))] for rule, of in split["rules"].items()]
    known = last.get("contradiction_rate") is not None
    asked = [list(row) for row in constant_rows(split["constants"])] if known else []
    missing = no_interval([cell for row in (*cells, *rules, *asked) for cell in row], unit)
    return [
        paragraph(f"{rows}{users}. In [ ]: 95 % intervals, from resampling {unit}.", "note"),
        f'<div class="side"><div>{table(["", *(COLUMNS[name] for name in columns)], cells)}</div><div>',
        table(["without any learning", "AUC", "UAUC"], rules),
        table(["whoever is asked", "contradiction rate", "both right"], asked) if asked else "",
        "</div></div>",
        *(paragraph(line, "note") for line in missing if line),
    ]


# ---- curves -------------------------------------------------------------------------------------


def _training(results: dict, history: list[dict]) -> list[str]:
    if not history:
        return []
    valid, last = results["valid"], max(record["step"] for record in history)
    figures = [_contradictions(results, history, last), _losses(history, last), _terms(results, history, last)]
    if valid["after"].get("auc") is not None:
        figures.append(_auc(results, history, last))
    steps = f"{last:,} optimizer steps; the best state is that after step {results['best_step']:,}"
    return ["<h2>Training</h2>", paragraph(f"{steps}.", "note"), '<div class="figures">', *figures, "</div>"]


def _points(history: list[dict], name: str) -> list[tuple[float, float]]:
    return [(record["step"], record[name]) for record in history if name in record]


def _losses(history: list[dict], last: int) -> str:
    names = {"loss": ("blue", "L"), "ce_pos": ("green", "CE⁺, will like"), "ce_neg": ("orange", "CE⁻, will dislike")}
    curves = {name: thinned(_points(history, name)) for name in names}
    curves = {name: points for name, points in curves.items() if any(y for _, y in points)}
    area = Area((0, last), span([y for points in curves.values() for _, y in points], 0))
    marks = [curve(area, points, names[name][0]) for name, points in curves.items()]
    keys = dict(names[name] for name in curves)
    image = chart(area, marks, "Loss over the steps", "optimizer step", "nats per pair")
    return figure("Loss and cross-entropy", keys, image)


def _terms(results: dict, history: list[dict], last: int) -> str:
    """The KL of the training pairs, or the terms that the objective alone has."""
    names = own_terms(results["objective"])
    title = KL_TITLE if names == ("kl",) else "Term in the place of the KL"
    curves = {kind: thinned(_points(history, name)) for kind, name in zip(("violet", "orange", "blue", "green"), names)}
    area = Area((0, last), span([y for points in curves.values() for _, y in points], 0))
    marks = [curve(area, points, kind) for kind, points in curves.items()]
    image = chart(area, marks, title, "optimizer step", "nats per pair")
    keys = {kind: "mean of the training pairs" + f": {name}" * (len(names) > 1) for kind, name in zip(curves, names)}
    return figure(title, keys, image)


def _contradictions(results: dict, history: list[dict], last: int) -> str:
    """Contradictions with what is right beside them, as everywhere: one rate alone says nothing."""
    valid, area = results["valid"], Area((0, last), UNIT)
    names = {"contradiction_rate": ("red", "contradicts itself"), "group_accuracy": ("green", "both answers right")}
    names = {name: entry for name, entry in names.items() if valid["after"].get(name) is not None}
    marks, whole = [], True
    for name, (kind, _) in names.items():
        ends = [(0, valid["before"][name]), (results["best_step"], valid["after"][name])]
        points = _points(history, f"valid_{name}")
        whole = whole and bool(points)
        between = curve(area, thinned([ends[0], *points]), kind) if points else curve(area, ends, f"{kind} dashed")
        marks += [between, dots(area, ends, kind, 8)]
        marks.append(dots(area, points, kind) if len(points) <= 60 else "")
    height = best_constant(valid["constants"])
    image = chart(area, [level(area, height), *marks], "Contradictions over the steps", "optimizer step")
    caption = f"Share of the validation rows. Large dots: base and best state. {'' if whole else FORGOT}".strip()
    keys = dict(names.values()) | {"grey": f"both right by the best constant, {height:.3f}"}
    return figure("Contradictions", keys, image, caption)


def _auc(results: dict, history: list[dict], last: int) -> str:
    base, best = (0, results["valid"]["before"]["auc"]), (results["best_step"], results["best_valid_auc"])
    points = _points(history, "valid_auc")
    area = Area((0, last), span([0.5, *(y for _, y in [*points, base, best])]))
    marks = [level(area, 0.5), curve(area, thinned([base, *points]), "blue"), dots(area, [base, best], "orange", 9)]
    marks.insert(2, dots(area, points, "blue") if len(points) <= 60 else "")
    image = chart(area, marks, "Validation AUC over the steps", "optimizer step")
    keys = {"blue": "AUC, positive prompt", "orange": f"base {base[1]:.3f}, best {best[1]:.3f}", "grey": "chance"}
    return figure("Validation AUC", keys, image)


# ---- answers ------------------------------------------------------------------------------------


def _scatters(shown: Shown, split: dict) -> list[str]:
    """Nothing of rows that were asked one question only."""
    scored = {name: answers for name, answers in shown.scored.items() if answers.has_both}
    if not scored:
        return []
    plots = (_scatter(COLUMNS[name], of, split.get(name, split)) for name, of in scored.items())
    return [
        "<h2>Both answers to every row</h2>",
        paragraph("Consistent answers lie at the top left and at the bottom right. Red areas: contradictions."),
        f'<div class="figures">{"".join(plots)}</div>',
    ]


def _scatter(name: str, scored: Scored, values: dict) -> str:
    area, half = Area(UNIT, UNIT, SQUARE, SQUARE), (0.5, 0.5)
    chosen = np.arange(len(scored.labels))
    if len(chosen) > MOST_DOTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST_DOTS, replace=False))
    points = np.stack([scored.p_pos, scored.p_neg], 1)[chosen]
    liked = scored.labels[chosen]
    marks = [tint(area, half, (1, 1), "red"), tint(area, (0, 0), half, "red")]
    marks += [curve(area, [(0.5, 0), (0.5, 1)], "grey dashed"), level(area, 0.5)]
    for which, kind in ((~liked, "orange"), (liked, "blue")):
        marks.append(dots(area, points[which].tolist(), kind, 5, 0.6))
    yes, no = scored.p_pos > 0.5, scored.p_neg <= 0.5
    shares = [values["yes_yes"], values["no_no"], (yes & no).mean(), (~yes & ~no).mean()]
    words = ("Yes to both", "No to both", "likes", "dislikes")
    texts = [[word, f"{share:.1%}"] for word, share in zip(words, shares)]
    marks += [label(area, (0.98, 1), texts[0], "end"), label(area, (0.02, 0.13), texts[1])]
    marks += [label(area, (0.98, 0.13), texts[2], "end"), label(area, (0.02, 1), texts[3])]
    image = chart(
        area, marks, f"Answers to both questions, {name}", "P(Yes) to “will like”", "P(Yes) to “will dislike”"
    )
    part = f"{MOST_DOTS:,} of {len(scored.labels):,} rows, drawn at random; the shares are of all rows."
    keys = {"blue": "liked", "orange": "not liked"}
    return figure(name[0].upper() + name[1:], keys, image, part if len(chosen) < len(scored.labels) else "")


def _calibration(shown: Shown, split: dict) -> list[str]:
    return ["<h2>Calibration</h2>", f'<div class="figures">{_reliability(shown.bins, split)}</div>']


def _reliability(bins: dict[str, np.ndarray], split: dict) -> str:
    area, keys, marks = Area(UNIT, UNIT, SQUARE, SQUARE), {}, []
    marks.append(curve(area, [(0, 0), (1, 1)], "grey dashed"))
    for name, kind in zip(bins, ("orange", "blue") if len(bins) > 1 else ("blue",)):
        points = bins[name].tolist()
        marks += [curve(area, points, kind), dots(area, points, kind, 7)]
        keys[kind] = f"{COLUMNS[name]}, ECE {split.get(name, split)['ece']:.3f}"
    image = chart(area, marks, "Calibration", "P(Yes) to “will like”, mean of a bin", "share that was liked")
    caption = f"{len(points)} bins of equally many rows. On the diagonal a probability of 0.7 is right in 70 %."
    return figure("Does P(Yes) say how often Yes is right?", keys, image, caption)


def contradictory_section(rows: list[Row]) -> list[str]:
    """The rows to open, each with both prompts; a sentence if there is none."""
    heading = "<h2>The most contradictory rows</h2>"
    if not rows:
        return [heading, paragraph("The model contradicts itself on no row that was asked both questions.")]
    parts = [
        heading,
        paragraph(
            "The same answer to both questions, and the surest of it: the largest |p⁺ + p⁻ − 1|. "
            "Open a row to read what the model read; where the two prompts differ, they are marked.",
            "note",
        ),
    ]
    for row in rows:
        yes, no = row.answers
        said = "Yes to both" if yes > 0.5 else "No to both"
        user, liked = escape(clipped(row.user, LONGEST_TEXT)), "liked" if row.label else "not liked"
        known = f"row {row.number:,}, user <bdi>{user}</bdi>, {liked}"
        # A title may have signs that turn the direction of writing, which end with its own element.
        title = f"<b><bdi>{escape(clipped(row.title, LONGEST_TEXT))}</bdi></b>"
        words = f"{title}: {said} (p⁺\u00a0{yes:.3f}, p⁻\u00a0{no:.3f})"
        prompts = "".join(f"<pre>{text}</pre>" for text in _compared(*row.prompts))
        inside = f'<div class="side">{prompts}</div>'
        note = f'<span class="note">{known}</span>'
        parts.append(f"<details><summary>{words} {note}</summary>{inside}</details>")
    return parts


def _compared(positive: str, negative: str) -> tuple[str, str]:
    """Both prompts as HTML, with the words marked that the other has not."""
    words = [re.split(r"(\s+)", clipped(text, LONGEST_PROMPT)) for text in (positive, negative)]
    alignment = difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    return tuple("".join(_marked(words[side], alignment, side)) for side in (0, 1))


def _marked(words: list[str], alignment: list[tuple], side: int) -> Iterator[str]:
    for kind, *ends in alignment:
        text = escape("".join(words[ends[2 * side] : ends[2 * side + 1]]))
        yield f"<mark>{text}</mark>" if kind != "equal" and text else text


def _how(shown: Shown) -> list[str]:
    facts = [[name, clipped(text, LONGEST_TEXT)] for name, text in shown.facts.items()]
    command = f"<pre>{escape(clipped(shown.command, LONGEST_PROMPT))}</pre>"
    return ["<h2>How these figures were made</h2>", command, table(["", ""], facts, "words")]
