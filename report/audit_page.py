"""The report of audit.py as one HTML page that needs nothing from anywhere else."""

from html import escape

from report.audit_text import READING_LABELS, check_summary, heading, reading_rows
from report.tables import STAND_IN

CLASS_BAD = ' class="bad"'
STYLE = """
:root { color-scheme: light dark; --page: #fdfdfc; --text: #1d1f21; --faint: #6b7075; --line: #d9dbde; --heat: 214, 69, 20;
  --own: #3b6fb6; --shared: #c4772a; --good: #1d7f3c; --bad: #c01c28; --badpage: #fbe4e5; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --text: #e4e6e8; --faint: #9aa0a6; --line: #3a3e43; --heat: 255, 122, 66;
  --own: #7fb0f0; --shared: #eba45c; --good: #6fd08c; --bad: #ff7b82; --badpage: #44191d; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .note { color: var(--faint); font-size: .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .15rem .5rem; text-align: right; white-space: nowrap; } th { border-bottom: 1px solid var(--line); font-weight: 600; }
th:first-child, td:first-child, .text { text-align: left; } td.text { font-family: ui-monospace, monospace; }
.scroll { overflow-x: auto; } .side { display: flex; flex-wrap: wrap; gap: 0 1.5rem; } .side table { font-size: .8rem; }
.strip { font: 13px/1.9 ui-monospace, monospace; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .7rem; margin: .3rem 0; }
.strip span { border-radius: 3px; padding: 1px 0; margin-right: 1px; border-bottom: 1px solid var(--line); }
.strip .changed { outline: 2px solid var(--own); } .strip .answer { font-weight: 700; }
.ok { color: var(--good); } .bad { color: var(--bad); font-weight: 700; } tr.bad td { background: var(--badpage); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
"""


