"""The report of audit.py for a terminal."""

import textwrap

from report.tables import provenance

READING_LABELS = {"own": "paper, own", "shared": "paper, shared", "first": "paper, first", "released": "released"}
WIDTH = 110
RED, GREEN, INVERSE, RESET = "\x1b[1;31m", "\x1b[32m", "\x1b[7m", "\x1b[0m"


def audit_text(report: dict, colour: bool) -> str:
    """The whole report, in lines of about WIDTH characters. colour: use ANSI escape sequences."""
    parts = (
        heading(report),
        prompts(report, colour),
        answer_table(report),
        vocabulary_tables(report),
        reading_table(report),
        released_table(report),
        check_lines(report, colour),
    )
    return "\n".join(line for part in parts for line in ["", *part])


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
    ]


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
            text += f"[{token['piece']}]" if token["changed"] else token["piece"] + "|"
            if token["ends_line"]:
                shown, text = shown + [text], ""
        for line in [*shown, text]:
            lines += textwrap.wrap(
                line.replace("|", "| "), WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            ) or [line]
    if colour:
        lines = [
            line.replace("[", f"{INVERSE}[").replace("]", f"]{RESET}") if line.startswith("  ") else line
            for line in lines
        ]
    ids = " and ".join(
        ", ".join(f"{t['piece']} = {t['id']}" for t in _answer(report, side)) for side in ("positive", "negative")
    )
    return [*lines, f"The answers, tokenised after these prompts: {ids}"]


def answer_table(report: dict) -> list[str]:
    """Eq. 1 and Eq. 2: one line per answer token, and the sums."""
    columns = ("log_p_pos", "log_q_pos_own", "log_q_pos_shared", "ce_pos", "log_q_neg", "ce_neg", "kl_own", "kl_shared")
    names = ("log p(Y+)", "log q(Y+)", "log q(Y+)", "CE+", "log q(Y-)", "CE-", "KL", "KL")
    under = ("", "own", "shared", "", "", "", "own", "shared")
    lines = [
        "Answer tokens: p = P(.|X+, Y+ before), q own = P(.|X-, Y- before), q shared = P(.|X-, Y+ before)",
        "  t  Y+        Y-       " + "".join(f"{name:>11}" for name in names),
        " " * 25 + "".join(f"{name:>11}" for name in under),
    ]
    for row in report["answer_tokens"]:
        cells = "".join(f"{row[name]:>11.4f}" for name in columns)
        lines.append(f"  {row['t']}  {row['target_pos']['piece'][:8]:10}{row['target_neg']['piece'][:8]:9}{cells}")
    sums = ("", "", "", "ce_pos", "", "ce_neg", "kl_own", "kl_shared")
    total = "".join(
        f"{sum(row[name] for row in report['answer_tokens']):>11.4f}" if name else " " * 11 for name in sums
    )
    return [*lines, f"  sum{'':20}{total}"]


def vocabulary_tables(report: dict) -> list[str]:
    """The vocabulary entries that contribute most to the KL of each answer token, for own, shared and released."""
    lines = [
        "The vocabulary entries that make up the KL: a(v) [log a(v) - log b(v)]; a, b = p, q (paper) or q, p (released)"
    ]
    for row in report["answer_tokens"]:
        titles = (f"t = {row['t']}, {name}: {row['kl_' + name]:.4f}" for name in row["top"])
        lines.append("  " + "".join(f"{title:36}" for title in titles))
        lines.append("  " + f"{'piece':11}{'a':>8}{'b':>8}{'nats':>8} " * len(row["top"]))
        for entries in zip(*row["top"].values()):
            cells = (
                f"{e['piece'][:10]:11}{_compact(e['a']):>8}{_compact(e['b']):>8}{_compact(e['nats']):>8} "
                for e in entries
            )
            lines.append("  " + "".join(cells))
    return lines


def reading_rows(report: dict) -> list[tuple[str, list[str]]]:
    """(label, one cell per reading): L, its parts and its gradients."""
    rows = (
        ("CE", "ce", ".6f"),
        ("KL", "kl", ".6f"),
        ("lambda KL", "weighted_kl", ".3e"),
        ("L = CE - lambda KL", "loss", ".6f"),
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


def reading_table(report: dict) -> list[str]:
    """L under every reading, in columns."""
    lines = ["L of this pair alone, and its gradients over all LoRA parameters"]
    lines.append(f"{'':26}" + "".join(f"{READING_LABELS[name]:>16}" for name in report["readings"]))
    lines += [f"  {label:24}" + "".join(f"{cell:>16}" for cell in cells) for label, cells in reading_rows(report)]
    return [
        *lines,
        "  paper: CE+ + CE- summed over the answer tokens, and KL(p || q).",
        "  released: CE+ only, the mean over all tokens of the row, and KL(q || p) summed over positions, q detached.",
        "  L subtracts the KL, so a cosine above 0 means that the two terms pull in opposite directions.",
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
            "Values: loss.py against nested loops over Python floats",
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
    lines = [
        _paint(line, RED if "DISAGREE" in line else GREEN, colour) if "agree" in line.lower() else line
        for line in check_summary(report)
    ]
    for check in report["value_checks"]:
        if not check["ok"]:
            values = ", ".join(
                f"{name} {check[name]:.9g}" for name in ("float64", "float32", "naive") if check[name] is not None
            )
            lines.append(_paint(f"  {check['what']}: {values}  DISAGREES", RED, colour))
    lines.append(f"  {'':40}{'autograd':>17}{'difference':>17}{'as trained':>17}")
    entry = None
    for check in report["gradient_checks"]:
        if check["entry"] != entry:
            entry = check["entry"]
            lines.append(f"  {entry}")
        numbers = "".join(f"{check[name]:>17.8e}" for name in ("autograd", "central_difference", "trained"))
        line = f"    {check['what']:38}{numbers}"
        lines.append(line if check["ok"] else _paint(line + "  DISAGREES", RED, colour))
    return lines


def _paint(text: str, escape: str, colour: bool) -> str:
    return f"{escape}{text}{RESET}" if colour else text


def _compact(value: float) -> str:
    """Four decimals, or one digit with an exponent where those would all be zero."""
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def _answer(report: dict, side: str) -> list[dict]:
    return [token for token in report["rows"][side] if token["answer"]]


def _share(part: float, total: float) -> float:
    return part / total if total else 0.0
