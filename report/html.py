"""The frame of every page that is written: one file without outside resources, light and dark, desktop and phone."""

import re
from html import escape

STYLE = """
:root { color-scheme: light dark; --page: #fdfdfc; --text: #1d1f21; --faint: #63686e; --line: #dcdee1; --card: #f4f5f4;
  --blue: #2f6fb2; --orange: #c4671b; --green: #1d7f3c; --violet: #7a4fb0; --red: #c01c28; --grey: #8a8f95;
  --badpage: #fbe4e5; --heat: 214, 69, 20; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --text: #e4e6e8; --faint: #a3a9af; --line: #3a3e43;
  --card: #1f2226; --blue: #7fb0f0; --orange: #f0a45c; --green: #6fd08c; --violet: #bc9ef2; --red: #ff7b82;
  --grey: #8f959b; --badpage: #44191d; --heat: 255, 122, 66; } }
* { box-sizing: border-box; }
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .2rem; } p { margin: .35rem 0; max-width: 46rem; }
.lead { font-size: 1.1rem; } .note { color: var(--faint); font-size: .9rem; }
.caution { border-left: 4px solid var(--orange); padding: .3rem .7rem; background: var(--card); font-weight: 600; }
table { border-collapse: collapse; overflow-wrap: normal; font-size: .92rem;
  margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; text-align: right; vertical-align: top; }
th { border-bottom: 1px solid var(--line); font-weight: 600; } tr + tr td { border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 5.5rem; }
td small { display: block; color: var(--faint); white-space: nowrap; }
.scroll { overflow-x: auto; } .words td, .words th { text-align: left; overflow-wrap: anywhere; }
.tight td, .tight th { white-space: nowrap; }
.ok { color: var(--green); } .bad { color: var(--red); font-weight: 700; } tr.bad td { background: var(--badpage); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1.4rem 2rem; }
figure { margin: 0; min-width: 0; max-width: 32rem; } figcaption { color: var(--faint); font-size: .88rem; }
.key { display: inline-block; margin-right: .9rem; font-size: .88rem; }
.key i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; background: var(--c);
  margin-right: .3em; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--faint); stroke-width: 1; }
svg .curve { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
svg .dots { fill: none; stroke: var(--c); stroke-linecap: round; } svg .bar { fill: var(--c); }
svg .dashed { stroke-dasharray: 4 4; } svg .tint { fill: var(--c); opacity: .09; }
svg .big { fill: var(--text); font-size: 13px; font-weight: 600; paint-order: stroke; stroke: var(--page);
  stroke-width: 4px; stroke-linejoin: round; }
.blue { --c: var(--blue); } .orange { --c: var(--orange); } .green { --c: var(--green); }
.violet { --c: var(--violet); }
.red { --c: var(--red); } .grey { --c: var(--grey); } .heat { --c: rgb(var(--heat)); }
code, pre { font: .85rem/1.5 ui-monospace, monospace; } pre { background: var(--card); border-radius: 6px;
  padding: .6rem .8rem; margin: .4rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); } details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .5rem 0; } mark { background: rgba(var(--heat), .25); color: inherit; }
@media (max-width: 30rem) { body { padding: 0 .8rem; } table { font-size: .86rem; } th, td { padding: .25rem .25rem; }
  td small { font-size: .68rem; } }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 0 1rem; }
"""
CLASS_BAD = ' class="bad"'


def page(title: str, heading: str, parts: list[str], style: str = "") -> str:
    """The whole page. title: plain text; heading, parts: HTML, whose text is escaped; style: further rules."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(part for part in [heading, *parts] if part)
        + "\n</body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph. kind: lead, note, caution, ok or bad."""
    return f"<p{f' class={kind!r}' if kind else ''}>{escape(text)}</p>"


def table(head: list[str], rows: list[list[str]], kind: str = "", bad: frozenset[int] | set[int] = frozenset()) -> str:
    """A table of plain text; an interval goes below its value. bad: indices of the rows that are shown in red.

    kind: `words` for text on the left in every column, `tight` for cells of one line each.
    """
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"] if any(head) else []
    lines += [
        f"<tr{CLASS_BAD if i in bad else ''}>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>"
        for i, row in enumerate(rows)
    ]
    return f'<div class="scroll"><table{f" class={kind!r}" if kind else ""}>{"".join(lines)}</table></div>'


def _cell(text: str) -> str:
    """A mean, its deviation, its interval and the p of a difference below each other; any other text as it is."""
    found = re.fullmatch(r"([+-]?[\d.]+)(?: (± [\d.]+))? (\[[-+\d., ]+\])(?:, (p [\d.]+))?", text)
    if not found:
        return escape(text)
    value, *below = filter(None, found.groups())
    return f"{value} " + "".join(f"<small>{part}</small>" for part in below)


def clipped(text: str, most: int) -> str:
    """At most about `most` letters of a text: what is longer loses its middle, and says so."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} letters left out … {text[-half:]}"
