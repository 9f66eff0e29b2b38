"""What compare.py shows of several runs on the same rows, within 80 columns."""

import string

from data.sources.stand_in import STAND_IN
from objectives.by_name import OBJECTIVES, flags_of
from report.cells import ANSWERS, constant_rows, interval_cell, no_interval
from report.tables import METRICS
from report.wrap import wrapped

CHOSEN = "a part of the split: a seeded subset, or without what is too long"
PER_BLOCK = 2  # columns with intervals that fit beside the labels
BASE = ("model", "demo_model", "model_label")
OF_BASELINE = ("method", "setting", "bert")
KNOWN = ("data", "data_source", *BASE, "objective", "kl_weight", "shots", "seed", "run", "adapter", *OF_BASELINE)
NO_ANSWERS = "-: a recommender with one score per row answers no question"


def about(results: dict) -> dict:
    """What results.json of a run or of eval.py says of the model and the rows; {} for each value that is no plain one.

    Returns {"about": {name: value}, "chosen": the subset of rows or None}.
    """
    known = {name: results[name] for name in KNOWN if isinstance(results.get(name), str | int | float)}
    plain = {name: value for name, value in known.items() if str(value).isprintable()}
    test = results.get("test")
    chosen = (test if isinstance(test, dict) else results).get("chosen")
    return {"about": plain, "chosen": chosen if isinstance(chosen, dict) else None}


def comparison_text(results: dict) -> str:
    """A sentence per run for a person, then every table. results: of compare.py."""
    runs, differences = results["runs"], results["differences"]
    names = _letters(len(runs))
    lines = [line for name, run in zip(names[1:], differences) for line in wrapped(_sentence(name, run))]
    lines += [""] + [line for name, run in zip(names, runs) for line in wrapped(f"{name}  {_described(run)}", "   ")]
    lines += ["", *_rows_line(runs[0])]
    shown = [(key, label) for key, label in METRICS if any(run.get(key) is not None for run in runs)]
    lines += _blocks(shown, dict(zip(names, runs)), "")
    changes = {f"{name} - A": change for name, change in zip(names[1:], differences)}
    lines += _blocks(shown, changes, "+")
    if any(run.get("contradiction_rate") is not None for run in runs):
        lines += ["", *_answers_table(names, runs, results["constants"])]
    lines += _bundles(dict(zip(names, runs)) | changes)
    lines += no_interval(lines, _unit(runs[0]))
    if any(change["mcnemar"] for change in differences):
        lines += ["", *_mcnemar_table(names, differences)]
    for name, change in zip(names[1:], differences):
        lines += _disagreements(name, change["rows"])
    if any(run["about"].get("data_source") == STAND_IN for run in runs):
        lines += ["", *wrapped("Simulated viewers: these figures show how the method works, and say nothing else.")]
    return "\n".join(lines)


def _letters(count: int) -> list[str]:
    letters = string.ascii_uppercase
    return [letters[i] if i < 26 else f"{letters[i // 26 - 1]}{letters[i % 26]}" for i in range(count)]


def _sentence(name: str, change: dict) -> str:
    parts = []
    for key, what, more, less, alike in (
        ("auc", "ranks", "better", "worse", "about as well"),
        ("contradiction_rate", "contradicts itself", "more often", "less often", "about as often"),
        ("group_accuracy", "answers both questions right", "more often", "less often", "about as often"),
    ):
        if change.get(key) is not None:
            low, high = change["interval_95"][key]
            verdict = (more if change[key] > 0 else less) if low > 0 or high < 0 else alike
            parts.append(f"{what} {verdict} ({change[key]:+.3f})")
    nothing = "nothing can be compared, since no measure is defined on these rows"
    return f"{name} against A: {', '.join(parts) or nothing}."


def _described(run: dict) -> str:
    """A run in words; what its results.json does not say is left out."""
    known = run["about"]
    data = "SIMULATED stand-in data" if known.get("data_source") == STAND_IN else known.get("data_source")
    model = "built-in demo model" if known.get("demo_model") is True else known.get("model")
    model = f"{known['model_label']} ({model})" if "model_label" in known else model
    source = f" ({data})" if data else ""
    parts = [f"{known['data']}{source}" if "data" in known else "data unknown", model, known.get("answered_by")]
    if "objective" in known:
        weighs = known["objective"] in OBJECTIVES and "kl_weight" in flags_of(known["objective"])
        parts.append(f"objective {known['objective']}" + (f", lambda {known.get('kl_weight')}" if weighs else ""))
        parts.append(f"{known.get('shots')} shots, seed {known.get('seed')}")
    elif "method" in known:
        parts += [f"{known['method']}, setting {known.get('setting')}"]
        parts += [f"titles read by a {known['bert']}"] if "bert" in known else []
        parts.append(f"{known.get('shots')} shots, seed {known.get('seed')}")
    elif adapter := known.get("run") or known.get("adapter"):
        parts.append(f"adapter of {adapter}")
    return f"{run['run']}: {'; '.join(str(part) for part in parts if part)}"


