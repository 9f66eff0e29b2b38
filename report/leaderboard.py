"""The leaderboard of consistency: models on the same rows, below what needs no learning. Markdown or one HTML file."""

from html import escape
from pathlib import Path

from report.cells import interval_cell
from report.tables import data_in_words, part_of_split

COLUMNS = (  # (name in the figures, heading)
    ("contradiction_rate", "contradiction"),
    ("group_accuracy", "both right"),
    ("informative_consistency", "informative consistency"),
    ("arbitrage", "arbitrage, nats"),
    ("auc", "AUC"),
    ("auc_combined", "AUC, both"),
    ("all_right", "all wordings right"),
    ("all_consistent", "all of one mind"),
)
NOTES = (
    "Both right: the answers to the question and to its opposite. Informative consistency: both right, less the share "
    "that the best constant has right on the same rows; a constant reaches 0, so a model has learnt consistency only "
    "above it. Contradiction alone says little: a constant has none.",
    "All wordings right, all of one mind: over every wording that the file has; a dash where it has only two.",
    "[ ]: 95 % intervals from 1,000 resamples of the users. The definitions: docs/measures.md.",
)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#222}"
    "div{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}tr.group td{font-weight:600;padding-top:1rem}"
    "td span{color:#767676;font-size:85%;white-space:nowrap}"
)


def leaderboard(results: dict, suffix: str) -> str:
    """The page as Markdown (.md) or as one HTML file that needs no other. results: of compare.py."""
    return _markdown(results) if suffix == ".md" else _html(results)


def rows_of(results: dict) -> dict[str, list[tuple[str, dict]]]:
    """(name, figures) by group: constants, rules, models; models by informative consistency, the best first."""
    models = [(_name(run), run) for run in results["runs"]]
    models.sort(key=lambda model: [-_or_least(model[1].get(name)) for name in ("informative_consistency", "auc")])
    return {
        "Whoever is asked, the same answer": list(results["constants"].items()),
        "Rules that learn nothing": list(results["rules"].items()),
        "Models": models,
    }


def headline(results: dict) -> str:
    """What the table says, in a sentence or two."""
    asked = [run for run in results["runs"] if run.get("informative_consistency") is not None]
    if not asked:
        return "No model here answers questions, so that only rankings are compared."
    best = max(asked, key=lambda run: run["informative_consistency"])
    above = sum(run["interval_95"]["informative_consistency"][0] > 0 for run in asked)
    return (
        f"Models that answer: {len(asked)}. With both answers right on more rows than a constant, the interval above "
        f"0: {above}. The best informative consistency is {interval_cell(best, 'informative_consistency')}, of "
        f"{_name(best)}."
    )


def _name(run: dict) -> str:
    label = run["about"].get("answered_by")
    return f"{label} ({Path(run['run']).name})" if label else run["run"]


def _or_least(value: float | None) -> float:
    return -2.0 if value is None else value


def _cells(figures: dict) -> list[str]:
    bundle = figures.get("bundle") or {}  # of more than two wordings
    return [interval_cell(bundle if name.startswith("all_") else figures, name) for name, _ in COLUMNS]


def _subject(results: dict) -> str:
    counts, known = results["runs"][0]["counts"], results["runs"][0]["about"]
    users = f"{counts['users']:,} users" if counts["users"] else "users unknown"
    data, chosen = known.get("data", "data unknown"), results["runs"][0]["chosen"]
    if "data_source" in known:
        data = data_in_words(data, known["data_source"])
    rows = (
        part_of_split(chosen) if chosen and {"rows", "of", "too_long"} <= chosen.keys() else f"{counts['rows']:,} rows"
    )
    return f"{data}: {rows}, {counts['positive']:,} of them liked, {users}"


def _markdown(results: dict) -> str:
    lines = ["# Consistency of recommenders", "", _plain(headline(results)), "", _plain(_subject(results)) + ".", ""]
    lines += ["| | " + " | ".join(heading for _, heading in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for group, rows in rows_of(results).items():
        if rows:
            lines.append(f"| **{group}** |" + " |" * len(COLUMNS))
        lines += [f"| {_plain(name)} | {' | '.join(_cells(figures))} |" for name, figures in rows]
    return "\n".join([*lines, *(line for note in NOTES for line in ("", note))]) + "\n"


def _plain(text: str) -> str:
    """Text from a file, so that it is nothing but text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\|<>[]`*_" else letter for letter in " ".join(text.split()))


def _html(results: dict) -> str:
    heads = "".join(f"<th>{escape(heading)}</th>" for heading in ("", *(heading for _, heading in COLUMNS)))
    body = []
    for group, rows in rows_of(results).items():
        if rows:
            body.append(f'<tr class="group"><td colspan="{len(COLUMNS) + 1}">{escape(group)}</td></tr>')
        for name, figures in rows:
            cells = (cell.partition(" [") for cell in _cells(figures))
            shown = "".join(f"<td>{value} <span>{bracket[1:]}{rest}</span></td>" for value, bracket, rest in cells)
            body.append(f"<tr><td>{escape(name)}</td>{shown}</tr>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Consistency of recommenders</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>Consistency of recommenders</h1>\n"
        f"<p>{escape(headline(results))}</p>\n<p>{escape(_subject(results))}.</p>\n"
        f"<div><table><tr>{heads}</tr>\n"
        + "\n".join(body)
        + "\n</table></div>\n"
        + "\n".join(f"<p>{escape(note)}</p>" for note in NOTES)
        + "\n</body></html>\n"
    )
