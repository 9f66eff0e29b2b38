"""SentencePiece as LLaMA 1 and 2 use it: BOS in front of every text, EOS only where it is asked for."""

import os
from pathlib import Path

import sentencepiece

from errors import CheckpointError
from model.weights import refuse_missing_or_pointer

EXTRA_ROWS = 64  # a checkpoint may add a few rows to its embedding: a pad token, or padding to a round number
LARGEST_FILE = 2**26  # bytes; LLaMA's has 500,000
NEWLINE = "<0x0A>"  # LLaMA's vocabularies have no piece for a line break, so it is written as this byte


class SentencePieceTokenizer:
    """The tokenizer in `tokenizer.model`, see model.tokenizer.Tokenizer. It always has a BOS token."""

    FILES = ("tokenizer.model",)

    def __init__(self, folder: Path, vocab_size: int | None):
        """vocab_size: rows of the model's embedding, or None if there is no model.

        Raises CheckpointError if the file is missing or unreadable, has no BOS or no EOS piece, or has another number
        of pieces than a model of `vocab_size` rows can have.
        """
        path = folder / self.FILES[0]
        self.pieces = _read(path)
        self.bos_id, self.eos_id = self.pieces.bos_id(), self.pieces.eos_id()
        size = self.pieces.GetPieceSize()
        if vocab_size is not None and not 0 <= vocab_size - size <= EXTRA_ROWS:
            raise CheckpointError(
                f"{path}: has {size} pieces, but config.json says vocab_size {vocab_size}; "
                "take the tokenizer of the same checkpoint"
            )
        if self.bos_id < 0 or self.eos_id < 0:
            raise CheckpointError(f"{path}: has no BOS or no EOS piece; a LLaMA tokenizer has both")

    def encode(self, text: str) -> list[int]:
        """BOS and the pieces of the text. Control symbols such as `</s>` in the text are read as plain text."""
        return [self.bos_id, *self.pieces.EncodeAsIds(text)]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        return [[self.bos_id, *ids] for ids in self.pieces.Encode(texts, num_threads=os.cpu_count() or 1)]

    def decode(self, ids: list[int]) -> str:
        """The text of these tokens; BOS and EOS have none."""
        return self.pieces.DecodeIds(ids)

    def piece(self, token_id: int) -> str:
        """One token as the file stores it: `▁` stands for a space, `<0x0A>` for a line break."""
        return self.pieces.IdToPiece(token_id) if token_id < self.pieces.GetPieceSize() else f"<{token_id}>"

    def ends_line(self, token_id: int) -> bool:
        """Whether the token is a line break."""
        return self.piece(token_id) == NEWLINE


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
    except (RuntimeError, TypeError, UnicodeDecodeError):  # the last if SentencePiece's message quotes a damaged piece
        raise CheckpointError(f"{path}: not a SentencePiece model; fetch it again") from None
    return pieces
