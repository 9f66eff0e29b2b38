"""What a byte-level BPE starts from: words, cut by a pattern of GPT-2, SmolLM2 or Llama 3, and symbols of their bytes.

In a pattern, `\\p{L}` stands for letters, `\\p{N}` for numbers and `\\s` for white space, as Unicode defines them.
Python's `re` has no names for the first two, and its `\\s` has four characters more.
"""

import re
import sys
import unicodedata
from functools import cache

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s])|[\s]+"
# The same after a step that makes each digit a text of its own, as SmolLM2 has it.
SINGLE_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+|[\p{N}]| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s\p{N}])|[\s]+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|[\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+"
)
WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space

# Every byte as a visible character: itself if it is one, else one from U+0100 on. A space is "Ġ", a line break "Ċ".
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_SYMBOLS = {byte: chr(byte) for byte in VISIBLE} | {
    byte: chr(256 + n) for n, byte in enumerate(sorted(set(range(256)) - set(VISIBLE)))
}
BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}


@cache
def word_pattern(pattern: str) -> re.Pattern:
    """One of the patterns above for Python's `re`."""
    kinds = "".join(unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1))  # "L", "N", ... of each
    for name, kind in ((r"\p{L}", "L"), (r"\p{N}", "N")):
        runs = re.finditer(f"{kind}+", kinds)
        pattern = pattern.replace(name, "".join(f"{chr(run.start())}-{chr(run.end() - 1)}" for run in runs))
    return re.compile(pattern.replace(r"\s", WHITE))
