"""How a byte-level BPE cuts a text into words before it joins anything: the patterns of GPT-2, SmolLM2 and Llama 3.

In a pattern, `\\p{L}` stands for letters, `\\p{N}` for numbers and `\\s` for white space, as Unicode defines them.
Python's `re` has no names for the first two, and its `\\s` has four characters more.
"""

import re
import sys
import unicodedata
from functools import cache
from itertools import groupby

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s])|[\s]+"
# The same after a step that makes each digit a text of its own, as SmolLM2 has it.
SINGLE_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+|[\p{N}]| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s\p{N}])|[\s]+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|[\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+"
)
WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space


@cache
def word_pattern(pattern: str) -> re.Pattern:
    """One of the patterns above for Python's `re`."""
    for name, inside in ((r"\p{L}", _characters("L")), (r"\p{N}", _characters("N")), (r"\s", WHITE)):
        pattern = pattern.replace(name, inside)
    return re.compile(pattern)


def _characters(category: str) -> str:
    """All characters of a general category of Unicode, as the inside of a character class."""
    codes = range(sys.maxunicode + 1)
    runs = [list(run) for found, run in groupby(codes, lambda c: unicodedata.category(chr(c))[0] == category) if found]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)
