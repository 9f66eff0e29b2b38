"""The report of audit.py as one self-contained HTML page."""

from html import escape

from report.audit_text import READING_LABELS, check_summary, heading, reading_rows
from report.tables import STAND_IN

PAGE_HEADING = "<h1>One pair, every term of the loss</h1>"  # by which a page is known as one of these
# How a vocabulary marks a space and a line break, and what stands for it here; "": the space itself.
SENTENCEPIECE = {"▁": "", "<0x0A>": "↵"}
BYTE_LEVEL = {"Ġ": "", "Ċ": "↵"}
LONGEST_STYLE = 2**16  # bytes; the heading stands within them
CLASS_BAD = ' class="bad"'
STYLE = """
:root { color-scheme: light dark; --page: #fdfdfc; --text: #1d1f21; --faint: #6b7075; --line: #d9dbde;
  --heat: 214, 69, 20; --own: #3b6fb6; --shared: #c4772a; --good: #1d7f3c; --bad: #c01c28; --badpage: #fbe4e5; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --text: #e4e6e8; --faint: #9aa0a6; --line: #3a3e43;
  --heat: 255, 122, 66; --own: #7fb0f0; --shared: #eba45c; --good: #6fd08c; --bad: #ff7b82; --badpage: #44191d; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .note { color: var(--faint); font-size: .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .15rem .5rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--line); font-weight: 600; }
th:first-child, td:first-child, .text { text-align: left; } td.text { font-family: ui-monospace, monospace; }
.scroll { overflow-x: auto; } .side { display: flex; flex-wrap: wrap; gap: 0 1.5rem; } .side table { font-size: .8rem; }
.strip { font: 13px/1.9 ui-monospace, monospace; overflow-wrap: anywhere; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem .7rem; margin: .3rem 0; }
.strip span { white-space: pre-wrap; }
.strip span { border-radius: 3px; padding: 1px 0; margin-right: 1px; border-bottom: 1px solid var(--line); }
.strip .changed { outline: 2px solid var(--own); } .strip .answer { font-weight: 700; }
.ok { color: var(--good); } .bad { color: var(--bad); font-weight: 700; } tr.bad td { background: var(--badpage); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
"""


def audit_page(report: dict) -> str:
    """The complete page; all text from data and models is escaped."""
    title, *rest = heading(report)
    report = _in_words(report)
    caution = "<p><strong>Simulated viewers or the demo model: these figures show only how the loss works.</strong></p>"
    parts = [
        f"{PAGE_HEADING}<p>{escape(title)}</p>",
        *(f'<p class="note">{escape(line)}</p>' for line in rest),
        caution if report["data_source"] == STAND_IN or report["demo_model"] else "",
        _verdict(report),
        "<h2>Both rows, token by token</h2>",
        '<p class="note">Outlined: the rows differ here. Bold: the answer. Background: the share of the KL at the '
        "position that <em>predicts</em> this token: in X⁺ Y⁺ the KL of <code>released</code>, in X⁻ Y⁻ the KL of the "
        "paper (own). ↵ is a line break. Point at a token to see its figures.</p>",
        _strips(report),
        "<h2>The KL along the row</h2>",
        _plot(report),
        "<h2>Answer tokens</h2>",
        _answer_table(report),
        "<h2>The vocabulary entries that make up the KL</h2>",
        '<p class="note">a(v) [log a(v) − log b(v)]; a, b are p, q for the paper and q, p for released. '
        "A dot stands for the space in front of a word.</p>",
        _vocabulary(report),
        "<h2>L of this pair alone, and its gradients over all LoRA parameters</h2>",
        _readings(report),
        '<p class="note">paper: CE⁺ + CE⁻ summed over the answer tokens, and KL(p ‖ q). released: CE⁺ only, the mean '
        "over all tokens of the row, and KL(q ‖ p) summed over all positions, q detached. L subtracts the KL, so a "
        "cosine above 0 means that the two terms pull in opposite directions.</p>",
        _parts(report),
        "<h2>Checks</h2>",
        _checks(report),
    ]
    page_title = f"LCFT audit: row {report['sample']} of {escape(report['data'])} {report['split']}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{page_title}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _in_words(report: dict) -> dict:
    """The report with pieces as a person reads them: a space in the rows, a dot in tables, for the mark of a space."""
    rows = report["rows"]
    starts = [token["piece"][:1] for row in rows.values() for token in row]
    marks = BYTE_LEVEL if starts.count("Ġ") > starts.count("▁") else SENTENCEPIECE  # each is a letter to the other

    def shown(token: dict, space: str) -> dict:
        piece = token["piece"]
        for mark, text in marks.items():
            piece = piece.replace(mark, text or space)
        return token | {"piece": piece}

    in_tables = [
        row
        | {name: shown(row[name], "·") for name in ("target_pos", "target_neg")}
        | {"top": {name: [shown(entry, "·") for entry in entries] for name, entries in row["top"].items()}}
        for row in report["answer_tokens"]
    ]
    in_rows = {side: [shown(token, " ") for token in row] for side, row in rows.items()}
    return report | {"rows": in_rows, "answer_tokens": in_tables}


def _verdict(report: dict) -> str:
    if report["ok"]:
        return '<p class="ok">All checks agree.</p>'
    return '<p class="bad">Some checks DISAGREE: see below.</p>'


