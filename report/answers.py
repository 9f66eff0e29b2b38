"""The table of a consistency.json: every measure, and each wording of the question."""

from report.cells import interval_cell, no_interval
from report.tables import metrics_table, score_in_words
from report.wrap import wrapped


def answers_table(results: dict) -> str:
    """What eval.py --predictions found, within 80 columns. results: of run.answers.measure_answers."""
    lines = ["", *wrapped(score_in_words(results)), "", *wrapped(f"{results['model']}; {results['data']}")]
    lines += metrics_table(results["split"], {"value": results}, results)
    lines += ["", f"{'the user ... the target':24}{'right is':>10}{'answers right':>23}{'inconsistent':>23}"]
    for row in results["questions"]:
        cells = [interval_cell(row, name) for name in ("right_rate", "inconsistent_rate")]
        right = "the same" if row["same_answer_is_right"] else "opposite"
        lines.append(f"{_short(row['asks']):24}{right:>10}" + "".join(f"{cell:>23}" for cell in cells))
    lines += ["", *wrapped(bundle_in_words(results["bundle"], len(results["questions"])))]
    if "thresholds" in results:
        begins = ", ".join(f"{value:+.2f}" for value in results["thresholds"].values())
        lines += ["", *wrapped(f"Yes begins at these log-odds, chosen on other rows, question by question: {begins}.")]
    return "\n".join(lines + no_interval(lines))


def bundle_in_words(bundle: dict, questions: int) -> str:
    """Over all wordings at once. bundle: of consistency.bundle_metrics."""
    cells = [interval_cell(bundle, name) for name in ("all_right", "all_consistent", "informative_all_right")]
    return (
        f"All {questions} answers right: {cells[0]} of the rows; all of one mind, right or wrong: {cells[1]}; "
        f"all right, less the best constant's share: {cells[2]}."
    )


def _short(text: str) -> str:
    return text if len(text) <= 23 else text[:22] + "…"
