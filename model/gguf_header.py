"""The header of a GGUF file, read from the front, within bounds."""

import array
import math
import mmap
import struct
from dataclasses import dataclass

from errors import CheckpointError, quoted
from model.gguf_types import NOT_READ, TYPES, BlockType

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Llama 3's header has 8 MB: 128,256 tokens and 280,147 merges.
LARGEST_HEADER, MOST_ENTRIES, MOST_ELEMENTS, LONGEST_NAME = 2**26, 2**16, 2**22, 2**12
MOST_DIMENSIONS, LARGEST_DIMENSION = 4, 2**40
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}  # as struct calls them
BOOL, STRING, ARRAY = 7, 8, 9


@dataclass(frozen=True)
class Stored:
    """Where a tensor is. shape: slowest dimension first, as in PyTorch; start: place of its first byte."""

    shape: tuple[int, ...]
    kind: BlockType
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.kind.size * self.kind.nbytes


class Header:
    """A position in the header. The methods read what is there and move on; they raise CheckpointError."""

    def __init__(self, where: str, content: mmap.mmap):
        """where: what messages call the file."""
        self.where, self.content, self.at = where, content, 0
        self.end = min(len(content), LARGEST_HEADER)

    def error(self, what: str) -> CheckpointError:
        """To be raised."""
        return CheckpointError(f"{self.where}: {what}; the file is damaged, fetch it again from a source you trust")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.end - self.at:
            cut = self.end == len(self.content)
            raise self.error("ends inside its header" if cut else f"its header has more than {self.end:,} bytes")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, code: str) -> int | float:
        """One number; code: as struct calls its type."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self, longest: int = LARGEST_HEADER) -> str:
        """A string of at most `longest` bytes."""
        count = self.number("Q")
        if count > longest:
            raise self.error(f"has a name or text of {count:,} bytes")
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise self.error(f"the text that ends at byte {self.at:,} is not UTF-8") from None

    def counts(self) -> tuple[int, int]:
        """(number of tensors, number of fields), after the magic bytes and the version.

        Raises CheckpointError if it is no GGUF file, of another version, or of more entries than any model has.
        """
        if self.take(4) != MAGIC:
            raise self.error("does not begin with GGUF")
        version = self.number("I")
        if version not in VERSIONS:
            order = ", big-endian" if version in [known << 24 for known in VERSIONS] else ""
            raise CheckpointError(
                f"{self.where}: is GGUF of version {version:#x}{order}; versions 2 and 3 are read, little-endian"
            )
        tensors, fields = self.number("Q"), self.number("Q")
        if max(tensors, fields) > MOST_ENTRIES:
            raise self.error(f"claims to have {tensors:,} tensors and {fields:,} fields")
        return tensors, fields

    def value(self) -> int | float | bool | str | list[str] | array.array:
        """The value of a field: a number, a text, or an array of either."""
        kind = self.number("I")
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind == BOOL:
            return self.take(1) != b"\0"
        if kind != ARRAY:
            raise self.error(f"the field at byte {self.at:,} is of the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if count > MOST_ELEMENTS:
            raise self.error(f"an array claims to have {count:,} elements")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS and kind != BOOL:
            raise self.error(f"the array at byte {self.at:,} has elements of type {kind}; numbers and texts are read")
        numbers = array.array(SCALARS.get(kind, "B"))
        numbers.frombytes(self.take(count * numbers.itemsize))
        return numbers

    def tensor(self, alignment: int) -> tuple[str, Stored]:
        """(name, where it is) of one tensor; `start` counts from the beginning of all tensors.

        Raises CheckpointError if its name, its sizes or its type cannot be.
        """
        name = self.text(LONGEST_NAME)
        if not name.isprintable() or len(name) > 200:
            raise self.error(f"has a tensor called {quoted(name)}")
        dimensions = self.number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self.error(f"the tensor {name} has {dimensions} dimensions")
        sizes, number, start = [self.number("Q") for _ in range(dimensions)], self.number("I"), self.number("Q")
        if number not in TYPES:
            name = f"{name} is of type {NOT_READ.get(number, f'number {number}')}"
            readable = ", ".join(kind.name for kind in TYPES.values())
            raise CheckpointError(f"{self.where}: {name}, which is not read; {readable} are")
        kind = TYPES[number]
        if not 0 < min(sizes) <= max(sizes) <= LARGEST_DIMENSION or sizes[0] % kind.size or start % alignment:
            raise self.error(f"the tensor {name} is {kind.name} of shape {sizes[::-1]} at {start}, which cannot be")
        return name, Stored(tuple(sizes[::-1]), kind, start)
