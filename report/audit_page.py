"""The report of audit.py as one self-contained HTML page."""

import math
from html import escape

from report.audit_text import READING_LABELS, check_summary, compact, differentiated, heading, reading_rows, verdict
from report.charts import Area, bar, chart, curve, figure, label
from report.html import page, paragraph, table
from report.tables import STAND_IN

PAGE_HEADING = "<h1>One pair, every term of the loss</h1>"  # by which a page is known as one of these
# How a vocabulary marks a space and a line break, and what stands for it here; "": the space itself.
SENTENCEPIECE = {"▁": "", "<0x0A>": "↵"}
BYTE_LEVEL = {"Ġ": "", "Ċ": "↵"}
LONGEST_STYLE = 2**16  # bytes; the heading stands within them
ZERO = 5e-5  # what four decimals show as zero
STYLE = """
.strip { font: 13px/1.9 ui-monospace, monospace; overflow-wrap: anywhere; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem .7rem; margin: .3rem 0; }
.strip span { white-space: pre-wrap; border-radius: 3px; padding: 1px 0; margin-right: 1px;
  border-bottom: 1px solid var(--line); }
.strip .changed { outline: 2px solid var(--blue); } .strip .answer { font-weight: 700; }
figure { max-width: none; } .narrow { display: none; }
@media (max-width: 46rem) { .wide { display: none; } .narrow { display: block; } }
.entries { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 0 1.5rem; }
"""
WORDS = {  # in the order in which the page uses them
    "X⁺, X⁻": "the prompts: “will like?” and “will dislike?”",
    "Y⁺, Y⁻": "the right answers to them, which are opposite; t counts their tokens",
    "p, q": "what the model predicts after X⁺ and after X⁻, over the whole vocabulary",
    "CE": "cross-entropy, Eq. 1: minus the log-probability of the right token. Training makes it small",
    "KL": "the distance of p and q, Eq. 2. Training makes it large, with the weight λ (lambda)",
    "L": "the loss, Eq. 3: CE less λ KL",
    "own": "each prompt is continued with its own answer: the default",
    "shared": "both prompts are continued with Y⁺, as Eq. 2 is written",
    "first": "the KL of the first answer token alone",
    "released": "what the authors' published code computes: the KL of every position, prompt included",
    "nats": "natural logarithms",
    "nested loops": "the second computation, in float64, which shares no code with loss.py",
    "central difference": "(L(w + h) − L(w − h)) / 2h, for one weight w: the gradient without any calculus",
    "as trained": "the gradient in the precision of training",
}


def audit_page(report: dict) -> str:
    """The complete page; all text from data and models is escaped."""
    title, *rest = heading(report)
    report = _in_words(report)
    caution = "Simulated viewers or the demo model: these figures show only how the loss works."
    parts = [
        f'<p class="lead {"ok" if report["ok"] else "bad"}">{escape(verdict(report))}</p>',
        paragraph(_finding(report), "lead"),
        paragraph(title),
        *(paragraph(line, "note") for line in rest),
        paragraph(caution, "caution") if report["data_source"] == STAND_IN or report["demo_model"] else "",
        '<p class="note"><a href="#words">What the words mean</a></p>',
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
        "A dot stands for the space in front of a word. What is below 0.0001 nats is left out.</p>",
        _vocabulary(report),
        f"<h2>L of this pair alone, and its gradients over {differentiated(report)}</h2>",
        _readings(report),
        '<p class="note">paper: CE⁺ + CE⁻ summed over the answer tokens, and KL(p ‖ q). released: CE⁺ only, the mean '
        "over all tokens of the row, and KL(q ‖ p) summed over all positions, q detached. L subtracts the KL, so a "
        "cosine above 0 means that the two terms pull in opposite directions.</p>",
        _parts(report),
        "<h2>Checks</h2>",
        _checks(report),
        '<h2 id="words">What the words mean</h2>',
        table(["", ""], [[word, meaning] for word, meaning in WORDS.items()], "words"),
    ]
    name = f"LCFT audit: row {report['sample']} of {report['data']} {report['split']}"
    return page(name, PAGE_HEADING, parts, STYLE)


