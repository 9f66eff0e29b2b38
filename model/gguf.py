"""The container format of llama.cpp: one file with named fields and tensors, of version 2 or 3.

A file may come from anywhere. Every count, length and offset is checked against a bound and against the bytes that are
there before memory is taken for it; see model.gguf_header. Tensors stay in the memory-mapped file until they are asked
for. Source: docs/gguf.md of the ggml repository.
"""

import mmap
from dataclasses import replace
from typing import BinaryIO

import torch

from errors import CheckpointError, quoted
from model.gguf_header import LONGEST_NAME, Header
from model.gguf_types import decode

SMALLEST, LARGEST_ALIGNMENT = 24, 2**16  # bytes


class GgufFile:
    """A file whose header was read. fields: its metadata by key; stored: its tensors by name, in the file's order."""

    def __init__(self, where: str, file: BinaryIO):
        """where: what messages call the file; file: open, and not needed any more afterwards.

        Raises CheckpointError for anything that is wrong with the header, or if a tensor is not whole.
        """
        self.where, size = where, file.seek(0, 2)
        if size < SMALLEST:
            raise CheckpointError(f"{where}: has {size} bytes; not a whole GGUF file, fetch it again")
        self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = Header(where, self._bytes)
        tensors, fields = header.counts()
        self.fields = {}
        for _ in range(fields):
            key = header.text(LONGEST_NAME)
            if key in self.fields:
                raise header.error(f"the field {quoted(key)} is there twice")
            self.fields[key] = header.value()
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= LARGEST_ALIGNMENT or alignment % 8:
            raise header.error(f"general.alignment is {quoted(alignment)}; expected a multiple of 8")
        self.stored = {}
        for _ in range(tensors):
            name, tensor = header.tensor(alignment)
            if name in self.stored:
                raise header.error(f"the tensor {name} is there twice")
            self.stored[name] = tensor
        self._place_tensors(-(-header.at // alignment) * alignment, size)

    def _place_tensors(self, data: int, size: int) -> None:
        """Count `start` from the beginning of the file. data: where the tensors begin; size: of the file, in bytes.

        Raises CheckpointError if two tensors overlap, or if the file ends before one does.
        """
        self.stored = {name: replace(tensor, start=data + tensor.start) for name, tensor in self.stored.items()}
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
        stored = bytearray(memoryview(self._bytes)[tensor.start : tensor.start + tensor.nbytes])
        return decode(tensor.kind, torch.frombuffer(stored, dtype=torch.uint8)).view(tensor.shape)
