"""Tables of a user's: CSV with any usual header and separator, or MovieLens' `::` files, gzipped or not.

Headers are matched without regard to case, `_`, `-`, `.` and spaces; ALIASES are the names that are read. What was
assumed is said in one line per file: which column is read as what, which are not used, the separator.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data.sources.bad_lines import BadLines
from data.sources.movielens import encoding_of
from errors import DataError, quoted
from files import LARGEST, plain_number, read_gzip, read_whole

ALIASES = {
    "user": ("user", "userid", "uid", "username", "reviewer", "reviewerid", "customer", "customerid", "viewerid"),
    "item": (
        *("item", "itemid", "iid", "movieid", "bookid", "isbn", "asin", "parentasin", "product", "productid"),
        *("gameid", "songid", "trackid", "articleid", "newsid"),
    ),
    "timestamp": (
        *("timestamp", "time", "date", "datetime", "ts", "unixtime", "unixtimestamp", "unixreviewtime"),
        *("ratedat", "createdat", "dateadded", "ratingdate", "reviewdate"),
    ),
    "rating": ("rating", "ratings", "score", "stars", "star", "starrating", "ratingscore", "bookrating", "overall"),
    "liked": ("liked", "like", "isliked", "islike", "likes"),
    "title": ("title", "itemtitle", "movietitle", "booktitle", "producttitle", "name", "itemname"),
    "author": ("author", "authors", "bookauthor", "authorname", "writer"),
}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
DAT_COLUMNS = {"user": ("user", "item", "rating", "timestamp"), "title": ("item", "title")}
Record = tuple[int, dict[str, str]]  # (line at which it begins, the named fields)

_NOT_LETTERS = re.compile(r"[\s_.\-]+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


def read_table(
    path: Path,
    needed: tuple[str, ...],
    optional: tuple[str, ...],
    bad: BadLines,
    notice: Callable[[str], None],
) -> Iterator[Record]:
    """Every record of a file; lines that cannot be used go to `bad`, and needed fields are not empty.

    Raises DataError naming file and line for what concerns the whole file.
    """
    content = read_gzip(path, LARGEST) if path.suffix == ".gz" else read_whole(path)
    if ".dat" in path.suffixes[-2:]:
        records = _dat_records(content, path, DAT_COLUMNS["title" if "title" in needed else "user"], bad, notice)
    else:
        records = _csv_records(content, path, (needed, optional), bad, notice)
    for line, record in records:
        empty = next((name for name in needed if not record[name].strip()), None)
        if empty:
            bad.add(path, line, f", column {empty}", "is empty", "an empty cell")
            if "title" in needed:
                bad.items.add(record.get("item", "").strip())
        else:
            yield line, record


def read_numbers(cells: Sequence[str], lines: Sequence[int], column: str) -> tuple[list[float | None], bool]:
    """(the number in each cell, None where there is none; whether the column has decimal commas).

    Raises DataError with two example lines if some have a decimal comma and others a decimal point.
    """
    commas = [i for i, cell in enumerate(cells) if _DECIMAL_COMMA.fullmatch(cell.strip())]
    if commas:
        point = next((i for i, cell in enumerate(cells) if "." in cell), None)
        if point is not None:
            one, other = sorted((commas[0], point))
            raise DataError(
                f"{column}: mixes decimal points and commas: line {lines[one]} has {quoted(cells[one])}, "
                f"line {lines[other]} has {quoted(cells[other])}; write all of them in one form"
            )
    return [_number(cell.replace(",", ".") if commas else cell) for cell in cells], bool(commas)


def _number(text: str) -> float | None:
    try:
        value = float(plain_number(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# ---- CSV ----------------------------------------------------------------------------------------


def _csv_records(
    content: bytes, path: Path, names: tuple[tuple, tuple], bad: BadLines, notice: Callable[[str], None]
) -> Iterator[Record]:
    text = _decoded(content, path)
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = _columns(header, *names, path)
        _say(path, header, columns, separator, notice)
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                problem = f"has {len(fields)} fields, the header has {len(header)}"
                problem += f"; put quotes around a title with a {SEPARATORS[separator][:-1]}"
                bad.add(path, line, "", problem, "another number of fields")
                if "title" in columns and columns.get("item", len(fields)) < len(fields):
                    bad.items.add(fields[columns["item"]].strip())
            elif fields:
                yield line, {name: fields[column] for name, column in columns.items()}
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {line}: {error}; is a quote left open?") from None


def _decoded(content: bytes, path: Path) -> str:
    if content.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: is a zip archive or an Excel workbook; unpack it, or save it as CSV")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise DataError(f"{path}: {found} (byte {error.start:,}); save it as UTF-8") from None


def _separator(text: str) -> str:
    """The separator with which most columns of the first line are known; the comma if there is no difference."""
    first = text.split("\n", 1)[0][:10_000]

    def known(separator: str) -> int:
        try:
            header = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            return 0
        return sum(any(_plain(name) in names for names in ALIASES.values()) for name in header)

    return max(SEPARATORS, key=known)


def _plain(name: str) -> str:
    return _NOT_LETTERS.sub("", name).lower()


def _columns(header: list[str], needed: tuple[str, ...], optional: tuple[str, ...], path: Path) -> dict[str, int]:
    """{name: number of its column} of the named columns that the file has; a column of that very name comes first."""
    places = {}
    for name in (*needed, *optional):
        exact = [i for i, found in enumerate(header) if found.lower() == name]
        same = exact or [i for i, found in enumerate(header) if _plain(found) in ALIASES[name]]
        if len(exact) > 1:
            raise DataError(f"{path} line 1: column {name} is there twice; keep one")
        if len(same) > 1:
            both = " and ".join(quoted(header[i]) for i in same[:2])
            raise DataError(f"{path} line 1: columns {both} both mean {name}; keep one, or call one {name}")
        if same:
            places[name] = same[0]
        elif name in needed:
            columns = quoted(", ".join(header), 80) if header else "an empty file"
            raise DataError(
                f"{path} line 1: column {name} is missing; found {columns}. "
                "docs/own-data.md lists the names that are read; commas, semicolons or tabs separate columns"
            )
    return places


def _say(path: Path, header: list[str], columns: dict[str, int], separator: str, notice: Callable[[str], None]) -> None:
    """One line about what was assumed; none for a file as docs/own-data.md describes it."""
    renamed = [f"{name} is {quoted(header[i])[1:-1]}" for name, i in columns.items() if header[i] != name]
    unused = [quoted(name)[1:-1] or "one without a name" for i, name in enumerate(header) if i not in columns.values()]
    said = ["separated by " + SEPARATORS[separator]] if separator != "," else []
    said += [", ".join(renamed)] if renamed else []
    said += ["columns not used: " + ", ".join(unused)] if unused else []
    if said:
        notice(f"{path}: {'; '.join(said)}")


# ---- MovieLens' .dat ----------------------------------------------------------------------------


def _dat_records(
    content: bytes, path: Path, names: tuple[str, ...], bad: BadLines, notice: Callable[[str], None]
) -> Iterator[Record]:
    """Lines of ratings.dat (user::item::rating::time) or movies.dat (item::title::genres)."""
    encoding = encoding_of(content, path, notice)
    form = "::".join(names if "user" in names else (*names, "genres"))
    for line, raw in enumerate(content.splitlines(), start=1):
        fields = raw.decode(encoding).split("::")
        if "title" in names and len(fields) > 3:  # a title may hold the separator
            fields = [fields[0], "::".join(fields[1:-1]), fields[-1]]
        if len(fields) != form.count("::") + 1:
            found = quoted("::".join(fields))
            bad.add(path, line, "", f"expected {form}, found {found}", "another number of fields")
        else:
            yield line, dict(zip(names, fields))
