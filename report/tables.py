"""Plain-text tables of results, each saying on which data and model it was measured."""

import shlex
from pathlib import Path

from cli.train import TrainFlags
from cli.typed import train_command, verb_as_typed
from data.sources.stand_in import STAND_IN
from objectives.by_name import OBJECTIVES, flags_of
from report.cells import best_constant, column_cell, constant_rows, interval_cell, no_interval, number
from report.selection import selection_table
from report.wrap import wrapped

CAUTION = "Simulated viewers: these figures show how the method works, and say nothing about MovieLens."
METRICS = (  # (name in results.json, label)
    ("auc", "AUC, positive prompt"),
    ("uauc", "UAUC, positive prompt"),
    ("auc_negative", "AUC, negative prompt"),
    ("auc_combined", "AUC, both (z+ - z-)"),
    ("contradiction_rate", "contradiction rate"),
    ("yes_yes", "  Yes to both"),
    ("no_no", "  No to both"),
    ("group_accuracy", "both answers right"),
    ("informative_consistency", "informative consistency"),
    ("arbitrage", "arbitrage, nats"),
    ("ece", "calibration error (ECE)"),
    ("kl", "KL at the answer, nats"),
)


LABELS = dict(METRICS)


def provenance(results: dict) -> str:
    """Data and base model in a few words; simulated data and the demo model are always named."""
    return f"{data_in_words(results['data'], results['data_source'])}, {model_in_words(results)}"


def data_in_words(name: str, source: str) -> str:
    """A data set in a few words; simulated data are always named."""
    return f"{name} ({'SIMULATED stand-in data' if source == STAND_IN else source})"


def tuning(results: dict) -> str:
    """Objective, lambda, shots and seed of a training run in a few words."""
    weight = f" with lambda {results['kl_weight']:g}" if "kl_weight" in flags_of(results["objective"]) else ""
    part = results.get("valid", {}).get("chosen")
    chosen = f", best state chosen on {part_of_split(part, 'validation rows')}" if part else ""
    if results.get("select", "auc") != "auc":
        chosen += f", by {results['select']}" if chosen else f", best state chosen by {results['select']}"
    ours = " (our design: no code of it is public)" if results["objective"] == "lcft-colmf" else ""
    text = f"objective {results['objective']}{ours}{weight}, {results['shots']} shots, seed {results['seed']}{chosen}"
    return text + "".join(f"; {words}" for words in (prompts_in_words(results), probability_in_words(results)) if words)


def prompts_in_words(results: dict) -> str:
    """What stands in the prompts beside tokens; "" if nothing does."""
    if method := results.get("collaborative"):
        table = ", trained too" if results["trained_table"] else ""
        return f"vectors of {method} in the prompts{table}, tuning {results['tuning']}"
    return f"six learnt vectors in the prompts, {results['soft_prompt']} start" if results.get("soft_prompt") else ""


def examples_in_words(results: dict) -> str:
    """The worked examples of in-context learning; "" without."""
    return f"{results['examples']} examples, seed {results['examples_seed']}" if "examples" in results else ""


def probability_in_words(results: dict) -> str:
    """Which probability of Yes the figures use, where it is not that of softmax over both answers."""
    return "P(Yes) is the sigmoid of its logit" if results.get("probability") == "sigmoid" else ""


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
    head = [*wrapped(change_in_words(results, split)), "", *wrapped(f"{provenance(results)}; {tuning(results)}")]
    return "\n".join(
        ["", *head, *metrics_table(split, columns, results[split]), *selection_table(results), *caution(results)]
    )


def score_table(results: dict) -> str:
    """The metrics of eval.py with 95 % intervals over users; below, the rows without learning."""
    words = (provenance, adapter_in_words, examples_in_words, probability_in_words)
    subject = "; ".join(filter(None, (part(results) for part in words)))
    head = [*wrapped(score_in_words(results)), "", *wrapped(subject)]
    tables = metrics_table(results["split"], {"value": results}, results) + prior_lines(results.get("prior_corrected"))
    return "\n".join(["", *head, *tables, *caution(results)])


