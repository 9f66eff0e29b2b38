"""SentencePiece as LLaMA 1 and 2 use it: BOS in front of a text, EOS only where it is asked for."""

import os
import re
from pathlib import Path

import sentencepiece

from errors import CheckpointError, quoted
from model.weights import read_json, refuse_missing_or_pointer

# A checkpoint may add rows to its embedding: a few for tokens of its own, and more up to a multiple of 128 or 256.
EXTRA_ROWS, PADDED_ROWS, MULTIPLE = 64, 256, 128
SETTINGS = "tokenizer_config.json"  # beside it, of transformers
LARGEST_FILE = 2**26  # bytes; LLaMA's has 500,000
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n[A-Za-z0-9+/]+={0,2} \d+\r?\n")  # base64 and rank, a line each
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
        size = self.pieces.GetPieceSize()
        extra = 0 if vocab_size is None else vocab_size - size
        if not 0 <= extra <= (EXTRA_ROWS if (vocab_size or 0) % MULTIPLE else PADDED_ROWS):
            raise CheckpointError(
                f"{path}: has {size} pieces, but config.json says vocab_size {vocab_size}; "
                "take the tokenizer of the same checkpoint"
            )
        settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
        self.assumed = _assumed(folder, self.pieces, extra, settings)
        if not _adds_bos(folder / SETTINGS, settings):
            self.bos_id = None
        if self.eos_id < 0 or (self.bos_id or 0) < 0:
            raise CheckpointError(f"{path}: has no BOS or no EOS piece; a LLaMA tokenizer has both")

    @property
    def _front(self) -> list[int]:
        return [] if self.bos_id is None else [self.bos_id]

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
        return self.pieces.IdToPiece(token_id) if token_id < self.pieces.GetPieceSize() else f"<{token_id}>"

    def ends_line(self, token_id: int) -> bool:
        """Whether the token is a line break."""
        return self.piece(token_id) == NEWLINE


def _adds_bos(path: Path, settings: dict) -> bool:
    value = settings.get("add_bos_token")
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{path}: add_bos_token is {quoted(value)}; expected true or false")
    return value is not False


def _assumed(folder: Path, pieces: sentencepiece.SentencePieceProcessor, extra: int, settings: dict) -> list[str]:
    """A line for everything in which the files of the folder disagree, and what is done then."""
    lines, config = [], read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if extra > EXTRA_ROWS:
        lines.append(
            f"{folder / 'config.json'}: vocab_size is {extra} more than the {pieces.GetPieceSize()} pieces of the "
            "tokenizer; the rows beyond them are taken for padding"
        )
    used = {"bos": pieces.bos_id(), "eos": pieces.eos_id()}
    if settings.get("add_bos_token") is False:
        lines.append(f"{folder / SETTINGS}: add_bos_token is false, so no BOS begins a prompt")
        del used["bos"]
    for name, own in used.items():
        ids = config.get(f"{name}_token_id")
        if ids is not None and own >= 0 and own not in (ids if isinstance(ids, list) else [ids]):
            lines.append(
                f"{folder / 'config.json'}: {name}_token_id is {quoted(ids)}; the tokenizer's own, {own}, is used"
            )
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
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
        if TIKTOKEN.match(path.read_bytes()[:200]):
            raise CheckpointError(
                f"{path}: is a tiktoken vocabulary, as Llama 3 has it, which is not read; only SentencePiece files "
                "are: take a checkpoint of LLaMA 1 or 2, Vicuna, TinyLlama or similar"
            ) from None
        raise CheckpointError(f"{path}: not a SentencePiece model; fetch it again") from None
    return pieces