def _strips(report: dict) -> str:
    """Both rows; the colour of a token shows the share of the KL at the position before it, which predicts it."""
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


WIDTH, HEIGHT = 1000, 190  # of the plot, in units of its view box
LEFT, RIGHT, BASE, TALLEST = 52, 990, 160, 140  # the ends of the axis, its height above the top edge, the longest bar
KEY = (
    ("rgb(var(--heat))", "released, every position"),
    ("var(--own)", "paper, own"),
    ("var(--shared)", "paper, shared"),
)


def _plot(report: dict) -> str:
    """Bars: the KL of released at every position and, at the answer, the paper's KL (own and shared) beside it."""
    rows = report["rows"]["positive"]
    n_prompt = sum(not token["answer"] for token in rows)
    step = (RIGHT - LEFT) / len(report["released"]["kl"])  # width of a position
    marks = _bars(report, n_prompt, step)
    for i, token in enumerate(rows):
        if token["changed"] and not token["answer"]:
            marks.append(_below(f"{LEFT + step * i:.1f}", escape(token["piece"])))
    marks.append(_below(f"{LEFT + step * n_prompt:.1f}", "answer"))
    marks.append(f'<text x="{LEFT}" y="{BASE + 28}">position in X⁺ Y⁺; nats</text>')
    legend = " ".join(f'<span style="color:{color}">■</span> {name} &nbsp;' for color, name in KEY)
    image = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="KL at every position">{"".join(marks)}</svg>'
    return f'<p class="note">{legend}</p>{image}'


def _bars(report: dict, n_prompt: int, step: float) -> list[str]:
    """The axis, two lines that give the scale, and the bars, as SVG elements."""
    kl = report["released"]["kl"]
    answers = {n_prompt - 1 + i: row for i, row in enumerate(report["answer_tokens"])}
    top = max([*kl, *(row[name] for row in answers.values() for name in ("kl_own", "kl_shared")), 1e-12])
    marks = [f'<line x1="{LEFT}" y1="{BASE}" x2="{RIGHT}" y2="{BASE}" stroke="var(--line)"/>']
    for share in (0.5, 1.0):
        y = BASE - TALLEST * share
        dashes = 'stroke="var(--line)" stroke-dasharray="2 4"'
        marks.append(f'<line x1="{LEFT}" y1="{y}" x2="{RIGHT}" y2="{y}" {dashes}/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{top * share:.2g}</text>')
    for i, nats in enumerate(kl):
        values = [nats, answers[i]["kl_own"], answers[i]["kl_shared"]] if i in answers else [nats]
        for j, (value, (fill, _)) in enumerate(zip(values, KEY)):
            tall = TALLEST * max(value, 0.0) / top
            x, width = LEFT + step * (i + j / len(values)), max(step / len(values) - 0.3, 0.6)
            place = f'x="{x:.2f}" y="{BASE - tall:.2f}" width="{width:.2f}" height="{tall:.2f}"'
            marks.append(f'<rect {place} fill="{fill}"/>')
    return marks


def _below(x: str, text: str) -> str:
    """A label under the axis; text: escaped."""
    return f'<text x="{x}" y="{BASE + 14}" text-anchor="middle">{text}</text>'


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
        ["", *(READING_LABELS.get(name, name) for name in report["readings"])],
        [[label, *cells] for label, cells in reading_rows(report)],
    )


def _parts(report: dict) -> str:
    total = sum(part["kl"] for part in report["released"]["parts"]) or 1.0
    rows = [
        [part["part"], str(part["positions"]), f"{part['kl']:.4f}", f"{part['kl'] / total:.1%}"]
        for part in report["released"]["parts"]
    ]
    return "<p>The positions that the KL of <code>released</code> comes from</p>" + _table(
        ["", "positions", "KL, nats", "share"], rows
    )


def _checks(report: dict) -> str:
    values, gradients = report["value_checks"], report["gradient_checks"]
    value_rows = [
        [
            check["what"],
            *("-" if check[name] is None else f"{check[name]:.9g}" for name in ("float64", "float32", "naive")),
        ]
        for check in values
    ]
    numbers = ("autograd", "central_difference", "trained")
    gradient_rows = [
        [check["entry"], check["what"], *(f"{check[name]:.8e}" for name in numbers)] for check in gradients
    ]
    return "".join(
        [
            *(f"<p>{escape(line)}</p>" for line in check_summary(report)),
            _table(["value", "loss.py, float64", "loss.py, float32", "nested loops"], value_rows, _failed(values)),
            _table(
                ["gradient of", "term", "autograd, float64", "central difference", "as trained"],
                gradient_rows,
                _failed(gradients),
            ),
        ]
    )


def _failed(checks: list[dict]) -> set[int]:
    """Indices of the checks that disagree."""
    return {i for i, check in enumerate(checks) if not check["ok"]}


def _named(token: dict) -> str:
    return f"{token['piece']} {token['id']}"


def _table(head: list[str], rows: list[list[str]], bad: set[int] = frozenset()) -> str:
    """A table of escaped cells. bad: indices of the rows that are shown in red."""
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    lines += [
        f"<tr{CLASS_BAD if i in bad else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for i, row in enumerate(rows)
    ]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'