def prior_lines(corrected: dict | None) -> list[str]:
    """How the answers change if the base's inclination, its mean log-odds on validation rows, is taken away."""
    if corrected is None:
        return []
    means = corrected["mean_log_odds"]
    lines = [
        "",
        *wrapped(
            f'less the mean log-odds of Yes on validation rows, {means["z_pos"]:+.2f} to "like" and '
            f'{means["z_neg"]:+.2f} to "dislike":'
        ),
    ]
    names = ("accuracy", "contradiction_rate", "group_accuracy", "ece")
    return lines + [f"{LABELS.get(name, name):36}{interval_cell(corrected, name):>24}" for name in names]


def change_in_words(results: dict, split: str) -> str:
    """What a run reached, in one sentence."""
    before, after = results[split]["before"], results[split]["after"]
    if results["best_step"] == 0:
        select = results.get("select", "auc")
        base = number(results["best_valid_auc"])
        if select != "auc":
            base = f"{select} {number(results['selection'][select]['valid'][select])}"
        return f"No validation beat the untuned base ({base}): the adapter of this run is the one it started from."
    if after["auc"] is None:
        return "Fine-tuning ended; the rows have one label only, so nothing can be ranked."
    change = after["auc"] - before["auc"]
    text = f"Fine-tuning {'raised' if change > 0 else 'lowered'} the AUC"
    text += f" from {number(before['auc'])} to {number(after['auc'])}"
    if change == 0:
        text = f"Fine-tuning did not change the AUC of {number(after['auc'])}"
    text += best_rule(results[split]["rules"]) + "."
    if after.get("contradiction_rate") is None:
        return text
    shares = [f"{values[n]:.1%}" for n in ("contradiction_rate", "group_accuracy") for values in (after, before)]
    return text + (
        f" The model contradicts itself on {shares[0]} of the rows (before: {shares[1]}), and answers both questions "
        f"right on {shares[2]} (before: {shares[3]}; a constant: {best_constant(results[split]['constants']):.1%})."
    )


def best_rule(rules: dict[str, dict]) -> str:
    """The best rule without learning, in brackets, to stand behind the AUC of a model; nothing without rules."""
    ranked = {name: values["auc"] for name, values in rules.items() if values["auc"] is not None}
    if not ranked:
        return ""
    name = max(ranked, key=ranked.__getitem__)
    return f" (the best rule without learning, {name}: {number(ranked[name])})"


def score_in_words(results: dict) -> str:
    """What eval.py found, in one sentence."""
    ranks = "The rows have one label only, so nothing can be ranked"
    if results["auc"] is not None:
        ranks = f"The model ranks with an AUC of {number(results['auc'])}{best_rule(results['rules'])}"
    if results.get("contradiction_rate") is None:
        return ranks + "."
    return (
        f"{ranks}; it contradicts itself on {results['contradiction_rate']:.1%} of the rows, "
        f"and answers both questions right on {results['group_accuracy']:.1%} "
        f"(a constant: {best_constant(results['constants']):.1%})."
    )


def wording_table(rows: list[dict]) -> str:
    """How answers to other wordings agree with those to "will like"; a model that merely reacts to any
    change of words fails the last rows.
    """
    cells = [interval_cell(row, name) for row in rows for name in ("inconsistent_rate", "auc")]
    lines = ["", f"{'the user ... the target':26}{'right is':>10}{'inconsistent':>22}{'AUC of this wording':>22}"]
    for row, inconsistent, auc in zip(rows, cells[::2], cells[1::2]):
        right = "the same" if row["same_answer_is_right"] else "opposite"
        lines.append(f"{row['asks'] + ' *' * row['trained_on']:26}{right:>10}{inconsistent:>22}{auc:>22}")
    return "\n".join([*lines, "* asked in training", *no_interval(cells)])


