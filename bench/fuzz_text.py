"""Damage to JSON, JSON lines and tables that keeps most of their structure."""

import json
import random
import re

from bench.fuzz_values import CELLS, LITERALS, NUMBERS, TEXTS, bytes_at_random

# ---- JSON ---------------------------------------------------------------------------------------


class Raw(str):
    """Text that is put into a JSON document verbatim."""


class Pairs(list):
    """[(key, value)] of a JSON object, in which a key may occur twice."""


def _dump(node) -> str:
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dump(value)}" for key, value in node) + "}"
    return "[" + ", ".join(map(_dump, node)) + "]" if isinstance(node, list) else json.dumps(node)


def _places(node, places: list) -> list:
    """(container, position) of every value below node, appended to places."""
    for position, value in enumerate(node) if isinstance(node, (Pairs, list)) else ():
        places.append((node, position))
        _places(value[1] if isinstance(node, Pairs) else value, places)
    return places


def json_document(rng: random.Random, content: bytes) -> bytes:
    """Changes one value, key or entry; calls bytes_at_random where nothing can be parsed."""
    try:
        root = [json.loads(content, object_pairs_hook=Pairs)]
    except (ValueError, RecursionError):
        return bytes_at_random(rng, content)
    container, position = rng.choice(_places(root, []))
    entry, kind = container[position], rng.randrange(10)
    key, value = entry if isinstance(container, Pairs) else (None, entry)
    if kind < 5:
        value = Raw(rng.choice((rng.choice(NUMBERS), json.dumps(rng.choice(TEXTS)), rng.choice(LITERALS))))
    elif kind == 5 and isinstance(value, (int, float)):
        value = rng.choice((str(value), -value, value * 1000, value + 1, [value], float(value)))
    elif kind == 6:
        _, value = rng.choice(
            [
                (None, other[where][1] if isinstance(other, Pairs) else other[where])
                for other, where in _places(root, [])
            ]
        )
        if len(value_text := _dump(value)) < 10_000:
            value = Raw(value_text)
    elif kind == 7 and key is not None:
        container.append((key, Raw(rng.choice((*NUMBERS, *LITERALS[:8])))))
    elif kind == 8 and key is not None:
        key = rng.choice((*TEXTS, key.upper(), rng.choice(container)[0]))
    elif container is not root:
        del container[position]
        return _dump(root[0]).encode("utf-8", "surrogatepass")
    container[position] = value if key is None else (key, value)
    return _dump(root[0]).encode("utf-8", "surrogatepass")


def json_lines(rng: random.Random, content: bytes) -> bytes:
    """Changes one line as JSON, removes it, or repeats it elsewhere."""
    lines = content.split(b"\n")
    place, kind = rng.randrange(len(lines)), rng.randrange(6)
    if kind < 4 and lines[place]:
        lines[place] = json_document(rng, lines[place])
    elif kind == 4:
        lines.insert(rng.randrange(len(lines)), lines[place])
    else:
        del lines[place]
    return b"\n".join(lines)


# ---- tables and lines ---------------------------------------------------------------------------


def table(rng: random.Random, content: bytes) -> bytes:
    """Changes a cell, a line or the line endings of a file of separated values."""
    text = content.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    place, kind = (rng.randrange(len(lines)) if rng.random() < 0.8 else 0), rng.randrange(12)
    separator = max((",", ";", "::", "\t", "|"), key=lines[0].count)
    cells = lines[place].split(separator)
    if kind < 6:
        cells[rng.randrange(len(cells))] = rng.choice((rng.choice(CELLS), '"' + rng.choice(CELLS) + '"'))
    elif kind == 6:
        cells.insert(rng.randrange(len(cells) + 1), rng.choice((rng.choice(cells), rng.choice(CELLS))))
    elif kind == 7:
        del cells[rng.randrange(len(cells))]
    lines[place] = separator.join(cells)
    if kind == 8:
        lines.insert(rng.randrange(len(lines) + 1), lines[place])
    elif kind == 9:
        del lines[place]
    elif kind == 10:
        del lines[rng.randrange(len(lines) + 1) :]
    text = "\n".join(lines)
    if kind == 11:
        text = rng.choice(
            (
                text.replace("\n", "\r"),
                text.replace("\n", "\r\n"),
                text.replace(separator, rng.choice(",;\t|")),
                text.replace("\n", "\n\n"),
                text.swapcase(),
            )
        )
    if not _encodable(text):
        return text.encode("utf-8", "replace")
    return text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")


def _encodable(text: str) -> bool:
    """Whether one error handler can encode all surrogates in the text."""
    return not re.search("[\ud800-\udbff]", text) or not re.search("[\udc80-\udcff]", text)
