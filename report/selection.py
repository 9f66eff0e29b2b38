"""The table of the states that each validation measure would have chosen."""

from metrics import ALL_RIGHT
from report.cells import number

COLUMNS = (  # (name in results.json, heading, width)
    *(("auc", "AUC", 7), ("auc_combined", "AUC both", 10)),
    *(("contradiction_rate", "contradicts", 13), ("group_accuracy", "both right", 12)),
    ("informative_consistency", "informative", 13),
)
IN_ALL_WORDS = (  # of a run that was validated in several wordings
    *(("auc", "AUC", 7), ("auc_combined", "AUC both", 10), ("contradiction_rate", "contradicts", 13)),
    *(("informative_consistency", "informative", 12), (ALL_RIGHT, "all wordings", 13)),
)
NAMES = {
    **{"auc": "AUC", "auc_combined": "AUC, both", "informative_consistency": "informative"},
    ALL_RIGHT: "all wordings",
}


def selection_table(results: dict) -> list[str]:
    """Which state each measure would have chosen, and its validation figures; no lines for results that lack them."""
    chosen = results.get("selection")
    if not chosen:
        return []
    columns = IN_ALL_WORDS if ALL_RIGHT in chosen else COLUMNS
    lines = ["", f"{'best by validation':20}{'step':>5}" + "".join(f"{head:>{width}}" for _, head, width in columns)]
    for measure, state in chosen.items():
        label = NAMES[measure] + " *" * (measure == results["select"])
        values = [(state["valid"][name], width) for name, _, width in columns]
        cells = "".join(f"{'-' if value is None else number(value):>{width}}" for value, width in values)
        lines.append(f"{label:20}{state['step']:5}{cells}")
    return [*lines, f"* chose this run's state (--select {results['select']}); step 0: the base"]
