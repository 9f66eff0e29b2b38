"""Damage to safetensors, SentencePiece, GGUF and torch.save files that keeps most of their structure."""

import io
import json
import os
import random
import struct
import zipfile

from bench.fuzz_text import json_document
from bench.fuzz_values import TEXTS, bytes_at_random

# ---- safetensors --------------------------------------------------------------------------------


# Raised where an earlier change left no entries, or none with the usual fields.
ENTRY_ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


def safetensors_file(rng: random.Random, content: bytes) -> bytes:
    """Changes the length of the header, its entries, or the values after it."""
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], bytearray(content[8 + size :])
    kind = rng.randrange(8)
    if kind == 0:
        lie = rng.choice(
            (0, 1, size - 1, size + 1, size + 8, len(content), 2**31, 2**32 + size, 2**63, 2**64 - 1, 100_000_001)
        )
        return struct.pack("<Q", lie) + header + bytes(body)
    if kind == 1 and len(body) > 8:  # values: NaN, infinity and the largest number, in some dtype
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
        except ENTRY_ERRORS:
            header = bytes_at_random(rng, header)
    return struct.pack("<Q", len(header)) + header + bytes(body)


WRONG_DTYPES = ("F64", "F16", "BF16", "I8", "U8", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", "f32", "")
WRONG_METADATA = (
    {},
    {"format": "np"},
    {"format": 1},
    {"base_fingerprint": "\x1b[2J\n"},
    {"base_fingerprint": ""},
    "x",
    None,
    {"a": "b" * 100_000},
)


def _tensor_entry(rng: random.Random, header: bytes, size: int) -> bytes:
    """The header with one entry changed, renamed, removed or added. size: of the values, in bytes."""
    entries = json.loads(header)
    name = rng.choice([name for name in entries if name != "__metadata__"])
    entry, other = entries[name], entries[rng.choice([name for name in entries if name != "__metadata__"])]
    start, stop = entry["data_offsets"]
    kind = rng.randrange(7)
    if kind == 0:
        around = ([stop, start], [start, stop + 4], [start - 1, stop], [0, size], [-4, stop], [0, 2**63])
        entry["data_offsets"] = rng.choice((*around, [start, start], other["data_offsets"]))
    elif kind == 1:
        entry["shape"] = rng.choice(_wrong_shapes(entry["shape"], other["shape"]))
    elif kind == 2:
        entry["dtype"] = rng.choice(WRONG_DTYPES)
    elif kind == 3:
        entries[rng.choice((*TEXTS, name + "x", name.upper()))] = entries.pop(name)
    elif kind == 4:
        del entries[name]
    elif kind == 5:
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [size, size]}
        entries[rng.choice((name + ".copy", "a\nb", "\x1b[2J"))] = empty
    else:
        entries["__metadata__"] = rng.choice(WRONG_METADATA)
    return json.dumps(entries).encode()


def _wrong_shapes(shape: list[int], of_another: list[int]) -> tuple:
    return [], [0], [2**62, 4], [-1], shape[::-1], [*shape, 1], [1, *shape], [2**32, 2**32], of_another


# ---- SentencePiece (protocol buffers) -----------------------------------------------------------


def protobuf(rng: random.Random, content: bytes) -> bytes:
    """Changes one field at some depth and corrects all lengths around it."""
    try:
        fields = _fields(content)
    except (IndexError, ValueError):
        return bytes_at_random(rng, content)
    if not fields:
        return bytes_at_random(rng, content)
    # There are many pieces; the few fields after them (trainer, normalizer) matter as much.
    place = rng.choice([rng.randrange(len(fields)), rng.randrange(max(0, len(fields) - 3), len(fields))])
    tag, value = fields[place]
    kind = rng.randrange(8)
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[place])
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
        fields[place] = (tag, value)
    return b"".join(_varint(tag) + (_varint(len(value)) if tag & 7 == 2 else b"") + value for tag, value in fields)


