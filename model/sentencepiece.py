"""SentencePiece as LLaMA 1 and 2 use it: BOS in front of a text, EOS only where it is asked for."""

import os
from pathlib import Path

import sentencepiece

from errors import CheckpointError, quoted
from model.tiktoken import is_tiktoken
from model.tokenizer_settings import SETTINGS, adds_bos, json_beside, named_token, spare_rows
from model.weights import LARGEST_SIZE, refuse_missing_or_pointer

ADDED = "added_tokens.json"  # of transformers
LARGEST_FILE = 2**26  # bytes; LLaMA's has 500,000
NEWLINE = "<0x0A>"  # LLaMA's vocabularies have no piece for a line break, so it is written as this byte


class SentencePieceTokenizer:
    """The tokenizer in `tokenizer.model`, see protocols.Tokenizer.

    BOS begins every text, unless tokenizer_config.json beside it says `"add_bos_token": false`. BOS and EOS are the
    pieces that the file itself marks so, whatever config.json and tokenizer_config.json call them.
    """

    FILES = ("tokenizer.model",)
    longest_row = None

    def __init__(self, folder: Path, vocab_size: int | None):
        """vocab_size: rows of the model's embedding, or None if there is no model.

        Raises CheckpointError if the file is missing or unreadable, has no BOS or no EOS piece, or has another number
        of pieces than a model of `vocab_size` rows can have.
        """
        path = folder / self.FILES[0]
        self.pieces = _read(path)
        self.bos_id, self.eos_id = self.pieces.bos_id(), self.pieces.eos_id()
        self._added = _added_tokens(folder / ADDED)  # transformers keeps them apart; no text is turned into one of them
        rows = [number for number in self._added if vocab_size is None or number < vocab_size]
        size = max([self.pieces.GetPieceSize() - 1, *rows]) + 1
        self.assumed = spare_rows(path, size, vocab_size) + _assumed(folder, self.pieces)
        if adds_bos(folder) is False:
            self.bos_id = None
        if self.eos_id < 0 or (self.bos_id or 0) < 0:
            raise CheckpointError(f"{path}: has no BOS or no EOS piece; a LLaMA tokenizer has both")

    @property
    def _front(self) -> list[int]:
        return [] if self.bos_id is None else [self.bos_id]

    @staticmethod
    def reads(folder: Path) -> bool:
        """Whether the folder has a tokenizer of this kind: a tokenizer.model that is no tiktoken vocabulary."""
        path = folder / SentencePieceTokenizer.FILES[0]
        return path.exists() and not is_tiktoken(path)

    def encode(self, text: str) -> list[int]:
        """BOS, unless it is switched off, and the pieces of the text. Control symbols such as `</s>` are plain text."""
        return [*self._front, *self.pieces.EncodeAsIds(text)]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        return [[*self._front, *ids] for ids in self.pieces.Encode(texts, num_threads=os.cpu_count() or 1)]

    def decode(self, ids: list[int]) -> str:
        """The text of these tokens; BOS and EOS have none."""
        return self.pieces.DecodeIds(ids)

    def piece(self, token_id: int) -> str:
        """One token as the file stores it: `▁` stands for a space, `<0x0A>` for a line break."""
        if token_id < self.pieces.GetPieceSize():
            return self.pieces.IdToPiece(token_id)
        return self._added.get(token_id, f"<{token_id}>")

    def ends_line(self, token_id: int) -> bool:
        """Whether the token is a line break."""
        return self.piece(token_id) == NEWLINE


def _added_tokens(path: Path) -> dict[int, str]:
    """The names of the rows beyond the pieces, by id, from added_tokens.json if there is one."""
    tokens = json_beside(path.parent, path.name)
    for text, number in tokens.items():
        if type(number) is not int or not 0 <= number < LARGEST_SIZE or not text.isprintable() or len(text) > 200:
            raise CheckpointError(
                f"{path}: has {quoted({text: number})}; expected a printable token and its number; fetch the file again"
            )
    return {number: text for text, number in tokens.items()}


def _assumed(folder: Path, pieces: sentencepiece.SentencePieceProcessor) -> list[str]:
    """A line for everything in which the files of the folder disagree, and what is done then."""
    lines, config = [], json_beside(folder, "config.json")
    used = {"bos": pieces.bos_id(), "eos": pieces.eos_id()}
    if adds_bos(folder) is False:
        lines.append(f"{folder / SETTINGS}: add_bos_token is false, so no BOS begins a prompt")
        del used["bos"]
    for name, own in used.items():
        ids = config.get(f"{name}_token_id")
        if ids is not None and own >= 0 and own not in (ids if isinstance(ids, list) else [ids]):
            lines.append(
                f"{folder / 'config.json'}: {name}_token_id is {quoted(ids)}; the tokenizer's own, {own}, is used"
            )
        token = named_token(folder, f"{name}_token")
        if token is not None and own >= 0 and token != pieces.IdToPiece(own):
            lines.append(
                f"{folder / SETTINGS}: {name}_token is {quoted(token)}; the tokenizer's own, "
                f"{quoted(pieces.IdToPiece(own))}, is used"
            )
    return lines


def _read(path: Path) -> sentencepiece.SentencePieceProcessor:
    refuse_missing_or_pointer(path)
    if path.stat().st_size > LARGEST_FILE:
        raise CheckpointError(
            f"{path}: has more than {LARGEST_FILE:,} bytes; this is not a SentencePiece model, fetch it again"
        )
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(path.read_bytes())
        pieces.IdToPiece(list(range(pieces.GetPieceSize())))  # fails if one of them is not text
    except (RuntimeError, TypeError, UnicodeDecodeError):  # the last if a message quotes a damaged piece
        raise CheckpointError(f"{path}: not a SentencePiece model; fetch it again") from None
    return pieces
