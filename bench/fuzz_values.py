"""Values and random bytes that bench/fuzz.py puts into files, whatever their format."""

import random
from collections.abc import Callable

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
STARTS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\n\n", b"\x1f\x8b", b"PK\x03\x04", b"version https://git-lfs")


def bytes_at_random(rng: random.Random, content: bytes) -> bytes:
    """Flips bytes or a bit; inserts, removes, repeats or zeroes a run; cuts; adds a start or an end; replaces all."""
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
        damaged = bytearray(rng.choice(STARTS)) + damaged
    elif kind == 10:
        damaged += rng.choice((b"\x00" * 100, b"\n" * 1000, rng.randbytes(50), b"z" * 1_000_000, b"\r\n{}", content))
    else:
        damaged = bytearray(
            rng.choice((b"", b"\n", b"\x00", b"{}", b"[]", b"null", b" " * 100_000, rng.randbytes(300)))
        )
    return bytes(damaged)
