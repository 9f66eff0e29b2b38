"""The number formats of GGUF files: blocks of stored bytes to the float32 values that they stand for.

A block holds 32 or 256 values as small integers, with one or more scales in float16. Every value is computed in float32
in the order of ggml's reference code (ggml-quants.c of llama.cpp, functions dequantize_row_*), so the results are the
same bits as those of the `gguf` package. F32, F16 and BF16 are stored values and are returned as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**22  # values that are unpacked at once: the intermediate results of a large matrix would need much memory


@dataclass(frozen=True)
class BlockType:
    """size: values in a block; nbytes: its bytes; unpack: (N, nbytes) uint8 to (N, size) float32, None for `dtype`."""

    name: str
    size: int
    nbytes: int
    unpack: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float32


def decode(kind: BlockType, data: Tensor) -> Tensor:
    """All values of a tensor. data: (bytes,) uint8, whole blocks; returns (values,) in kind.dtype."""
    if kind.unpack is None:
        return data.view(kind.dtype)
    blocks = data.view(-1, kind.nbytes)
    values = torch.empty(len(blocks), kind.size)
    step = CHUNK // kind.size
    for start in range(0, len(blocks), step):
        values[start : start + step] = kind.unpack(blocks[start : start + step])
    return values.view(-1)


# ---- parts of a block ---------------------------------------------------------------------------


def _half(part: Tensor) -> Tensor:
    """(N, 2) bytes of a float16 to (N, 1) float32."""
    return part.contiguous().view(torch.float16).float()


def _nibbles(part: Tensor, group: int) -> Tensor:
    """(N, n) bytes to (N, 2n) integers 0 to 15: of each `group` bytes first all lower halves, then all upper ones."""
    part = part.reshape(len(part), -1, 1, group)
    return torch.cat((part & 15, part >> 4), dim=2).flatten(1)


def _fifth_bits(part: Tensor) -> Tensor:
    """(N, 4) bytes to (N, 32): bit i of the 32, times 16."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((part.unsqueeze(-1) >> shifts & 1) << 4).flatten(1)


def _scales_and_minima(part: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes of Q4_K and Q5_K that hold eight scales and eight minima of 6 bits: two of (N, 8), float32.

    Bytes 0 to 3 have scales 0 to 3, bytes 4 to 7 minima 0 to 3. Their two upper bits, and the halves of bytes 8 to 11,
    make up scales and minima 4 to 7.
    """
    low, middle, high = part.split(4, dim=1)
    scales = torch.cat((low & 63, (high & 15) | (low >> 2 & 48)), dim=1)
    minima = torch.cat((middle & 63, (high >> 4) | (middle >> 2 & 48)), dim=1)
    return scales.float(), minima.float()


# ---- formats of 32 values -----------------------------------------------------------------------


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks[:, :2])


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * (_nibbles(blocks[:, 2:], 16).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * _nibbles(blocks[:, 4:], 16).float() + _half(blocks[:, 2:4])


def _q5_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * ((_nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])).float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    values = (_nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])).float()
    return _half(blocks[:, :2]) * values + _half(blocks[:, 2:4])


# ---- formats of 256 values, the K-quants --------------------------------------------------------


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled_eighths(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8).view(8, 1)
    upper = (blocks[:, 16:48].unsqueeze(1) >> shifts & 1) << 4  # (N, 8, 32): bit j belongs to eighth j
    return _scaled_eighths(blocks, _nibbles(blocks[:, 48:], 32) | upper.flatten(1))


def _scaled_eighths(blocks: Tensor, values: Tensor) -> Tensor:
    """scale * value - minimum, each eighth with its own. values: (N, 256) integers."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    scales, minima = _half(blocks[:, :2]) * scales, _half(blocks[:, 2:4]) * minima
    return (scales.unsqueeze(-1) * values.view(-1, 8, 32).float() - minima.unsqueeze(-1)).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128], 64)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)
    upper = (blocks[:, 128:192].view(-1, 2, 1, 32) >> shifts & 3) << 4  # (N, 2, 4, 32)
    values = (low | upper.flatten(1)).float() - 32
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float() * _half(blocks[:, 208:])
    return (scales.unsqueeze(-1) * values.view(-1, 16, 16)).flatten(1)


TYPES = {  # by their number in a file
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2, dtype=torch.float16),
    2: BlockType("Q4_0", 32, 18, _q4_0),
    3: BlockType("Q4_1", 32, 20, _q4_1),
    6: BlockType("Q5_0", 32, 22, _q5_0),
    7: BlockType("Q5_1", 32, 24, _q5_1),
    8: BlockType("Q8_0", 32, 34, _q8_0),
    12: BlockType("Q4_K", 256, 144, _q4_k),
    13: BlockType("Q5_K", 256, 176, _q5_k),
    14: BlockType("Q6_K", 256, 210, _q6_k),
    30: BlockType("BF16", 1, 2, dtype=torch.bfloat16),
}
NOT_READ = {10: "Q2_K", 11: "Q3_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 20: "IQ4_NL", 21: "IQ3_S", 23: "IQ4_XS"}
