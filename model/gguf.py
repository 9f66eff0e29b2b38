"""The container format of llama.cpp: one file with named fields and tensors, of version 2 or 3.

A file may come from anywhere. Every count, length and offset is checked against a bound and against the bytes that are
there before memory is taken for it. Only the header is parsed; tensors stay in the memory-mapped file until they are
asked for. Source: docs/gguf.md of the ggml repository.
"""

import array
import math
import mmap
import struct
from dataclasses import dataclass
from typing import BinaryIO

import torch

from errors import CheckpointError, quoted
from model.gguf_types import NOT_READ, TYPES, BlockType, decode

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Llama 3's header has 8 MB: 128,256 tokens and 280,147 merges.
LARGEST_HEADER, MOST_ENTRIES, MOST_ELEMENTS, LONGEST_NAME = 2**26, 2**16, 2**22, 2**12
LARGEST_ALIGNMENT, MOST_DIMENSIONS = 2**16, 4
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}  # codes of struct
BOOL, STRING, ARRAY = 7, 8, 9


@dataclass(frozen=True)
class Stored:
    """Where a tensor is. shape: slowest dimension first, as in PyTorch; start: its first byte in the file."""

    shape: tuple[int, ...]
    kind: BlockType
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.kind.size * self.kind.nbytes


class GgufFile:
    """A file whose header was read. fields: its metadata by key; stored: its tensors by name, in the file's order."""

    def __init__(self, where: str, file: BinaryIO):
        """where: what messages call the file. Raises CheckpointError for anything that is wrong with the header."""
        self.where, size = where, file.seek(0, 2)
        if size < 24:
            raise CheckpointError(f"{where}: has {size} bytes; not a whole GGUF file, fetch it again")
        self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # PyTorch warns of one that it cannot write
        header = _Header(where, self._bytes)
        tensors, fields = header.counts()
        self.fields = {}
        for _ in range(fields):
            key = header.text(LONGEST_NAME)
            if key in self.fields:
                raise header.error(f"the field {quoted(key)} is there twice")
            self.fields[key] = header.value(header.number("I"))
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= LARGEST_ALIGNMENT or alignment % 8:
            raise header.error(f"general.alignment is {quoted(alignment)}; expected a multiple of 8")
        self.stored = {}
        for _ in range(tensors):
            name, tensor = header.tensor(alignment)
            if name in self.stored:
                raise header.error(f"the tensor {quoted(name)} is there twice")
            self.stored[name] = tensor
        self._refuse_bad_places(-(-header.at // alignment) * alignment, size)

    def _refuse_bad_places(self, data: int, size: int) -> None:
        """Count offsets from the start of the file, not from `data`; refuse tensors that overlap or are not there."""
        self.stored = {name: Stored(it.shape, it.kind, data + it.start) for name, it in self.stored.items()}
        end, before = data, ""
        for name, tensor in sorted(self.stored.items(), key=lambda item: item[1].start):
            if tensor.start < end:
                raise CheckpointError(f"{self.where}: the tensors {before} and {name} overlap; fetch the file again")
            end, before = tensor.start + tensor.nbytes, name
            if end > size:
                raise CheckpointError(
                    f"{self.where}: ends after {size:,} bytes, inside the tensor {name}; fetch the whole file"
                )

    def read(self, name: str) -> torch.Tensor:
        """The tensor's values: float32, or the dtype in which they are stored if they are not quantised."""
        tensor = self.stored[name]
        data = torch.frombuffer(self._bytes, dtype=torch.uint8, count=tensor.nbytes, offset=tensor.start)
        return decode(tensor.kind, data).view(tensor.shape)


class _Header:
    """A position in the header. Its methods read what is there and move on."""

    def __init__(self, where: str, content: mmap.mmap):
        self.where, self.content, self.at = where, content, 0
        self.end = min(len(content), LARGEST_HEADER)

    def error(self, what: str) -> CheckpointError:
        """To be raised."""
        return CheckpointError(f"{self.where}: {what}; not a sound GGUF file, fetch it from a source you trust")

    def take(self, count: int) -> bytes:
        """The next bytes. Raises CheckpointError if there are not so many."""
        if count > self.end - self.at:
            what = "is longer than the file" if self.end == len(self.content) else f"has more than {self.end:,} bytes"
            raise self.error(f"the header {what}")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, code: str) -> int | float:
        """One number; code: as struct calls its type."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self, longest: int = LARGEST_HEADER) -> str:
        """A string of at most `longest` bytes."""
        count = self.number("Q")
        if count > longest:
            raise self.error(f"a name has {count:,} bytes")
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise self.error(f"a string before byte {self.at:,} is not UTF-8") from None

    def counts(self) -> tuple[int, int]:
        """(number of tensors, number of fields), after the magic bytes and the version."""
        if self.take(4) != MAGIC:
            raise self.error("does not begin with GGUF")
        version = self.number("I")
        if version not in VERSIONS:
            order = "; its bytes are in big-endian order" if version in (v << 24 for v in VERSIONS) else ""
            raise CheckpointError(f"{self.where}: is GGUF of version {version}{order}; 2 and 3 are read")
        tensors, fields = self.number("Q"), self.number("Q")
        if max(tensors, fields) > MOST_ENTRIES:
            raise self.error(f"claims {tensors:,} tensors and {fields:,} fields")
        return tensors, fields

    def value(self, kind: int) -> int | float | bool | str | list | array.array:
        """The value of a field: a number, a string, or an array of either."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind == BOOL:
            return self.take(1) != b"\0"
        if kind != ARRAY:
            raise self.error(f"a field before byte {self.at:,} has the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if count > MOST_ELEMENTS:
            raise self.error(f"an array has {count:,} elements")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS and kind != BOOL:
            raise self.error(f"an array before byte {self.at:,} has elements of type {kind}, which are not read")
        numbers = array.array(SCALARS.get(kind, "B"))
        numbers.frombytes(self.take(count * numbers.itemsize))
        return numbers

    def tensor(self, alignment: int) -> tuple[str, Stored]:
        """(name, where it is) of one tensor; `start` counts from the beginning of the tensors."""
        name = self.text(LONGEST_NAME)
        if not name.isprintable() or len(name) > 200:
            raise self.error(f"has a tensor called {quoted(name)}")
        dimensions = self.number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self.error(f"the tensor {name} has {dimensions} dimensions")
        sizes, number, start = [self.number("Q") for _ in range(dimensions)], self.number("I"), self.number("Q")
        if number not in TYPES:
            known = NOT_READ.get(number, "unknown")
            readable = ", ".join(kind.name for kind in TYPES.values())
            raise CheckpointError(
                f"{self.where}: {name} is of type {number} ({known}), which is not read; {readable} are"
            )
        kind = TYPES[number]
        if 0 in sizes or max(sizes) >= 2**48 or sizes[0] % kind.size or start % alignment:
            raise self.error(f"the tensor {name} is {kind.name} of {sizes} at {start}, which cannot be")
        return name, Stored(tuple(reversed(sizes)), kind, start)
