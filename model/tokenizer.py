"""SentencePiece with LLaMA's conventions: BOS in front of every text, EOS only where asked for."""

import os
from pathlib import Path

import sentencepiece

from errors import CheckpointError
from model.weights import refuse_missing_or_pointer

# Checkpoints may add a few rows to the embedding (a pad token; padding to a round number).
EXTRA_ROWS = 64
LARGEST_FILE = 2**26  # bytes; LLaMA's has 500,000


class Tokenizer:
    """tokenizer.model of a checkpoint folder.

    bos_id, eos_id: int. Raises CheckpointError if the file is missing, unreadable, has no BOS or
    EOS, or does not belong to a model of `vocab_size` rows (None: no model is at hand).
    """

    def __init__(self, folder: str | Path, vocab_size: int | None):
        path = Path(folder) / "tokenizer.model"
        refuse_missing_or_pointer(path)
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError(
                f"{path}: has more than {LARGEST_FILE:,} bytes; not a SentencePiece model, fetch it again"
            )
        self.pieces = sentencepiece.SentencePieceProcessor()
        try:
            self.pieces.LoadFromSerializedProto(path.read_bytes())
            size = self.pieces.GetPieceSize()
            self.pieces.IdToPiece(list(range(size)))  # each is text
        except (RuntimeError, TypeError, UnicodeDecodeError):  # the last where its own message quotes a damaged piece
            raise CheckpointError(f"{path}: not a SentencePiece model; fetch it again") from None
        if vocab_size is not None and not 0 <= vocab_size - size <= EXTRA_ROWS:
            raise CheckpointError(
                f"{path}: has {size} pieces, but config.json says vocab_size {vocab_size}; "
                "take the tokenizer of the same checkpoint"
            )
        self.bos_id, self.eos_id = self.pieces.bos_id(), self.pieces.eos_id()
        if self.bos_id < 0 or self.eos_id < 0:
            raise CheckpointError(f"{path}: has no BOS or no EOS piece; a LLaMA tokenizer has both")

    def encode(self, text: str) -> list[int]:
        """BOS and the pieces of the text; control symbols written in the text stay plain text."""
        return [self.bos_id, *self.pieces.EncodeAsIds(text)]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Every text as `encode` would, on all cores."""
        return [[self.bos_id, *ids] for ids in self.pieces.Encode(texts, num_threads=os.cpu_count() or 1)]

    def decode(self, ids: list[int]) -> str:
        return self.pieces.DecodeIds(ids)

    def piece(self, token_id: int) -> str:
        """One token as stored: `▁` marks a space, `<0x0A>` is a newline."""
        return self.pieces.IdToPiece(token_id) if token_id < self.pieces.GetPieceSize() else f"<{token_id}>"
