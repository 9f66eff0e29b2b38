"""Damage for bench/fuzz.py: bytes at random, and changes that keep a format's structure and lie within it.

Every mutation is a function (random.Random, content) -> content, chosen by the form of the file.
"""

import gzip
import io
import json
import os
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (
    "0",
    "-1",
    "1",
    "3",
    "-0",
    "0.5",
    "1e308",
    "-1e308",
    "1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "5e-324",
    "2147483648",
    "-2147483649",
    "9223372036854775808",
    "18446744073709551616",
    "1" + "0" * 30,
    "1" + "0" * 400,
    "9" * 5000,
    "1E+2",
)
TEXTS = (
    "",
    " ",
    "..",
    "../../precious.txt",
    "../../../sentinel/file",
    "/etc/hostname",
    "/dev/zero",
    "a\nb",
    "a\rb",
    "\x1b[2J",
    "\x00",
    "\u2028",
    "\ufeff",
    "\ud800",
    "\udcff",
    "é",
    "𝄞",
    "x" * 300,
    "y" * 200_000,
    "true",
    "NaN",
    "null",
    "-1",
    "1e999",
    '"',
    '", "',
    '","',
    "|",
    "::",
    ";",
    "\\",
    "%s{0}",
    "٣",
    "²",
)
LITERALS = (
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[[]]",
    '[""]',
    "[null]",
    '{"": 0}',
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "0" + "}" * 50_000,
    "[" + "0," * 100_000 + "0]",
    "{",
    "[1,]",
    "'a'",
    "tru",
    '"\\ud800"',
    '"\\u0000"',
    '"\\x"',
)
CELLS = (
    *NUMBERS,
    *TEXTS,
    '"open',
    "2024-02-30",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "1e18",
    "-62135596801",
    "4",
    "5",
    "1",
)


def bytes_at_random(rng: random.Random, content: bytes) -> bytes:
    """Flips, runs put in, taken out, repeated or made zero, a cut, a new beginning or end, nothing at all."""
    damaged, size = bytearray(content), len(content)
    start = rng.randrange(size + 1)
    stop = min(size, start + rng.choice((1, 2, 4, 8, 64, 1024)))
    kind = rng.randrange(12)
    if kind < 3 and size:
        for _ in range(rng.choice((1, 1, 2, 5, 30))):
            damaged[rng.randrange(size)] = rng.randrange(256)
    elif kind == 3 and size:
        damaged[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 4:
        del damaged[start:]
    elif kind == 5:
        damaged[start:start] = rng.choice(
            (b"\x00", b"\xff\xfe", b"\xc3", b"\n", b"\r", b"\x1a", b'"', b"\xed\xa0\x80", b"\x85", rng.randbytes(40))
        )
    elif kind == 6:
        del damaged[start:stop]
    elif kind == 7:
        damaged[start:start] = damaged[start:stop] * rng.choice((1, 1, 500))
    elif kind == 8:
        damaged[start:stop] = bytes(stop - start)
    elif kind == 9:
        damaged = (
            bytearray(
                rng.choice(
                    (
                        b"\xef\xbb\xbf",
                        b"\xff\xfe",
                        b"\x00",
                        b"\n\n",
                        b"\x1f\x8b",
                        b"PK\x03\x04",
                        b"version https://git-lfs",
                    )
                )
            )
            + damaged
        )
    elif kind == 10:
        damaged += rng.choice((b"\x00" * 100, b"\n" * 1000, rng.randbytes(50), b"z" * 1_000_000, b"\r\n{}", content))
    else:
        damaged = bytearray(
            rng.choice((b"", b"\n", b"\x00", b"{}", b"[]", b"null", b" " * 100_000, rng.randbytes(300)))
        )
    return bytes(damaged)


# ---- JSON ---------------------------------------------------------------------------------------


class Raw(str):
    """Text that stands in a JSON document as it is."""


class Pairs(list):
    """[(key, value)] of a JSON object: keys may come twice."""


def _dump(node) -> str:
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dump(value)}" for key, value in node) + "}"
    return "[" + ", ".join(map(_dump, node)) + "]" if isinstance(node, list) else json.dumps(node)


def _places(node, found: list) -> list:
    """(container, position) of every value below node."""
    for position, value in enumerate(node) if isinstance(node, (Pairs, list)) else ():
        found.append((node, position))
        _places(value[1] if isinstance(node, Pairs) else value, found)
    return found


def json_document(rng: random.Random, content: bytes) -> bytes:
    """One value, key or entry changed. Falls back to bytes_at_random where nothing can be parsed."""
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
    """One line changed as JSON, dropped, repeated or put elsewhere."""
    lines = content.split(b"\n")
    place, kind = rng.randrange(len(lines)), rng.randrange(6)
    if kind < 4 and lines[place]:
        lines[place] = json_document(rng, lines[place])
    elif kind == 4:
        lines.insert(rng.randrange(len(lines)), lines[place])
    else:
        del lines[place]
    return b"\n".join(lines)


# ---- safetensors --------------------------------------------------------------------------------


