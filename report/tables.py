"""Plain-text tables of results, each saying on which data and model it was measured."""

import shlex
from pathlib import Path

from cli.train import TrainFlags
from cli.typed import train_command, verb_as_typed
from data.sources.stand_in import STAND_IN
from objectives import OBJECTIVES, flags_of

METRICS = (  # (name in results.json, label)
    ("auc", "AUC, positive prompt"),
    ("uauc", "UAUC, positive prompt"),
    ("auc_negative", "AUC, negative prompt"),
    ("auc_combined", "AUC, both answers (z+ - z-)"),
    ("contradiction_rate", "contradiction rate"),
    ("yes_yes", "  Yes to both"),
    ("no_no", "  No to both"),
    ("group_accuracy", "both answers right"),
    ("ece", "calibration error (ECE)"),
    ("kl", "KL at the answer, nats"),
)


def provenance(results: dict) -> str:
    """Data and base model in a few words; simulated data and the demo model are always named."""
    data = "SIMULATED stand-in data" if results["data_source"] == STAND_IN else results["data_source"]
    return f"{results['data']} ({data}), {model_in_words(results)}"


def tuning(results: dict) -> str:
    """Objective, lambda, shots and seed of a training run in a few words."""
    weight = f" with lambda {results['kl_weight']:g}" if "kl_weight" in flags_of(results["objective"]) else ""
    part = results.get("valid", {}).get("chosen")
    chosen = f", best state chosen on {part_of_split(part, 'validation rows')}" if part else ""
    return f"objective {results['objective']}{weight}, {results['shots']} shots, seed {results['seed']}{chosen}"


def part_of_split(chosen: dict, rows: str = "rows") -> str:
    """How many rows were used of how many. chosen: of results.json; rows: what to call them."""
    reasons = []
    if chosen["rows"] + chosen["too_long"] < chosen["of"]:
        reasons.append("seeded subset")
    if chosen["too_long"]:
        reasons.append(f"{chosen['too_long']:,} too long left out")
    return f"{chosen['rows']:,} of {chosen['of']:,} {rows} ({', '.join(reasons)})"


def result_table(results: dict, split: str) -> str:
    """Before, after and change with 95 % intervals over users; below, the rows without learning."""
    columns = {key: results[split][key] for key in ("before", "after", "change")}
    lines = ["", f"{provenance(results)}; {tuning(results)}", *_table(split, columns, results[split])]
    return "\n".join(lines + _caution(results))


def score_table(results: dict) -> str:
    """The metrics of eval.py with 95 % intervals over users; below, the rows without learning."""
    lines = [
        "",
        f"{provenance(results)}; {adapter_in_words(results)}",
        *_table(results["split"], {"value": results}, results),
    ]
    return "\n".join(lines + _caution(results))


def wording_table(rows: list[dict]) -> str:
    """How answers to other wordings agree with those to "will like"; a model that merely reacts to any
    change of words fails the last rows.
    """
    lines = ["", f"{'the user ... the target':36}{'right is':>12}{'inconsistent':>24}{'AUC of this wording':>24}"]
    for row in rows:
        label = f"{row['asks']}{' (trained on)' if row['trained_on'] else ''}"
        right = "the same" if row["same_answer_is_right"] else "opposite"
        lines.append(f"{label:36}{right:>12}{_cell(row, 'inconsistent_rate'):>24}{_cell(row, 'auc'):>24}")
    return "\n".join(lines)


def model_in_words(results: dict) -> str:
    """The base model; the demo model is always named."""
    if results["model"] == "demo":
        return "built-in demo model"
    return f"{results['model']} (made from the built-in demo model)" if results["demo_model"] else results["model"]


def adapter_in_words(results: dict) -> str:
    """Whose adapter it is."""
    folder = results["run"] or results["adapter"]
    return f"adapter of {folder}" if folder else "no adapter"


def _table(split: str, columns: dict[str, dict], results: dict) -> list[str]:
    """results: of the split; its "rules" and, if it is part of a split, "chosen"."""
    last = columns.get("after") or columns["value"]
    counts = last["counts"]
    users = (
        f"{counts['users']} users, {counts['users_in_uauc']} of them in UAUC" if counts["users"] else "users unknown"
    )
    unit = "users" if counts["users"] else "rows"
    rows = part_of_split(results["chosen"]) if results.get("chosen") else f"{counts['rows']:,} rows"
    lines = [f"{split} split: {rows}, {users}; 95 % intervals from resampling {unit}", ""]
    lines.append(" " * 36 + "".join(f"{key:>24}" for key in columns))
    for name, label in METRICS:
        if last.get(name) is not None:
            cells = (_cell(values, name, "+" if key == "change" else "") for key, values in columns.items())
            lines.append(f"{label:36}" + "".join(f"{cell:>24}" for cell in cells))
    lines += ["", f"{'without any learning':36}{'AUC':>24}{'UAUC':>24}"]
    for label, values in results["rules"].items():
        lines.append(f"{label:36}{_cell(values, 'auc'):>24}{_cell(values, 'uauc'):>24}")
    return lines


def _caution(results: dict) -> list[str]:
    if results["data_source"] != STAND_IN:
        return []
    return ["", "Simulated viewers: these figures show how the method works, and say nothing about MovieLens."]


def _cell(values: dict, name: str, sign: str = "") -> str:
    if values.get(name) is None:
        return "-"
    low, high = values["interval_95"][name]
    value, low, high = round(values[name], 3) + 0.0, round(low, 2) + 0.0, round(high, 2) + 0.0  # + 0.0: no "-0.00"
    return f"{value:{sign}.3f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def next_commands(run: Path, flags: TrainFlags) -> str:
    """What to try next, ready to be typed: runs that differ from this one in lambda or in the objective alone."""
    lines = ["", f"Written to {run}: results.json, predictions.csv, curves.png, adapter_model.safetensors", "", "Next:"]
    lines.append(f"  {verb_as_typed('eval.py')} --run {shlex.quote(str(run))} --split valid")
    if flags.kl_weight > 0:
        lines += ["  # the control: both prompts, no KL", f"  {train_command(flags, kl_weight=0.0)}"]
    for name, objective in OBJECTIVES.items():
        if name != flags.objective:
            # A run without the KL says nothing about lambda.
            weight = {} if flags.kl_weight else {"kl_weight": TrainFlags.kl_weight}
            lines += [f"  # {objective.about}", f"  {train_command(flags, objective=name, **weight)}"]
    return "\n".join(lines)
