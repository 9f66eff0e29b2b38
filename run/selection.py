"""Which state of a run each validation measure would have chosen: the best by AUC need not be the best otherwise."""

from metrics import SELECTABLE, Scored, metric_values
from run.progress import Progress

SHOWN = (*SELECTABLE, "contradiction_rate", "group_accuracy", "arbitrage")


def selection(history: list[dict], base: Scored, select: str, progress: Progress) -> dict:
    """What results.json says of the choice. history: lines of metrics.jsonl; base: on the validation rows.

    "select": the measure that chose; "best_valid_auc": the AUC of the chosen state; "selection": for each measure that
    may choose, "step" of the first state that is best by it, 0 for the base, and the figures of that state, "valid".
    A run can only know the states that it validated: with another measure it might have stopped elsewhere. A measure
    that some line lacks, as those of version 0.1 do, is left out.
    """
    states = {0: metric_values(base)}
    for line in history:
        if "valid_auc" in line:
            states[line["step"]] = {name: line[f"valid_{name}"] for name in SHOWN if f"valid_{name}" in line}
    chosen = {}
    for measure in SELECTABLE:
        if all(measure in state for state in states.values()):
            step = max(states, key=lambda step: states[step][measure])  # the first of equals, as the loop has it
            step = progress.best_step if measure == select else step
            figures = {name: states[step].get(name) for name in SHOWN if name in states[0]}
            chosen[measure] = {"step": step, "valid": figures}
    best = states.get(progress.best_step, {}).get("auc", progress.best_value)
    return {"select": select, "best_valid_auc": best, "selection": chosen}