def safetensors_file(rng: random.Random, content: bytes) -> bytes:
    """The length of the header, its entries, or the values behind it."""
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], bytearray(content[8 + size :])
    kind = rng.randrange(8)
    if kind == 0:
        lie = rng.choice(
            (0, 1, size - 1, size + 1, size + 8, len(content), 2**31, 2**32 + size, 2**63, 2**64 - 1, 100_000_001)
        )
        return struct.pack("<Q", lie) + header + bytes(body)
    if kind == 1 and len(body) > 8:  # values: NaN, infinity and the largest, in whichever dtype
        place = rng.randrange(len(body) // 4) * 4
        body[place : place + 4] = rng.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f", b"\xff\xff\xff\xff", b"\x01\x00\x00\x00")
        )
    elif kind == 2:
        del body[rng.randrange(len(body) + 1) :]
    elif kind == 3:
        header = json_document(rng, header)
    else:
        try:
            header = _tensor_entry(rng, header, len(body))
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            RecursionError,
        ):  # an earlier change left no entries
            header = bytes_at_random(rng, header)
    return struct.pack("<Q", len(header)) + header + bytes(body)


def _tensor_entry(rng: random.Random, header: bytes, size: int) -> bytes:
    entries = json.loads(header)
    name = rng.choice([name for name in entries if name != "__metadata__"])
    entry, other = entries[name], entries[rng.choice([name for name in entries if name != "__metadata__"])]
    start, stop = entry["data_offsets"]
    kind = rng.randrange(7)
    if kind == 0:
        entry["data_offsets"] = rng.choice(
            (
                [stop, start],
                [start, stop + 4],
                [start - 1, stop],
                [0, size],
                [-4, stop],
                [0, 2**63],
                [start, start],
                other["data_offsets"],
            )
        )
    elif kind == 1:
        entry["shape"] = rng.choice(
            (
                [],
                [0],
                [2**62, 4],
                [-1],
                entry["shape"][::-1],
                [*entry["shape"], 1],
                [1, *entry["shape"]],
                [2**32, 2**32],
                other["shape"],
            )
        )
    elif kind == 2:
        entry["dtype"] = rng.choice(
            ("F64", "F16", "BF16", "I8", "U8", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", "f32", "")
        )
    elif kind == 3:
        entries[rng.choice((*TEXTS, name + "x", name.upper()))] = entries.pop(name)
    elif kind == 4:
        del entries[name]
    elif kind == 5:
        entries[rng.choice((name + ".copy", "a\nb", "\x1b[2J"))] = {
            "dtype": "F32",
            "shape": [0],
            "data_offsets": [size, size],
        }
    else:
        entries["__metadata__"] = rng.choice(
            (
                {},
                {"format": "np"},
                {"format": 1},
                {"base_fingerprint": "\x1b[2J\n"},
                {"base_fingerprint": ""},
                "x",
                None,
                {"a": "b" * 100_000},
            )
        )
    return json.dumps(entries).encode()


# ---- SentencePiece (protocol buffers) -----------------------------------------------------------


def protobuf(rng: random.Random, content: bytes) -> bytes:
    """One field changed at some depth, with all lengths around it set right."""
    try:
        found = _fields(content)
    except (IndexError, ValueError):
        return bytes_at_random(rng, content)
    if not found:
        return bytes_at_random(rng, content)
    # Pieces are many; the few fields behind them (trainer, normalizer) matter as much.
    place = rng.choice([rng.randrange(len(found)), rng.randrange(max(0, len(found) - 3), len(found))])
    tag, value = found[place]
    kind = rng.randrange(8)
    if kind == 0:
        del found[place]
    elif kind == 1:
        found.insert(rng.randrange(len(found) + 1), found[place])
    elif kind == 2:
        tag = rng.choice((tag + 8, tag ^ 1, 8 * rng.randrange(1, 60) + rng.randrange(6)))
    elif tag & 7 == 2 and kind < 7:
        value = protobuf(rng, value)
    elif tag & 7 == 2:
        value = rng.choice(
            (
                b"",
                rng.choice(TEXTS).encode("utf-8", "surrogatepass"),
                rng.randbytes(20),
                b"<0x41>",
                b"\xff",
                b"<0x\xff1>",
            )
        )
    elif tag & 7 == 5:
        value = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, 0.0, -1e30)))
    else:
        value = _varint(rng.choice((0, 1, 2, 3, 4, 5, 6, 127, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
    if kind > 1:
        found[place] = (tag, value)
    return b"".join(_varint(tag) + (_varint(len(value)) if tag & 7 == 2 else b"") + value for tag, value in found)


def _fields(content: bytes) -> list[tuple[int, bytes]]:
    """[(tag, value)]; raises IndexError or ValueError where it is none."""
    found, place = [], 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        if tag & 7 == 2:
            size, place = _read_varint(content, place)
        elif tag & 7 == 0:
            size = _read_varint(content, place)[1] - place
        else:
            size = {1: 8, 5: 4}.get(tag & 7, -1)
        if not 0 <= size <= len(content) - place:
            raise ValueError("no protocol buffer")
        found.append((tag, content[place : place + size]))
        place += size
    return found


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if content[place - 1] < 128:
            return value, place


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


# ---- tables and lines ---------------------------------------------------------------------------


def table(rng: random.Random, content: bytes) -> bytes:
    """One cell, line or line ending of a file of separated values."""
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
    return (
        text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")
        if _encodable(text)
        else text.encode("utf-8", "replace")
    )


def _encodable(text: str) -> bool:
    return not re.search("[\ud800-\udbff]", text) or not re.search("[\udc80-\udcff]", text)


# ---- archives -----------------------------------------------------------------------------------

# What a pickle that holds code does: open(MARKER, "w") when it is loaded. Protocol 0, by hand.
MARKER = "pickle-was-run"


def bombs(folder: str) -> tuple[bytes, ...]:
    """Pickles that would make the file MARKER in a folder, in several ways."""
    path = f"{folder}/{MARKER}"
    return (
        f"cbuiltins\nopen\n(S'{path}'\nS'w'\ntR.".encode(),
        f"cos\nsystem\n(S'touch {path}'\ntR.".encode(),
        f"cbuiltins\nexec\n(S'open({path!r}, \"w\")'\ntR.".encode(),
        f"ctorch\nload\n(S'{path}'\ntR.".encode(),
        f"ccollections\nOrderedDict\n)R(S'a'\ncpathlib\nPath.touch\n(cpathlib\nPath\n(S'{path}'\ntRtRs.".encode(),
    )


def pickled(rng: random.Random, content: bytes) -> bytes:
    """A torch.save archive with its pickle or an entry changed, or in the place of all a pickle that holds code."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(bombs(os.environ["FUZZ_SENTINEL"]))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            entries = [(info.filename, file.read(info)) for info in file.infolist()]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError):
        return bytes_at_random(rng, content)
    place = next((i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl")), 0)
    if kind == 1:
        entries[place] = (entries[place][0], rng.choice(bombs(os.environ["FUZZ_SENTINEL"])))
    elif kind < 6:
        entries[place] = (entries[place][0], bytes_at_random(rng, entries[place][1]))
    elif kind == 6:
        place = rng.randrange(len(entries))
        entries[place] = (
            rng.choice((entries[place][0], "../../escaped", "/absolute", "a\nb")),
            bytes_at_random(rng, entries[place][1]),
        )
    else:
        del entries[rng.randrange(len(entries))]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for name, entry in entries:
            file.writestr(name, entry)
    return packed.getvalue()


def gzipped(inner: Mutation) -> Mutation:
    def mutate(rng: random.Random, content: bytes) -> bytes:
        kind = rng.randrange(12)
        if kind == 0:  # 1.5 GB without a line break, in 1.5 MB
            return gzip.compress(b"0" * 10_000_000, 9) * 150
        if len(content) > 500_000:  # that was done before
            return bytes_at_random(rng, content)
        try:
            return (
                gzip.compress(inner(rng, gzip.decompress(content)), 1) if kind < 10 else bytes_at_random(rng, content)
            )
        except (OSError, EOFError, ValueError, zlib.error):
            return bytes_at_random(rng, content)

    mutate.__name__ = f"gzipped {inner.__name__}"
    return mutate


FORMS: dict[str, Mutation] = {
    ".safetensors": safetensors_file,
    ".json": json_document,
    ".jsonl": json_lines,
    ".model": protobuf,
    ".bin": pickled,
    ".pth": pickled,
    ".npz": bytes_at_random,
    ".csv": table,
    ".data": table,
    ".item": table,
    ".dat": table,
    ".csv.gz": gzipped(table),
    ".dat.gz": gzipped(table),
    ".json.gz": gzipped(json_lines),
}


def form_of(path: Path) -> Mutation:
    suffixes = path.suffixes
    return FORMS.get("".join(suffixes[-2:]), FORMS.get(suffixes[-1] if suffixes else "", bytes_at_random))


# ---- in the place of a file ---------------------------------------------------------------------


def in_its_place(rng: random.Random, path: Path) -> str:
    """Something else than a plain file under this name; returns what."""
    kind = rng.choice(
        (
            "nothing",
            "folder",
            "FIFO",
            "loop",
            "dangling link",
            "/dev/zero",
            "link to itself elsewhere",
            "link to another file",
            "3 GiB of nothing",
        )
    )
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling link":
        path.symlink_to("../nowhere")
    elif kind == "/dev/zero":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself elsewhere":  # as Hugging Face's cache has it
        (path.parent / f"blob.{path.name}").write_bytes(content)
        path.symlink_to(f"blob.{path.name}")
    elif kind == "link to another file":
        others = [other for other in path.parent.iterdir() if other.is_file()]
        path.symlink_to(rng.choice(others).name if others else os.environ["FUZZ_SENTINEL"] + "/file")
    elif kind == "3 GiB of nothing":
        path.write_bytes(content)
        # Those are streamed, in time that grows with the file; the others are read whole.
        os.truncate(path, 2**24 if path.name.endswith(".json.gz") else 3 * 2**30)
    return kind