def model_in_words(results: dict) -> str:
    """The base model, with its label if it has one; the demo model is always named."""
    if results["model"] == "demo":
        return "built-in demo model"
    if results["demo_model"]:
        return f"{results['model']} (made from the built-in demo model)"
    return f"{results['model_label']} ({results['model']})" if results.get("model_label") else results["model"]


def adapter_in_words(results: dict) -> str:
    """Whose adapter it is."""
    folder = results["run"] or results["adapter"]
    return f"adapter of {folder}" if folder else "no adapter"


def metrics_table(split: str, columns: dict[str, dict], results: dict) -> list[str]:
    """METRICS by column, then what needs no learning.

    results: of the split; its "rules", its "constants" and, if it is part of a split, "chosen".
    """
    last = columns.get("after") or columns["value"]
    counts = last["counts"]
    users = (
        f"{counts['users']} users, {counts['users_in_uauc']} of them in UAUC" if counts["users"] else "users unknown"
    )
    unit = "users" if counts["users"] else "rows"
    rows = part_of_split(results["chosen"]) if results.get("chosen") else f"{counts['rows']:,} rows"
    lines = wrapped(f"{split} split: {rows}, {users}; 95 % intervals in [ ], from resampling {unit}")
    cells = {name: {key: column_cell(values, name, key) for key, values in columns.items()} for name, _ in METRICS}
    widths = {"before": 8, "after": 24, "change": 24, "value": 24}
    label_width = 24 if "change" in columns else 36
    lines += ["", " " * label_width + "".join(f"{key:>{widths[key]}}" for key in columns)]
    for name, label in METRICS:
        if last.get(name) is not None:
            lines.append(f"{label:{label_width}}" + "".join(f"{cells[name][key]:>{widths[key]}}" for key in columns))
    without = [("without any learning", "AUC", "UAUC")]
    without += [(rule, *(interval_cell(of, key) for key in ("auc", "uauc"))) for rule, of in results["rules"].items()]
    if last.get("contradiction_rate") is not None:
        without += [("", "", ""), ("whoever is asked", "contradiction rate", "both answers right")]
        without += constant_rows(results["constants"])
    lines += ["", *(f"{label:36}{first:>22}{second:>22}".rstrip() for label, first, second in without)]
    shown = [cell for row in cells.values() for cell in row.values()] + [cell for row in without for cell in row]
    return lines + no_interval(shown, unit)


def caution(results: dict) -> list[str]:
    """The line that says that data are simulated, if they are."""
    if results["data_source"] != STAND_IN:
        return []
    return ["", *wrapped(CAUTION)]


def next_commands(run: Path, flags: TrainFlags) -> str:
    """What to try next, ready to be typed: runs that differ from this one in lambda or in the objective alone."""
    written = "report.html, results.json, predictions.csv, curves.png, adapter_model.safetensors"
    lines = ["", f"Written to {run}: {written}", "", "Next:"]
    lines.append(f"  {verb_as_typed('eval.py')} --run {shlex.quote(str(run))} --split valid")
    lines.append("  # type titles that you like, and see both answers before and after tuning")
    lines.append(f"  {verb_as_typed('predict.py')} --run {shlex.quote(str(run))} --interactive")
    if flags.kl_weight > 0 and "kl_weight" in flags_of(flags.objective):
        lines += ["  # the control: both prompts, no KL", f"  {train_command(flags, kl_weight=0.0)}"]
    # A run without the KL says nothing about lambda, nor does one with another term in its place.
    known = flags.kl_weight and OBJECTIVES[flags.objective].published
    changes = {} if known else {"kl_weight": TrainFlags.kl_weight, "kl_cap": TrainFlags.kl_cap}
    for name, objective in OBJECTIVES.items():
        soft = flags.collaborative or flags.soft_prompt != "none"
        if name != flags.objective and objective.published and not (soft and name == "released"):
            lines += [f"  # {objective.about}", f"  {train_command(flags, objective=name, **changes)}"]
    lines += ["  # other terms in the place of the KL: docs/method.md, --objective js, jeffreys, ..."]
    return "\n".join(lines)
