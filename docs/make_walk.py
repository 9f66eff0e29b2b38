"""Write docs/walk/index.html, the reading path with its code beside equations and shapes: python -m docs.make_walk

The code is read from the files, so the page is as they are when it is made; a test says when it must be made again.
"""

import ast
import io
import textwrap
import tokenize
from html import escape
from pathlib import Path

from docs.walk.stations import STATIONS, Station
from files import write_text
from report.html import page, paragraph, table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "walk" / "index.html"
EXPLORER = "../explorer.html"  # as the texts of the stations name it
STYLE = """
body { max-width: 88rem; } .station { display: grid; gap: .3rem 1.4rem; padding: 1.2rem 0; margin-top: 1rem;
  grid-template-columns: minmax(16rem, 1fr) auto; border-top: 1px solid var(--line); }
.station > * { min-width: 0; } .station h2 { margin-top: 0; }
.station pre { margin: 0; align-self: start; white-space: pre; overflow-x: auto; padding: .6rem .5rem;
  font-size: clamp(.66rem, .9vw, .8rem); width: calc(120ch + 1rem); max-width: 100%; }
.station td:nth-child(2) { white-space: nowrap; } .station th { overflow-wrap: normal; }
.equation { font: italic 1.05rem/1.7 Georgia, serif; margin: .4rem 0; } .dim { color: var(--faint); }
.box { fill: var(--c, transparent); opacity: .22; stroke: var(--c, var(--line)); } ol { columns: 18rem; }
.station svg { max-width: 25rem; } svg .boxed { fill: var(--text); }
@media (max-width: 70rem) { .station { grid-template-columns: minmax(0, 1fr); } .station pre { font-size: .77rem; } }
"""
LEAD = (
    "One pair of prompts on its way from a row of ratings to a gradient: the code as it is, with what to see in it. P "
    "pairs, B rows, T tokens, A answer positions, V vocabulary, D hidden size, H heads of size Dh."
)
UNIT, TALL = 46, 30  # of the boxes of a picture


def code_of(station: Station) -> tuple[str, int]:
    """(source, number of its first line) of what the station shows. Raises KeyError if it is not there any more."""
    file, name = station.code.split(": ")
    source = (ROOT / file).read_text(encoding="utf-8")
    node = ast.parse(source)
    for part in name.split("."):
        node = {child.name: child for child in node.body if hasattr(child, "name")}[part]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(source.split("\n")[first - 1 : node.end_lineno])), first


def coloured(code: str) -> str:
    """The code as HTML, in which comments and docstrings step back."""
    lines = code.split("\n")
    dim = [
        (token.start, token.end)
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""'))
    ]
    parts, at = [], (1, 0)
    for start, end in [*dim, ((len(lines), len(lines[-1])),) * 2]:
        parts += [escape(between(lines, at, start)), f'<span class="dim">{escape(between(lines, start, end))}</span>']
        at = end
    return "".join(parts)


def between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from one place, (line from 1, column), to another."""
    (first, column), (last, to) = start, end
    if first == last:
        return lines[first - 1][column:to]
    return "\n".join([lines[first - 1][column:], *lines[first : last - 1], lines[last - 1][:to]])


def picture_of(station: Station) -> str:
    """Rows of boxes as SVG; nothing if the station has none."""
    if not station.picture:
        return ""
    widest = max(sum(width for _, width, _ in row) for row in station.picture)
    unit, marks = min(UNIT, 370 / widest), []
    for number, row in enumerate(station.picture):
        x, y = 2.0, 2 + number * (TALL + 4)
        for text, width, kind in row:
            if text or len(row) == len(station.picture[0]) and not kind and width == 1:
                place = f'x="{x:.1f}" y="{y}" width="{width * unit - 3:.1f}" height="{TALL}" rx="3"'
                marks.append(f'<rect class="box {kind}" {place}/>')
            middle = f'x="{x + (width * unit - 3) / 2:.1f}" y="{y + TALL / 2 + 4}"'
            marks.append(f'<text class="boxed" text-anchor="middle" {middle}>{escape(text)}</text>' if text else "")
            x += width * unit
    size = f"0 0 {widest * unit + 4:.0f} {len(station.picture) * (TALL + 4) + 2}"
    style = f'style="width:{widest * unit + 4:.0f}px;max-width:100%"'
    return f'<svg viewBox="{size}" {style} role="img" aria-label="{escape(station.title)}">{"".join(marks)}</svg>'


def section(number: int, station: Station) -> str:
    """One station: words on the left, code on the right."""
    file, name = station.code.split(": ")
    code, line = code_of(station)
    words = [
        f"<h2>{number}. {escape(station.title)}</h2>",
        f'<p class="note"><a href="../../{file}">{file}</a>, line {line}: {name}</p>',
        paragraph(station.text).replace(EXPLORER, f'<a href="{EXPLORER}">{EXPLORER}</a>'),
        *(f'<p class="equation">{escape(line)}</p>' for line in station.equation),
        table(["", "shape", ""], [list(row) for row in station.shapes], "words") if station.shapes else "",
        picture_of(station),
    ]
    return f'<div class="station" id="s{number}"><div>{"".join(words)}</div><pre>{coloured(code)}</pre></div>'


def walk_page() -> str:
    """The whole page."""
    numbered = list(enumerate(STATIONS, start=1))
    contents = "".join(f'<li><a href="#s{number}">{escape(station.title)}</a></li>' for number, station in numbered)
    parts = [paragraph(LEAD, "lead"), f"<ol>{contents}</ol>", *(section(*entry) for entry in numbered)]
    return page("LCFT from scratch: a walk through the code", "<h1>A walk through the code</h1>", parts, STYLE)


def main() -> None:
    """Write the page."""
    write_text(PAGE, walk_page())


if __name__ == "__main__":
    main()
