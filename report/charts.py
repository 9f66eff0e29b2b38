"""Charts as inline SVG: no script, no picture file, the colours of the page. A phone shows about a unit per pixel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, SQUARE = 380, 240, 380  # of a chart, and both sides of a square one
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40  # margins around the area of the data
ROW, LONGEST_LABEL = 40, 43  # of a forest plot: height of a line; letters beside which nothing fits
MOST = 400  # points of a curve; more cannot be seen
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Area:
    """Where the data are drawn: the range of each axis, in the units of the data, and the size of the whole chart."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = WIDTH
    height: int = HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point in the chart."""
        (low_x, high_x), (low_y, high_y) = self.x, self.y
        across, up = (x - low_x) / (high_x - low_x), (y - low_y) / (high_y - low_y)
        return (
            LEFT + across * (self.width - LEFT - RIGHT),
            self.height - BOTTOM - up * (self.height - TOP - BOTTOM),
        )


def span(values: Sequence[float], *always: float) -> tuple[float, float]:
    """A range that holds all values and those in `always`, with a little room where the data end; never empty."""
    low, high = min([*values, *always]), max([*values, *always])
    if low == high:
        return low, low + (abs(low) or 1.0)
    room = 0.05 * (high - low)
    return (low if low in always else low - room, high if high in always else high + room)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values between low and high: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thinned(points: Points) -> Points:
    """At most MOST points: each the mean of as many that follow each other."""
    size = math.ceil(len(points) / MOST)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [tuple(sum(values) / len(group) for values in zip(*group)) for group in groups]


# ---- marks --------------------------------------------------------------------------------------


def curve(area: Area, points: Points, kind: str) -> str:
    """A line through the points. kind: its colour, one of the classes of report/html.py, and `dashed`."""
    places = " ".join("{:.1f},{:.1f}".format(*area.at(*point)) for point in points)
    return f'<polyline class="curve {kind}" points="{places}"/>'


def dots(area: Area, points: Points, kind: str, size: float = 5, opacity: float = 1) -> str:
    """A dot at every point, all in one path; points that no eye tells apart are drawn once."""
    places = dict.fromkeys("M{:.0f} {:.0f}h0".format(*area.at(*point)) for point in points)
    return f'<path class="dots {kind}" stroke-width="{size:g}" opacity="{opacity:g}" d="{"".join(places)}"/>'


def level(area: Area, y: float, kind: str = "grey") -> str:
    """A dashed line across the chart."""
    return curve(area, [(area.x[0], y), (area.x[1], y)], f"{kind} dashed")


def bar(area: Area, x: float, width: float, height: float, kind: str) -> str:
    """A bar from the lower axis up. x, width, height: in the units of the data; never so narrow that it vanishes."""
    (left, base), (right, top) = area.at(x, area.y[0]), area.at(x + width, height)
    place = f'x="{left:.2f}" y="{top:.2f}" width="{max(right - left, 0.8):.2f}" height="{max(base - top, 0):.2f}"'
    return f'<rect class="bar {kind}" {place}/>'


def tint(area: Area, corner: tuple[float, float], opposite: tuple[float, float], kind: str) -> str:
    """A tinted rectangle between two corners."""
    (x, y), (to_x, to_y) = area.at(*corner), area.at(*opposite)
    place = f'x="{min(x, to_x):.1f}" y="{min(y, to_y):.1f}" width="{abs(to_x - x):.1f}" height="{abs(to_y - y):.1f}"'
    return f'<rect class="tint {kind}" {place}/>'


def label(
    area: Area, point: tuple[float, float], lines: Sequence[str], anchor: str = "start", longest: int | None = None
) -> str:
    """Lines of plain text that begin (or, anchor `end`, end) at a point, the first a line below it.

    longest: letters from which a line that begins there is squeezed, so that it ends within the picture.
    """
    x, y = area.at(*point)
    fit = f' textLength="{area.width - RIGHT - x:.0f}" lengthAdjust="spacingAndGlyphs"'
    return "".join(
        f'<text class="big" x="{x:.1f}" y="{y + 17 * (i + 1):.1f}" text-anchor="{anchor}"'
        f"{fit if longest and len(line) > longest else ''}>{escape(line)}</text>"
        for i, line in enumerate(lines)
    )


# ---- charts -------------------------------------------------------------------------------------


def chart(area: Area, marks: list[str], name: str, across: str, up: str = "", ruled: bool = True) -> str:
    """The SVG: a grid with its numbers below the marks. name: for who cannot see it; across, up: what the axes are.

    ruled: whether the vertical axis has numbers.
    """
    parts = []
    (left, base), (right, top) = area.at(area.x[0], area.y[0]), area.at(area.x[1], area.y[1])
    for value in ticks(*area.y) if ruled else ():
        y = area.at(area.x[0], value)[1]
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for value in ticks(*area.x):
        x = area.at(value, area.y[0])[0]
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{base:.1f}" x2="{x:.1f}" y2="{top:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 16:.1f}" text-anchor="middle">{value:,.6g}</text>')
    parts.append(f'<line class="axis" x1="{left}" y1="{base:.1f}" x2="{right}" y2="{base:.1f}"/>')
    parts += marks
    middle = f'x="{(left + right) / 2:.1f}" y="{area.height - 6}" text-anchor="middle"'
    parts.append(f"<text {middle}>{escape(across)}</text>")
    if up:
        turned = f'transform="rotate(-90 12 {(top + base) / 2:.1f})" x="12" y="{(top + base) / 2:.1f}"'
        parts.append(f'<text {turned} text-anchor="middle">{escape(up)}</text>')
    size = f'viewBox="0 0 {area.width} {area.height}"'
    return f'<svg {size} role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class Interval:
    """A line of a forest plot: its label, the mean, the interval around it, the single values, and its colour."""

    label: str
    mean: float
    bounds: tuple[float, float]
    values: Sequence[float]
    kind: str


def forest(lines: Sequence[Interval], marks: dict[float, str], name: str, always: Sequence[float] = ()) -> str:
    """Means with their intervals below each other, each label above its line, so that a phone can show it.

    marks: {value: colour} of dashed lines from top to bottom, such as chance; always: values that the axis holds.
    """
    ends = [value for line in lines for value in (*line.bounds, *line.values)]
    area = Area(span([*ends, *marks], *always), (0, len(lines)), height=TOP + ROW * len(lines) + BOTTOM)
    parts = [curve(area, [(x, 0), (x, len(lines))], f"{kind} dashed") for x, kind in marks.items()]
    for i, line in enumerate(lines):
        y = len(lines) - i - 0.72
        parts.append(label(area, (area.x[0], len(lines) - i), [line.label], longest=LONGEST_LABEL))
        parts.append(curve(area, [(bound, y) for bound in line.bounds], line.kind))
        parts.append(dots(area, [(value, y) for value in line.values], "grey", 4))
        parts.append(dots(area, [(line.mean, y)], line.kind, 9))
    return chart(area, parts, name, "", ruled=False)


def figure(title: str, keys: dict[str, str], image: str, caption: str = "") -> str:
    """A chart with its title and its key, {colour: what has it}, and a caption; all plain text but the image."""
    key = "".join(f'<span class="key {kind}"><i></i>{escape(text)}</span>' for kind, text in keys.items())
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><h3>{escape(title)}</h3>{f'<div>{key}</div>' if key else ''}{image}{below}</figure>"
