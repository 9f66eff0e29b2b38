"""Write a SentencePiece `tokenizer.model`: its protocol buffer, ModelProto of sentencepiece_model.proto."""

import struct
from dataclasses import dataclass

BPE = 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # SentencePiece.Type


@dataclass(frozen=True)
class Pieces:
    """A BPE vocabulary that writes unknown characters as bytes and changes no character of a text.

    pieces: (text, score, type) by id; unknown, bos, eos: ids. space_in_front: a text begins as if a space stood there.
    shrink_spaces: several spaces become one.
    """

    pieces: list[tuple[str, float, int]]
    unknown: int
    bos: int
    eos: int
    space_in_front: bool
    shrink_spaces: bool

    def serialised(self) -> bytes:
        """The content of the file."""
        content = [
            _bytes(1, _bytes(1, text.encode()) + _float(2, score) + _integer(3, kind))
            for text, score, kind in self.pieces
        ]
        trainer = _integer(3, BPE) + _integer(4, len(self.pieces)) + _integer(35, True)  # byte_fallback
        for field, number in ((40, self.unknown), (41, self.bos), (42, self.eos)):
            trainer += _integer(field, number) + _bytes(field + 5, self.pieces[number][0].encode())
        normalizer = _bytes(1, b"identity") + _integer(3, self.space_in_front) + _integer(4, self.shrink_spaces)
        return b"".join(content) + _bytes(2, trainer) + _bytes(3, normalizer + _integer(5, True))  # "▁" for a space


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _integer(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _float(field: int, number: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", number)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
