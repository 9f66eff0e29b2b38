"""Llama 3's `tokenizer.model` as Meta publishes it: a tiktoken vocabulary, in each line base64 and rank of a piece."""

import base64
import binascii
import re
from pathlib import Path

from errors import CheckpointError, quoted
from model.byte_bpe import ByteBPE
from model.tokenizer_json import FETCH, LONGEST_TOKEN, Vocabulary
from model.weights import LARGEST_JSON, LARGEST_SIZE, refuse_missing_or_pointer
from model.words import BYTE_SYMBOLS, LLAMA3

LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,8})\r?")
BEGINNING = re.compile(LINE.pattern + rb"\n" + LINE.pattern + rb"\n")
# Control tokens follow the pieces; their names are in Meta's code, not in the file. Later versions name more of them.
CONTROL, NAMES = 256, {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}


class Tiktoken(ByteBPE):
    """Byte-level BPE from a tiktoken vocabulary, with Llama 3's way of cutting texts and its control tokens.

    BOS begins every text. EOS is <|end_of_text|>, unless config.json or generation_config.json names another.
    """

    FILES = ("tokenizer.model",)

    @staticmethod
    def reads(folder: Path) -> bool:
        """Whether the folder has a `tokenizer.model` that begins like a tiktoken vocabulary."""
        return is_tiktoken(folder / Tiktoken.FILES[0])

    @staticmethod
    def _read(path: Path) -> Vocabulary:
        refuse_missing_or_pointer(path)
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path}: has more than {LARGEST_JSON:,} bytes; is it the right file?")
        ids: dict[str, int] = {}
        for number, line in enumerate(path.read_bytes().splitlines()):
            try:
                encoded, rank = LINE.fullmatch(line).groups()
                piece = base64.b64decode(encoded, validate=True).decode("latin-1").translate(BYTE_SYMBOLS)
                if int(rank) != number or piece in ids or len(piece) > LONGEST_TOKEN or number > LARGEST_SIZE:
                    raise ValueError
            except (AttributeError, ValueError, binascii.Error):
                raise CheckpointError(
                    f"{path}: line {number + 1} of this tiktoken vocabulary is {quoted(line)}; expected another piece "
                    f"in base64 and the rank {number}; {FETCH}"
                ) from None
            ids[piece] = number
        control = {f"<|{NAMES.get(n, f'control_{n}')}|>": len(ids) + n for n in range(CONTROL)}
        return Vocabulary(ids, None, True, LLAMA3, control, {}, begin=len(ids), end=len(ids) + 1)


def is_tiktoken(path: Path) -> bool:
    """Whether the file begins like a tiktoken vocabulary; it may be missing."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return BEGINNING.match(file.read(4 * LONGEST_TOKEN)) is not None
