"""One reading of time for every source: a column of text to moments, in one form for the whole column.

What is read: unix seconds, milliseconds, microseconds or nanoseconds (the size of the numbers tells which), with or
without a fraction; YYYYMMDD, YYYYMMDDhhmm, YYYYMMDDhhmmss and YYYY; dates and times as ISO 8601 writes them, with `-`
or `/`, fractions and zones. What states no zone is UTC. A column that mixes forms is refused: read as one form, some of
its cells would be in the wrong decade, and histories would hold the future.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import lru_cache

from errors import DataError, quoted

EXPECTED = "expected unix time or a date such as 2024-05-01, 2024/05/01, 20240501 or 2024-05-01T12:30:00.5+02:00"
UNITS = {
    **{"s": ("unix seconds", 1), "ms": ("unix milliseconds", 10**3)},
    **{"us": ("unix microseconds", 10**6), "ns": ("unix nanoseconds", 10**9)},
}
LIMITS = ((10**11, "s"), (10**14, "ms"), (10**17, "us"), (10**20, "ns"))  # 10^11 s are in the year 5138
COMPACT = {4: "YYYY", 8: "YYYYMMDD", 12: "YYYYMMDDhhmm", 14: "YYYYMMDDhhmmss"}  # by number of digits
COMPACT_YEARS = range(1900, 2101)
COUNTERS_BELOW = 10**8  # seconds; numbers below are counters, among which 2024 is no year
ZERO = "0"  # the same moment in every unit
NANO = 10**9
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799  # seconds: the years 1 to 9999, which can be shown

_NUMBER = re.compile(r"[+-]?\d{1,20}(?:[.,]\d{1,12})?(?:[eE]\+?\d{1,2})?", re.ASCII)
_DATE = re.compile(
    r"(\d{4})(?:(?P<sep>[-/])(\d{1,2})(?P=sep)(\d{1,2})|(\d{2})(\d{2})(?=T))"
    r"(?:(?:T| +)(?P<hour>\d{1,2})(?::?(\d{2})(?::?(\d{2})(?:[.,](?P<fraction>\d{1,12}))?)?)"
    r"\s*(?P<zone>Z|UTC|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class Times:
    """A column of moments.

    ticks: since 1970 in UTC, in 1/per_second seconds; None for a cell that is no time
    form: what was understood, in words
    """

    ticks: list[int | None]
    per_second: int
    form: str

    def seconds(self, tick: int) -> int:
        """Whole unix seconds, those of the last full second before."""
        return tick // self.per_second

    def span(self) -> str:
        """The first and the last moment, for a person."""
        known = [tick for tick in self.ticks if tick is not None]
        first, last = (datetime.fromtimestamp(self.seconds(t), timezone.utc) for t in (min(known), max(known)))
        return f"from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC".replace(" 00:00:00", "")


def read_times(cells: Sequence[str], lines: Sequence[int], column: str) -> Times:
    """The moments of a column; a cell that is no time is None. lines: of each cell; column: "FILE, column NAME".

    Raises DataError with two example lines if the column mixes forms.
    """
    kinds: list[str | None] = []
    largest = 0
    for cell in cells:
        kind, size = _kind(cell.strip())
        kinds.append(kind)
        largest = max(largest, size)
    first: dict[str, int] = {}
    for i, kind in enumerate(kinds):
        if kind is not None:
            first.setdefault(kind, i)
    if len(first) > 1:
        first.pop(ZERO, None)
    if set(first) == {"s", "YYYY"} and largest < COUNTERS_BELOW:
        first.pop("YYYY")
    if len(first) > 1:
        one, other = sorted(first.values())[:2]
        shown = (f"line {lines[i]} has {quoted(cells[i].strip(), 40)} ({_words(kinds[i])})" for i in (one, other))
        raise DataError(f"{column}: mixes forms of time: {', '.join(shown)}; write all of them in one form")
    kind = next(iter(first), "s")
    known = [None if k is None else cell.strip() for cell, k in zip(cells, kinds)]
    return _convert(known, "s" if kind == ZERO else kind)


def _kind(text: str) -> tuple[str | None, int]:
    """(the form of one cell: a unit, a compact form, or "date..."; None if it is no time, the size of a number)."""
    if _NUMBER.fullmatch(text):
        value = _decimal(text)
        size = int(abs(value))
        if value == 0:
            return ZERO, 0
        if _is_compact(text):
            return COMPACT[len(text)], size
        unit = next((unit for limit, unit in LIMITS if size < limit), None)
        if unit is None or not EARLIEST <= value / UNITS[unit][1] <= LATEST:
            return None, 0
        return unit, size
    match = _DATE.fullmatch(text)
    if match is None or _date_ticks(text, 1) is None:
        return None, 0
    separator = match["sep"] or ""
    time, zone = match["hour"] is not None, match["zone"] is not None
    return f"date{separator}{' time' * time}{' zone' * zone}", 0


def _words(kind: str) -> str:
    """A form as a person names it."""
    if kind in UNITS:
        return UNITS[kind][0]
    if not kind.startswith("date"):
        return {ZERO: "0", "YYYY": "years, as YYYY"}.get(kind, f"dates, as {kind}")
    separator = kind[4] if kind[4:5] in ("-", "/") else ""
    form = separator.join(("YYYY", "MM", "DD"))
    if " time" not in kind:
        return f"dates, as {form}"
    return f"dates with times, as {form}, " + ("with zones" if kind.endswith("zone") else "without zones: UTC")


def _convert(cells: list[str | None], kind: str) -> Times:
    """The moments of cells that are all of this form, or None."""
    if kind in UNITS:
        per_second = UNITS[kind][1]
        if all(cell is None or (cell.isascii() and cell.isdecimal()) for cell in cells):
            return Times([None if cell is None else int(cell) for cell in cells], per_second, _words(kind))
        values = [None if cell is None else _decimal(cell) for cell in cells]
        scale = 1 if all(value is None or value == value.to_integral_value() for value in values) else NANO
        ticks = [None if value is None else int((value * scale).to_integral_value("ROUND_FLOOR")) for value in values]
        return Times(ticks, per_second * scale, _words(kind))
    if kind in COMPACT.values():
        return Times([None if cell is None else _compact_seconds(cell) for cell in cells], 1, _words(kind))
    fractions = any(cell is not None and _DATE.fullmatch(cell)["fraction"] for cell in cells)
    per_second = NANO if fractions else 1
    return Times([None if cell is None else _date_ticks(cell, per_second) for cell in cells], per_second, _words(kind))


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "."))


def _is_compact(text: str) -> bool:
    """Whether the digits are a date or a time of 1900 to 2100 without separators."""
    return text.isdecimal() and len(text) in COMPACT and _compact_seconds(text) is not None


def _compact_seconds(text: str) -> int | None:
    """Unix seconds of YYYY, YYYYMMDD, YYYYMMDDhhmm or YYYYMMDDhhmmss; None if there is no such moment."""
    if text == ZERO:
        return 0
    day = _day(text[:4], text[4:6] or "1", text[6:8] or "1")
    if day is None or int(text[:4]) not in COMPACT_YEARS:
        return None
    return _of_day(day, text[8:10], text[10:12], text[12:14])


def _date_ticks(text: str, per_second: int) -> int | None:
    """A moment as ISO 8601 writes it, in 1/per_second seconds since 1970; None if there is no such moment."""
    year, _, month, date_, basic_month, basic_day, *time = _DATE.fullmatch(text).groups()
    hour, minute, second, fraction, zone = time
    day = _day(year, month or basic_month, date_ or basic_day)
    seconds = None if day is None else _of_day(day, hour, minute, second)
    offset = _offset(zone)
    if seconds is None or offset is None or not EARLIEST <= seconds - offset <= LATEST:
        return None
    return (seconds - offset) * per_second + int((fraction or "")[:9].ljust(9, "0")) * per_second // NANO


@lru_cache(maxsize=2**15)
def _day(year: str, month: str, day: str) -> int | None:
    """Days since 1970."""
    try:
        return date(int(year), int(month), int(day)).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None


def _of_day(day: int, hour: str | None, minute: str | None, second: str | None) -> int | None:
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    return ((day * 24 + hours) * 60 + minutes) * 60 + seconds


def _offset(zone: str | None) -> int | None:
    """Seconds east of UTC."""
    if zone is None or zone.upper() in ("Z", "UTC"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].strip(":") or 0)
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (-60 if zone[0] == "-" else 60)