def audit_page(report: dict) -> str:
    """The page, complete; every text from outside is escaped."""
    title, *rest = heading(report)
    caution = "<p><strong>Simulated viewers and the demo model: these figures show how the loss works, and nothing else.</strong></p>"
    parts = [
        f"<h1>One pair, every term of the loss</h1><p>{escape(title)}</p>",
        *(f'<p class="note">{escape(line)}</p>' for line in rest),
        caution if report["data_source"] == STAND_IN or report["demo_model"] else "",
        _verdict(report),
        "<h2>Both rows, token by token</h2>",
        '<p class="note">Outlined: where the rows differ. Bold: the answer. Background: the share of the KL that <em>predicting</em> this token has. '
        "In X⁺ Y⁺ of the KL of <code>released</code>, in X⁻ Y⁻ of the paper's KL, own. Point at a token for its figures.</p>",
        _strips(report),
        "<h2>The KL along the row</h2>",
        _plot(report),
        "<h2>Answer tokens</h2>",
        _answer_table(report),
        "<h2>The vocabulary entries that make up the KL</h2>",
        '<p class="note">a(v) [log a(v) − log b(v)]; a, b are p, q for the paper and q, p for released.</p>',
        _vocabulary(report),
        "<h2>L of this pair alone, and its gradients over all LoRA parameters</h2>",
        _readings(report),
        '<p class="note">paper: CE⁺ + CE⁻ summed over answer tokens, KL(p ‖ q). released: CE⁺ alone, mean over all tokens of the row; '
        "KL(q ‖ p) summed over all positions, q detached. L subtracts the KL: a cosine above 0 means that the two terms are at odds.</p>",
        _parts(report),
        "<h2>Checks</h2>",
        _checks(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>LCFT audit: row {report['sample']} of {escape(report['data'])} {report['split']}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _verdict(report: dict) -> str:
    return (
        '<p class="ok">All checks agree.</p>' if report["ok"] else '<p class="bad">Some checks DISAGREE: see below.</p>'
    )


def _strips(report: dict) -> str:
    """Both rows; a token's colour is the share of the KL at the position before it, where it is predicted."""
    released = [0.0, *report["released"]["kl"][:-1]]
    n_prompt = sum(not token["answer"] for token in report["rows"]["negative"])
    own = [0.0] * n_prompt + [row["kl_own"] for row in report["answer_tokens"]]
    return "".join(
        f'<p>{label}, {len(report["rows"][side])} tokens</p><div class="strip">{_strip(report["rows"][side], kl)}</div>'
        for label, side, kl in (("X⁺ Y⁺", "positive", released), ("X⁻ Y⁻", "negative", own))
    )


def _strip(row: list[dict], kl: list[float]) -> str:
    largest = max(max(kl), 1e-12)
    total = max(sum(kl), 1e-12)
    spans = []
    for token, nats in zip(row, kl):
        names = " ".join(name for name in ("changed", "answer") if token[name])
        style = f"background:rgba(var(--heat),{0.85 * nats / largest:.3f})" if nats > 0 else ""
        tip = f"id {token['id']}; KL {nats:.3g} nats, {nats / total:.1%}"
        spans.append(f'<span class="{names}" style="{style}" title="{escape(tip)}">{escape(token["piece"])}</span>')
        if token["ends_line"]:
            spans.append("<br>")
    return "".join(spans)


def _plot(report: dict) -> str:
    """Bars of the released KL at every position, with the paper's own and shared KL beside it at the answer."""
    kl, rows = report["released"]["kl"], report["rows"]["positive"]
    n_prompt = sum(not token["answer"] for token in rows)
    answers = {n_prompt - 1 + i: row for i, row in enumerate(report["answer_tokens"])}
    top = max([*kl, *(row[name] for row in answers.values() for name in ("kl_own", "kl_shared")), 1e-12])
    width, height, left, base = 1000, 190, 52, 160
    step = (width - left - 10) / len(kl)
    marks = [f'<line x1="{left}" y1="{base}" x2="{width - 10}" y2="{base}" stroke="var(--line)"/>']
    for share in (0.5, 1.0):
        y = base - 140 * share
        marks.append(
            f'<line x1="{left}" y1="{y}" x2="{width - 10}" y2="{y}" stroke="var(--line)" stroke-dasharray="2 4"/>'
        )
        marks.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{top * share:.2g}</text>')
    for i, nats in enumerate(kl):
        bars = [(nats, "rgb(var(--heat))")]
        if i in answers:
            bars += [(answers[i]["kl_own"], "var(--own)"), (answers[i]["kl_shared"], "var(--shared)")]
        for j, (value, fill) in enumerate(bars):
            tall = 140 * max(value, 0.0) / top
            x = left + step * (i + j / len(bars))
            marks.append(
                f'<rect x="{x:.2f}" y="{base - tall:.2f}" width="{max(step / len(bars) - 0.3, 0.6):.2f}" height="{tall:.2f}" fill="{fill}"/>'
            )
    for i, token in enumerate(rows):
        if token["changed"] and not token["answer"]:
            marks.append(
                f'<text x="{left + step * i:.1f}" y="{base + 14}" text-anchor="middle">{escape(token["piece"])}</text>'
            )
    marks.append(f'<text x="{left + step * n_prompt:.1f}" y="{base + 14}" text-anchor="middle">answer</text>')
    marks.append(f'<text x="{left}" y="{base + 28}">position in X⁺ Y⁺; nats</text>')
    key = (
        ("rgb(var(--heat))", "released, every position"),
        ("var(--own)", "paper, own"),
        ("var(--shared)", "paper, shared"),
    )
    legend = " ".join(f'<span style="color:{color}">■</span> {name} &nbsp;' for color, name in key)
    return f'<p class="note">{legend}</p><svg viewBox="0 0 {width} {height}" role="img" aria-label="KL at every position">{"".join(marks)}</svg>'


def _answer_table(report: dict) -> str:
    columns = {
        "log p(Y⁺)": "log_p_pos",
        "log q(Y⁺), own": "log_q_pos_own",
        "log q(Y⁺), shared": "log_q_pos_shared",
        "CE⁺": "ce_pos",
        "log q(Y⁻)": "log_q_neg",
        "CE⁻": "ce_neg",
        "KL own": "kl_own",
        "KL shared": "kl_shared",
        "KL released": "kl_released",
    }
    rows = [
        [
            str(row["t"]),
            _named(row["target_pos"]),
            _named(row["target_neg"]),
            *(f"{row[name]:.4f}" for name in columns.values()),
        ]
        for row in report["answer_tokens"]
    ]
    summed = {"ce_pos", "ce_neg", "kl_own", "kl_shared", "kl_released"}
    sums = (
        f"{sum(row[name] for row in report['answer_tokens']):.4f}" if name in summed else ""
        for name in columns.values()
    )
    return _table(["t", "Y⁺", "Y⁻", *columns], [*rows, ["sum", "", "", *sums]])


def _vocabulary(report: dict) -> str:
    tables = []
    for row in report["answer_tokens"]:
        for name, entries in row["top"].items():
            title = f"t = {row['t']}, {name}: {row['kl_' + name]:.4f}"
            cells = [[_named(e), f"{e['a']:.3g}", f"{e['b']:.3g}", f"{e['nats']:.3g}"] for e in entries]
            tables.append(f"<div><p>{title}</p>{_table(['piece', 'a', 'b', 'nats'], cells)}</div>")
    n = len(report["answer_tokens"][0]["top"])
    return "".join(f'<div class="side">{"".join(tables[i : i + n])}</div>' for i in range(0, len(tables), n))


def _readings(report: dict) -> str:
    return _table(
        ["", *(READING_LABELS[name] for name in report["readings"])],
        [[label, *cells] for label, cells in reading_rows(report)],
    )


def _parts(report: dict) -> str:
    total = sum(part["kl"] for part in report["released"]["parts"]) or 1.0
    rows = [
        [part["part"], str(part["positions"]), f"{part['kl']:.4f}", f"{part['kl'] / total:.1%}"]
        for part in report["released"]["parts"]
    ]
    return "<p>Where the KL of <code>released</code> comes from</p>" + _table(
        ["", "positions", "KL, nats", "share"], rows
    )


def _checks(report: dict) -> str:
    summary = "".join(f"<p>{escape(line)}</p>" for line in check_summary(report))
    bad = {check["what"] for check in report["value_checks"] if not check["ok"]}
    values = [
        [
            check["what"],
            *("-" if check[name] is None else f"{check[name]:.9g}" for name in ("float64", "float32", "naive")),
        ]
        for check in report["value_checks"]
    ]
    grads = [
        [
            check["entry"],
            check["what"],
            *(f"{check[name]:.8e}" for name in ("autograd", "central_difference", "trained")),
        ]
        for check in report["gradient_checks"]
    ]
    bad_grads = {i for i, check in enumerate(report["gradient_checks"]) if not check["ok"]}
    return (
        summary
        + _table(
            ["value", "loss.py, float64", "loss.py, float32", "nested loops"],
            values,
            {i for i, row in enumerate(values) if row[0] in bad},
        )
        + _table(["gradient of", "term", "autograd, float64", "central difference", "as trained"], grads, bad_grads)
    )


def _named(token: dict) -> str:
    return f"{token['piece']} {token['id']}"


def _table(head: list[str], rows: list[list[str]], bad: set[int] = frozenset()) -> str:
    """bad: rows that are shown in red."""
    lines = (
        f"<tr{CLASS_BAD if i in bad else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for i, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><tr>{"".join(f"<th>{escape(name)}</th>" for name in head)}</tr>{"".join(lines)}</table></div>'