def _finding(report: dict) -> str:
    """Where the KL of this pair comes from, in one sentence."""
    own, first = report["readings"]["own"]["kl"], report["answer_tokens"][0]["kl_own"]
    parts = report["released"]["parts"]
    total = sum(part["kl"] for part in parts)
    answer = sum(part["kl"] for part in parts if part["part"] == "answer tokens")
    if own < ZERO or total < ZERO:
        return "The two prompts get the same predictions here, so there is no KL to speak of."
    return (
        f"The KL of Eq. 2 is {compact(own)} nats, {first / own:.0%} of it at the first answer token. The published "
        f"KL is {compact(total)} nats, {answer / total:.0%} of it at the answer."
    )


def _in_words(report: dict) -> dict:
    """The report with pieces as a person reads them: a space in the rows, a dot in tables, for the mark of a space."""
    rows = report["rows"]
    starts = [token["piece"][:1] for row in rows.values() for token in row]
    marks = BYTE_LEVEL if starts.count("Ġ") > starts.count("▁") else SENTENCEPIECE  # each is a letter to the other

    def shown(token: dict, space: str) -> dict:
        if "text" in token and marks is BYTE_LEVEL:  # its "Ġ" is a letter
            return token | {"piece": token["text"].replace(" ", space).replace("\n", "↵")}
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


KEYS = {"heat": "released, every position", "blue": "paper, own", "orange": "paper, shared"}
SIZES = {"wide": (1000, 210), "narrow": (380, 240)}  # a desktop's chart and a phone's, in units of the view box


def _plot(report: dict) -> str:
    """Bars: the KL of released at every position and, at the answer, the paper's KL (own and shared) beside it."""
    kl = report["released"]["kl"]
    paper = [row[name] for row in report["answer_tokens"] for name in ("kl_own", "kl_shared")]
    top = max(value for value in [*kl, *paper, 1e-12] if math.isfinite(value))
    plots = []
    for kind, size in SIZES.items():
        area = Area((0, len(kl)), (0, 1.25 * top), *size)  # above the bars is room for names
        image = chart(area, [*_bars(report, area), *_named_places(report, area)], "KL", "position in X⁺ Y⁺", "nats")
        plots.append(f'<div class="{kind}">{figure("KL at every position", KEYS, image)}</div>')
    return "".join(plots)


def _bars(report: dict, area: Area) -> list[str]:
    n_prompt = sum(not token["answer"] for token in report["rows"]["positive"])
    answers = {n_prompt - 1 + i: row for i, row in enumerate(report["answer_tokens"])}
    marks = []
    for i, nats in enumerate(report["released"]["kl"]):
        values = [nats, answers[i]["kl_own"], answers[i]["kl_shared"]] if i in answers else [nats]
        share = 1 / len(values)
        marks += [
            bar(area, i + j * share, 0.9 * share, max(nats, 0.0), kind)
            for j, (nats, kind) in enumerate(zip(values, KEYS))
            if 0 < nats < math.inf
        ]
    return marks


def _named_places(report: dict, area: Area) -> list[str]:
    """A line and a name where the rows differ and where the answer begins; names take turns so that none overlap."""
    rows = report["rows"]["positive"]
    places = [(i, token["piece"].strip()) for i, token in enumerate(rows) if token["changed"] and not token["answer"]]
    places.append((sum(not token["answer"] for token in rows), "answer"))
    marks, high = [], area.y[1]
    for turn, (i, name) in enumerate(places[-6:]):
        marks.append(curve(area, [(i, 0), (i, high)], "grey dashed"))
        marks.append(
            label(area, (i, high * (1 - 0.09 * (turn % 2))), [f"{name} "], "end" if i > len(rows) / 2 else "start")
        )
    return marks