def _rows_line(run: dict) -> list[str]:
    counts, chosen = run["counts"], run["chosen"]
    whole = f" of {chosen['of']:,} ({CHOSEN})" if chosen and type(chosen.get("of")) is int else ""
    unit = f"{counts['users']:,} users" if counts["users"] else "users unknown"
    return wrapped(f"{counts['rows']:,} rows{whole}, {unit}; 95 % intervals from resampling {_unit(run)}")


def _unit(run: dict) -> str:
    return "users" if run["counts"]["users"] else "rows"


def _blocks(shown: list[tuple[str, str]], columns: dict[str, dict], sign: str) -> list[str]:
    """The metrics as rows, two columns at a time."""
    names, lines = list(columns), []
    for start in range(0, len(names), PER_BLOCK):
        block = names[start : start + PER_BLOCK]
        lines += ["", " " * 28 + "".join(f"{name:>25}" for name in block)]
        for key, label in shown:
            lines.append(f"{label:28}" + "".join(f"{interval_cell(columns[name], key, sign):>25}" for name in block))
    return lines


def _answers_table(names: list[str], runs: list[dict], constants: dict[str, dict]) -> list[str]:
    """Contradictions beside what is right, and beside constants: the same answers, whoever is asked."""
    rows = [("", "contradiction rate", "both answers right")]
    rows += [(name, *(interval_cell(run, key) for key in ANSWERS)) for name, run in zip(names, runs)]
    rows += [("whoever is asked:", "", ""), *constant_rows(constants)]
    lines = [f"{label:32}{first:>24}{second:>24}".rstrip() for label, first, second in rows]
    return lines + [NO_ANSWERS] * any(values.get("contradiction_rate") is None for values in runs)


def _bundles(columns: dict[str, dict]) -> list[str]:
    """All wordings of a consistency.json at once: of each run that was asked more than two, and of differences."""
    found = {name: values["bundle"] for name, values in columns.items() if values.get("bundle")}
    if not found:
        return []
    heads = ("all right", "all of one mind", "less a constant's")
    lines = ["", "all wordings" + f"{heads[0]:>20}" + "".join(f"{head:>24}" for head in heads[1:])]
    for name, bundle in found.items():
        sign = "+" if " - " in name else ""
        cells = [interval_cell(bundle, key, sign) for key in ("all_right", "all_consistent", "informative_all_right")]
        lines.append(f"{name:8}" + "".join(f"{cell:>24}" for cell in cells))
    return lines


def _mcnemar_table(names: list[str], differences: list[dict]) -> list[str]:
    lines = [f"{'McNemar, exact':28}{'only A':>10}{'only other':>12}{'p':>12}"]
    for name, change in zip(names[1:], differences):
        for key, label in zip(ANSWERS, ("contradicts itself", "both right")):
            found = change["mcnemar"].get(key)
            if found is None:
                lines.append(f"{f'{name}: {label}':28}{'-':>10}{'-':>12}{'-':>12}")
                continue
            p = f"{found['p']:.3g}" if found["p"] else "< 1e-300"
            lines.append(f"{f'{name}: {label}':28}{found['only_before']:10,}{found['only_after']:12,}{p:>12}")
    return lines


def _disagreements(name: str, rows: list[dict]) -> list[str]:
    if not rows:
        return []
    lines = ["", f"Rows on which A and {name} disagree most; P(Yes) to like / dislike", ""]
    lines.append(f"{'row':>8} {'user':>14} {'item':>20} {'liked':>5}{'A':>15}{name:>15}")
    for row in rows:
        user, item = _short(str(row["user"] or "-"), 14), _short(row["item"], 20)
        answers = "".join(f"{'{:.3f} {:.3f}'.format(*row[side]):>15}" for side in ("first", "second"))
        lines.append(f"{row['row']:8} {user:>14} {item:>20} {'yes' if row['label'] else 'no':>5}{answers}")
    return lines


def _short(text: str, width: int) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= width else plain[: width - 1] + "…"
