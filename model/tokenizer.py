"""The one place that decides which class reads the tokenizer of a checkpoint folder."""

from pathlib import Path

from errors import CheckpointError
from model.sentencepiece import SentencePieceTokenizer
from model.weights import refuse_missing_or_pointer
from protocols import Tokenizer

KINDS = (SentencePieceTokenizer,)  # a folder is read by the first whose file is there


def load_tokenizer(folder: Path, vocab_size: int | None) -> Tokenizer:
    """The tokenizer of a checkpoint folder. vocab_size: rows of the model's embedding, or None if there is no model.

    Raises CheckpointError if the folder has no tokenizer, or one that is damaged or belongs to another model.
    """
    return _kind_in(folder)(folder, vocab_size)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that belong to its tokenizer.

    Raises CheckpointError if the folder has no tokenizer, or a Git LFS pointer in place of one of the files.
    """
    paths = [folder / name for name in _kind_in(folder).FILES if (folder / name).exists()]
    for path in paths:
        refuse_missing_or_pointer(path)
    return paths


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has the files of a tokenizer; they are not read."""
    return any((folder / kind.FILES[0]).exists() for kind in KINDS)


def _kind_in(folder: Path) -> type:
    for kind in KINDS:
        if (folder / kind.FILES[0]).exists():
            return kind
    names = " or ".join(str(folder / kind.FILES[0]) for kind in KINDS)
    raise CheckpointError(f"{names}: missing; fetch it, or pass a complete checkpoint folder")