def _fields(content: bytes) -> list[tuple[int, bytes]]:
    """[(tag, value)]; raises IndexError or ValueError if the content is not a protocol buffer."""
    fields, place = [], 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        if tag & 7 == 2:
            size, place = _read_varint(content, place)
        elif tag & 7 == 0:
            size = _read_varint(content, place)[1] - place
        else:
            size = {1: 8, 5: 4}.get(tag & 7, -1)
        if not 0 <= size <= len(content) - place:
            raise ValueError("not a protocol buffer")
        fields.append((tag, content[place : place + size]))
        place += size
    return fields


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if content[place - 1] < 128:
            return value, place


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


# ---- GGUF ---------------------------------------------------------------------------------------

NUMBER_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type
LIES = (0, 1, 2, 3, 4, 7, 8, 9, 31, 32, 255, 2**16, 2**22, 2**26, 2**31, 2**32 - 1, 2**32, 2**48, 2**63, 2**64 - 1)


def gguf_file(rng: random.Random, content: bytes) -> bytes:
    """Changes a number of the header (a count, length, type, size or offset), or bytes of the header or of a tensor."""
    try:
        numbers, data = _header_numbers(content)
    except (struct.error, KeyError, IndexError):
        return bytes_at_random(rng, content)
    changed, kind = bytearray(content), rng.randrange(8)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1 and data < len(content) - 8:
        place = rng.randrange(data, len(content) - 4)
        changed[place : place + 4] = rng.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x7c\x00\xfc", b"\xff" * 4, rng.randbytes(4))
        )
    elif kind == 2:
        return bytes_at_random(rng, content[:data]) + content[data:]
    else:
        place, size = rng.choice(numbers[-60:] if kind < 5 else numbers)
        old = int.from_bytes(content[place : place + size], "little")
        lie = rng.choice((*LIES, old + 1, max(old - 1, 0), 2 * old, old ^ 32)) % 256**size
        changed[place : place + size] = lie.to_bytes(size, "little")
    return bytes(changed)


def _header_numbers(content: bytes) -> tuple[list[tuple[int, int]], int]:
    """([(place, size)] of every number in the header, where the header ends)."""
    found, place = [], 4

    def number(size: int) -> int:
        nonlocal place
        found.append((place, size))
        place += size
        if place > len(content):
            raise IndexError
        return int.from_bytes(content[place - size : place], "little")

    def skip_text() -> None:
        nonlocal place
        place += number(8)

    number(4)
    tensors, fields = number(8), number(8)
    for _ in range(fields):
        skip_text()
        kind, count = number(4), 1
        if kind == 9:
            kind, count = number(4), number(8)
        for _ in range(count):
            skip_text() if kind == 8 else number(NUMBER_SIZES[kind])
    for _ in range(tensors):
        skip_text()
        for _ in range(number(4)):
            number(8)
        number(4), number(8)
    return found, place


# ---- archives -----------------------------------------------------------------------------------

# A file that the code in these pickles creates when they are loaded. They are protocol 0, written by hand.
MARKER = "pickle-was-run"


def bombs(folder: str) -> tuple[bytes, ...]:
    """Pickles that create the file MARKER in a folder when they are loaded, each in another way."""
    path = f"{folder}/{MARKER}"
    return (
        f"cbuiltins\nopen\n(S'{path}'\nS'w'\ntR.".encode(),
        f"cos\nsystem\n(S'touch {path}'\ntR.".encode(),
        f"cbuiltins\nexec\n(S'open({path!r}, \"w\")'\ntR.".encode(),
        f"ctorch\nload\n(S'{path}'\ntR.".encode(),
        f"ccollections\nOrderedDict\n)R(S'a'\ncpathlib\nPath.touch\n(cpathlib\nPath\n(S'{path}'\ntRtRs.".encode(),
    )


def pickled(rng: random.Random, content: bytes) -> bytes:
    """Changes the pickle or an entry of a torch.save archive, or replaces the whole by a pickle that contains code."""
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
