"""What eval.py --wordings shows: every question, by what training asked and by kind, and all of them together."""

from report.cells import interval_cell, no_interval, number
from report.wrap import wrapped

HEAD = f"{'the user ... the target':28}{'inconsistent':>22}{'right':>9}{'AUC':>9}{'arbitrage':>11}"
BUNDLES = (("all_right", "every answer right"), ("all_consistent", "all say one thing"))
MEANINGS = (
    "inconsistent: not what the answer to the first question implies; right: the right answer; arbitrage: nats that a "
    "bettor could take from this answer and the first. A bundle is all questions of its line asked about one row."
)


def wording_matrix_table(matrix: dict) -> str:
    """The matrix of scoring.splits.wording_matrix within 80 columns."""
    lines, cells = ["", HEAD], []
    for trained, heading in ((True, "asked in training"), (False, "not asked in training")):
        rows = [row for row in matrix["rows"] if row["trained_on"] == trained]
        for kind, same in dict.fromkeys((row["kind"], row["same_answer_is_right"]) for row in rows):
            lines.append(f"{heading}, {kind}: {'the same' if same else 'the opposite'} answer is right")
            for row in rows:
                if row["kind"] == kind:
                    cells.append(interval_cell(row, "inconsistent_rate"))
                    lines.append(_line(row["asks"], cells[-1], row))
    lines.append(_line("whoever is asked", number(matrix["constant"]["inconsistent_rate"]), matrix["constant"]))
    lines += ["", f"{'a bundle of':28}" + "".join(f"{label:>26}" for _, label in BUNDLES)]
    for name, bundle in matrix["bundles"].items():
        shown = [interval_cell(bundle, key) for key, _ in BUNDLES]
        cells += shown
        label = f"{name} ({len(bundle['asks'])})"
        lines.append(f"{label:28}" + "".join(f"{cell:>26}" for cell in shown))
    constant = (number(matrix["constant"]["all_right"]), number(1.0))
    lines.append(f"{'whoever is asked':28}" + "".join(f"{cell:>26}" for cell in constant))
    return "\n".join([*lines, *no_interval(cells), "", *wrapped(MEANINGS)])


def _line(asks: str, inconsistent: str, figures: dict) -> str:
    numbers = [number(figures[name]) if figures.get(name) is not None else "-" for name in ("right_rate", "auc")]
    arbitrage = number(figures["arbitrage"]) if "arbitrage" in figures else "-"
    return f"  {asks[:26]:26}{inconsistent:>22}{numbers[0]:>9}{numbers[1]:>9}{arbitrage:>11}"
