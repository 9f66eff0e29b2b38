"""The report of audit.py for a terminal."""

import textwrap

from report.tables import provenance
from report.wrap import WIDTH, wrapped

READING_LABELS = {"own": "paper, own", "shared": "paper, shared", "first": "paper, first", "released": "released"}
RED, GREEN, INVERSE, RESET = "\x1b[1;31m", "\x1b[32m", "\x1b[7m", "\x1b[0m"


def audit_text(report: dict, colour: bool) -> str:
    """The whole report, in lines of at most WIDTH characters, but for long names. colour: use ANSI escape sequences."""
    parts = (
        [verdict(report)],
        [line for text in heading(report) for line in wrapped(text)],
        prompts(report, colour),
        answer_table(report),
        vocabulary_tables(report),
        reading_table(report),
        released_table(report),
        check_lines(report, colour),
    )
    return "\n".join(line for part in parts for line in ["", *part])


def verdict(report: dict) -> str:
    """Whether all checks agree, in one sentence."""
    checks = report["value_checks"] + report["gradient_checks"]
    if failed := sum(not check["ok"] for check in checks):
        return f"{failed} of {len(checks)} values DISAGREE with their second computation."
    return f"All {len(checks)} values of this pair equal those of a second computation."


def heading(report: dict) -> list[str]:
    """What is audited, and under which settings."""
    tuned = "no adapter given: a fresh one; its B is zero, so A has no gradient yet"
    if report["adapter"]:
        tuned = f"adapter of {report['adapter']}"
    user = "" if report["user"] is None else f"user {report['user']}, "
    precision = report["precision"] + (" and int8" if report["base_dtype"] == "int8" else "")
    label = "liked" if report["label"] else "not liked"
    return [
        f"{provenance(report)}; {tuned}",
        f'Row {report["sample"]} of {report["split"]}: {user}target "{report["target"]}", {label}',
        f"Template {report['template']}; base in {precision}, dropout off; "
        f"lambda {report['kl_weight']:g}; everything in nats",
        *_trained_with(report),
    ]


def _trained_with(report: dict) -> list[str]:
    """Which loss the run was trained with, and which column shows it; [] without a run."""
    if not (trained := report["contrast"]):
        return _trained_with_a_kl(report)
    if "main_loss" in trained:
        return [_main_loss(trained)]
    margin = f" with a margin of {trained['margin']:g}" if trained["name"] == "margin" else ""
    return [
        f"Trained with --objective {trained['name']}{margin}: L = CE+ + CE- + lambda times its term, which is "
        f"{trained['term']:.6f}; the log-odds of Y+ against Y- at the first answer token are {trained['z_pos']:+.4f} "
        f"after X+ and {trained['z_neg']:+.4f} after X-"
    ]


def _trained_with_a_kl(report: dict) -> list[str]:
    """Of an objective whose L stands in a column, or which is the cross-entropy of X+ alone."""
    if not (flags := report["trained"]):
        return []
    said = f"Trained with --objective {flags['objective']}"
    if flags["objective"] == "tallrec":
        alone = f"CE+ of the answer alone, {sum(row['ce_pos'] for row in report['answer_tokens']):.6f}"
        whole = f'the CE of the column "released", {report["readings"]["released"]["ce"]:.6f}'
        return [f"{said}: L = {whole if flags.get('train_on_prompt') else alone}"]
    if flags["objective"] == "released":
        return [f'{said}: the column "{READING_LABELS["released"]}"']
    column = "first" if flags.get("kl_tokens") == "first" else flags["kl_forcing"]
    line = f'{said}: the column "{READING_LABELS[column]}"'
    if (cap := flags.get("kl_cap")) is not None:
        above = report["readings"][column]["kl"] > cap
        line += f"; its KL is {'' if above else 'not '}above --kl-cap {cap:g}"
        line += ": in training such a KL sends no gradient, though the column has one" * above
    return [line]


def _main_loss(trained: dict) -> str:
    """CoLLM's loss, and what it looks at."""
    z = "the logit of Yes" if trained["main_loss"] == "bce-yes" else "the logit of Yes less that of No"
    sides = "X+ alone" if trained["sides"] == 1 else "X+ and X-, less lambda KL"
    return (
        f"Trained with --objective {trained['name']}: L = the binary cross-entropy of z for {sides}; z is {z} at the "
        f"first answer token, {trained['z_pos']:+.4f} after X+ and {trained['z_neg']:+.4f} after X-"
    )