def _answer_table(report: dict) -> str:
    """A column per answer token and one for the sum; quantities that are zero throughout are left out."""
    names = {
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
    tokens = report["answer_tokens"]
    rows = [[f"{side}, id"] + [_named(row[name]) for row in tokens] for side, name in SIDES.items()]
    for title, name in names.items():
        values = [row[name] for row in tokens]
        if not all(abs(value) < ZERO for value in values):
            total = "" if name.startswith("log") else _decimals(sum(values))
            rows.append([title, *map(_decimals, values), total])
    return table(["t", *(str(row["t"]) for row in tokens), "sum"], rows)


SIDES = {"Y⁺": "target_pos", "Y⁻": "target_neg"}


def _decimals(value: float) -> str:
    """Four decimals; a dash for what they would show as zero."""
    return "–" if abs(value) < ZERO else f"{value:.4f}"


def _vocabulary(report: dict) -> str:
    tables, empty = [], []
    for row in report["answer_tokens"]:
        for name, entries in row["top"].items():
            shown = [e for e in entries if not abs(e["nats"]) < 1e-4 and not abs(row["kl_" + name]) < ZERO]
            if not shown:
                empty.append(f"t = {row['t']}, {name}")
                continue
            cells = [[_named(entry), *(compact(entry[part]) for part in ("a", "b", "nats"))] for entry in shown]
            title = f"<h3>t = {row['t']}, {name}: {row['kl_' + name]:.4f}</h3>"
            tables.append(f"<div>{title}{table(['piece', 'a', 'b', 'nats'], cells, 'tight')}</div>")
    left_out = paragraph(f"Nothing to show for {'; '.join(empty)}.", "note") if empty else ""
    return f'<div class="entries">{"".join(tables)}</div>{left_out}'


def _readings(report: dict) -> str:
    return table(
        ["", *(READING_LABELS.get(name, name) for name in report["readings"])],
        [[label, *cells] for label, cells in reading_rows(report)],
    )


def _parts(report: dict) -> str:
    total = sum(part["kl"] for part in report["released"]["parts"]) or 1.0
    rows = [
        [part["part"], str(part["positions"]), f"{part['kl']:.4f}", f"{part['kl'] / total:.1%}"]
        for part in report["released"]["parts"]
        if not abs(part["kl"]) < ZERO
    ]
    title = "<h3>The positions that the KL of <code>released</code> comes from</h3>"
    return title + table(["", "positions", "KL, nats", "share"], rows)


def _checks(report: dict) -> str:
    """What was compared, in a line each; every value below, closed unless one disagrees."""
    values, gradients = report["value_checks"], report["gradient_checks"]
    value_rows = [
        [
            check["what"],
            *("–" if check[name] is None else f"{check[name]:.9g}" for name in ("float64", "float32", "naive")),
        ]
        for check in values
    ]
    numbers = ("autograd", "central_difference", "trained")
    nonzero = [check for check in gradients if any(check[name] for name in numbers) or not check["ok"]]
    gradient_rows = [
        [f"{check['entry']}: {check['what']}", *(f"{check[name]:.8e}" for name in numbers)] for check in nonzero
    ]
    zeros = len(gradients) - len(nonzero)
    opened = "" if report["ok"] else " open"
    return "".join(
        [
            *(paragraph(line) for line in check_summary(report)),
            f"<details{opened}><summary>Every value</summary>",
            table(
                ["value", "loss.py, float64", "loss.py, float32", "nested loops"], value_rows, "tight", _failed(values)
            ),
            f"</details><details{opened}><summary>Every gradient</summary>",
            table(
                ["gradient of", "autograd, float64", "central difference", "as trained"],
                gradient_rows,
                "tight",
                _failed(nonzero),
            ),
            paragraph(f"{zeros} gradients that are zero in every computation are left out.", "note") if zeros else "",
            "</details>",
        ]
    )


def _failed(checks: list[dict]) -> set[int]:
    """Indices of the checks that disagree."""
    return {i for i, check in enumerate(checks) if not check["ok"]}


def _named(token: dict) -> str:
    return f"{token['piece']} {token['id']}"
