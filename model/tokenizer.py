"""The one place that decides which class reads the tokenizer of a checkpoint folder."""

from pathlib import Path

from errors import CheckpointError
from model.byte_bpe import ByteBPE
from model.sentencepiece import SentencePieceTokenizer
from model.tiktoken import Tiktoken
from model.weights import LARGEST_JSON, refuse_missing_or_pointer
from protocols import Tokenizer

KINDS = (SentencePieceTokenizer, ByteBPE, Tiktoken)  # a folder is read by the first that says so
# What transformers reads beside a checkpoint, and what is therefore kept when one is merged or converted.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)


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


def kept_files(folder: Path, tokenizer_folder: Path | None = None) -> list[Path]:
    """The files that a checkpoint made from the one in `folder` keeps: the tokenizer's, and COMPANIONS.

    tokenizer_folder: where the tokenizer and what belongs to it is, if it is not `folder`. Raises CheckpointError if
    there is no tokenizer, or if one of them is no plain file of a sensible size.
    """
    places = list(dict.fromkeys((folder, tokenizer_folder or folder)))
    paths = {path.name: path for path in tokenizer_files(places[-1])}
    for place in places:
        for name in COMPANIONS:
            if (place / name).exists():
                paths.setdefault(name, place / name)
    for path in paths.values():
        refuse_missing_or_pointer(path)
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path}: has more than {LARGEST_JSON:,} bytes; is it the right file?")
    return list(paths.values())


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has the files of a tokenizer; of a `tokenizer.model` only the beginning is read."""
    return any(kind.reads(folder) for kind in KINDS)


def _kind_in(folder: Path) -> type:
    for kind in KINDS:
        if kind.reads(folder):
            return kind
    names = " or ".join(dict.fromkeys(str(folder / kind.FILES[0]) for kind in KINDS))
    raise CheckpointError(f"{names}: missing; fetch it, or pass a complete checkpoint folder")