def prompts(report: dict, colour: bool) -> list[str]:
    """Both rows token by token, separated by |; tokens that differ stand in [ ]."""
    lines = []
    for label, side in (("X+ Y+", "positive"), ("X- Y-", "negative")):
        row = report["rows"][side]
        lines.append(f"{label}  {len(row)} tokens, separated by |; [differs between the rows]; ==> the answer")
        shown, text = [], ""
        for i, token in enumerate(row):
            if token["answer"] and not row[i - 1]["answer"]:
                text += "==> "
            text += f"[{token['piece']}]" if token["changed"] else token["piece"] + "| "
            if token["ends_line"]:
                shown, text = shown + [text], ""
        for line in [*shown, text]:
            lines += textwrap.wrap(
                line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            ) or [line]
    if colour:
        lines = [
            line.replace("[", f"{INVERSE}[").replace("]", f"]{RESET}") if line.startswith("  ") else line
            for line in lines
        ]
    ids = " and ".join(
        ", ".join(f"{t['piece']} = {t['id']}" for t in _answer(report, side)) for side in ("positive", "negative")
    )
    return [*lines, *wrapped(f"The answers, tokenised after these prompts: {ids}")]


def answer_table(report: dict) -> list[str]:
    """Eq. 1 and Eq. 2: one line per answer token, and the sums."""
    logs = {
        "log_p_pos": ("log p(Y+)", ""),
        "log_q_pos_own": ("log q(Y+)", "own"),
        "log_q_pos_shared": ("log q(Y+)", "shared"),
        "log_q_neg": ("log q(Y-)", ""),
    }
    terms = {"ce_pos": ("CE+", ""), "ce_neg": ("CE-", ""), "kl_own": ("KL", "own"), "kl_shared": ("KL", "shared")}
    total = "".join(f"{sum(row[name] for row in report['answer_tokens']):>11.4f}" for name in terms)
    return [
        *wrapped("Answer tokens: p = P(.|X+, Y+ before), q own = P(.|X-, Y- before), q shared = P(.|X-, Y+ before)"),
        *_token_lines(report, logs),
        "",
        *_token_lines(report, terms),
        f"  sum{'':20}{total}",
    ]


def _token_lines(report: dict, columns: dict[str, tuple[str, str]]) -> list[str]:
    """A line per answer token. columns: {name: both lines of its heading}."""
    lines = ["  t  Y+        Y-       " + "".join(f"{name:>11}" for name, _ in columns.values())]
    lines.append((" " * 24 + "".join(f"{under:>11}" for _, under in columns.values())).rstrip())
    for row in report["answer_tokens"]:
        cells = "".join(f"{row[name]:>11.4f}" for name in columns)
        lines.append(f"  {row['t']}  {row['target_pos']['piece'][:8]:10}{row['target_neg']['piece'][:8]:9}{cells}")
    return lines


def vocabulary_tables(report: dict) -> list[str]:
    """The vocabulary entries that contribute most to the KL of each answer token, for own, shared and released."""
    lines = [
        "The vocabulary entries that make up the KL: a(v) [log a(v) - log b(v)];",
        "a, b = p, q (paper) or q, p (released)",
    ]
    for row in report["answer_tokens"]:
        for name, entries in row["top"].items():
            title = f"t = {row['t']}, {name}: {row['kl_' + name]:.4f}"
            lines.append(f"  {title:36}{'a':>10}{'b':>10}{'nats':>10}")
            lines += [
                f"    {e['piece'][:32]:34}{compact(e['a']):>10}{compact(e['b']):>10}{compact(e['nats']):>10}"
                for e in entries
            ]
    return lines


def reading_rows(report: dict) -> list[tuple[str, list[str]]]:
    """(label, one cell per reading): L, its parts and its gradients."""
    kl, loss = ("KL or term", "L") if "term" in (report["contrast"] or {}) else ("KL", "L = CE - lambda KL")
    rows = (
        ("CE", "ce", ".6f"),
        (kl, "kl", ".6f"),
        (f"lambda {kl}", "weighted_kl", ".3e"),
        (loss, "loss", ".6f"),
        ("L by nested loops", "loss_naive", ".6f"),
        ("|gradient of CE|", "grad_ce", ".3e"),
        ("|gradient of lambda KL|", "grad_weighted_kl", ".3e"),
        ("cosine of the two", "cosine", "+.3f"),
    )
    readings = report["readings"].values()
    return [
        (label, ["-" if values[name] is None else f"{values[name]:{form}}" for values in readings])
        for label, name, form in rows
    ]


