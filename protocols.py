"""What rooms ask of each other without importing each other.

Importable from everywhere.
"""

from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back.

    A class that reads one kind of tokenizer has these members, and four more that only model/tokenizer.py and
    run/base.py use: FILES, the names of its files; reads(folder), whether a folder has this kind;
    __init__(folder, vocab_size); and `assumed`, a line for everything in which the folder's files disagree.
    """

    bos_id: int | None  # begins every text; None: this tokenizer puts nothing in front
    eos_id: int  # ends an answer
    longest_row: int | None  # tokens that its model was made for, see model.weights.longest_row; None: not known

    def encode(self, text: str) -> list[int]:
        """BOS, if there is one, and the ids of the text. Control symbols such as `</s>` in the text are plain text."""

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of every text."""

    def decode(self, ids: list[int]) -> str:
        """The text of these ids."""

    def piece(self, token_id: int) -> str:
        """One token as visible text, for a person."""

    def ends_line(self, token_id: int) -> bool:
        """Whether the text of this token ends with a line break."""