def differentiated(report: dict) -> str:
    """What the gradients are taken of."""
    return "all parameters of LoRA and of the vectors" if report["vectors"] else "all LoRA parameters"


def reading_table(report: dict) -> list[str]:
    """L under every reading, in columns."""
    lines = [f"L of this pair alone, and its gradients over {differentiated(report)}"]
    trained = report["contrast"] and report["contrast"]["name"]
    # Four columns fit; at the first answer token, that of another term, `shared` is `own`.
    shown = [i for i, name in enumerate(report["readings"]) if not (trained and name == "shared")]
    names = [READING_LABELS.get(name, name) for name in report["readings"]]
    for label, cells in [("", names), *reading_rows(report)]:
        lines.append(f"{label:24}" + "".join(f"{cells[i]:>14}" for i in shown))
    term = "term" in (report["contrast"] or {})
    return [
        *lines,
        *([f"  {trained}: CE+ + CE- as in paper, plus lambda times its term."] if term else []),
        "  paper: CE+ + CE- summed over the answer tokens, and KL(p || q).",
        "  released: CE+ only, the mean over all tokens of the row, and KL(q || p) summed",
        "  over positions, q detached. L subtracts the KL, so a cosine above 0 means that",
        "  the two terms pull in opposite directions.",
    ]


def released_table(report: dict) -> list[str]:
    """The positions that the KL of the published code comes from."""
    parts = report["released"]["parts"]
    total = sum(part["kl"] for part in parts)
    return [
        "The positions that the KL of released comes from",
        f"  {'':42}{'positions':>11}{'KL':>11}{'share':>9}",
        *(
            f"  {part['part']:42}{part['positions']:>11}{part['kl']:>11.4f}{_share(part['kl'], total):>9.1%}"
            for part in parts
        ),
    ]


def check_summary(report: dict) -> list[str]:
    """For each kind of check: what is compared, how many agree, the largest difference and the allowed one."""
    within, lines = report["tolerance"], []
    for checks, what, reference, columns in (
        (
            report["value_checks"],
            "Values: loss.py against nested loops in float64",
            "naive",
            ("float64", "float32"),
        ),
        (
            report["gradient_checks"],
            "Gradients: autograd through loss.py against central differences of the nested loops, both float64",
            "autograd",
            ("central_difference", "trained"),
        ),
    ):
        failed = sum(not check["ok"] for check in checks)
        lines.append(f"{what}: {f'{failed} of {len(checks)} DISAGREE' if failed else f'all {len(checks)} agree'}")
        for column in columns:
            worst = max(abs(check[column] - check[reference]) for check in checks if check[column] is not None)
            lines.append(f"  {column.replace('_', ' ')}: largest difference {worst:.1e}; allowed {within[column]}")
    return lines


def check_lines(report: dict, colour: bool) -> list[str]:
    """The summary, every value that disagrees, and every gradient."""
    lines = []
    for line in check_summary(report):
        colour_of_line = (RED if "DISAGREE" in line else GREEN) if "agree" in line.lower() else ""
        lines += [_paint(part, colour_of_line, colour and bool(colour_of_line)) for part in wrapped(line)]
    for check in report["value_checks"]:
        if not check["ok"]:
            values = ", ".join(
                f"{name} {check[name]:.9g}" for name in ("float64", "float32", "naive") if check[name] is not None
            )
            lines.append(_paint(f"  {check['what']}: {values}  DISAGREES", RED, colour))
    lines.append(f"  {'':24}{'autograd':>17}{'difference':>17}{'as trained':>17}")
    entry = None
    for check in report["gradient_checks"]:
        if check["entry"] != entry:
            entry = check["entry"]
            lines.append(f"  {entry}")
        numbers = "".join(f"{check[name]:>17.8e}" for name in ("autograd", "central_difference", "trained"))
        line = f"    {check['what']:22}{numbers}"
        lines.append(line if check["ok"] else _paint(line + "  DISAGREES", RED, colour))
    return lines


def _paint(text: str, escape: str, colour: bool) -> str:
    return f"{escape}{text}{RESET}" if colour else text


def compact(value: float) -> str:
    """Four decimals, or one digit with an exponent where those would all be zero."""
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def _answer(report: dict, side: str) -> list[dict]:
    return [token for token in report["rows"][side] if token["answer"]]


def _share(part: float, total: float) -> float:
    return part / total if total else 0.0
