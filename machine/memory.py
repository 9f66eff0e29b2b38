"""How a CPU's memory is asked for, and what to say when it runs out."""

import ctypes
import os
import re
import sys

import torch

# How torch, its CPU allocator, CUDA's libraries and C++ say it.
WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "ALLOC_FAILED",
)
IN_TRAINING = "Lower --micro-batch-size or set --checkpointing on, both also when a run is resumed; or lower --max-len in another run"
ELSEWHERE = "Free some, or lower --max-len"
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch looks at it when it makes its first tensor
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT = 2**26  # bytes; a larger tensor goes back to the system when it is freed


def keep_freed_memory() -> None:
    """Make tensors cheap to ask for again, on Linux: pages of 2 MB, unless the environment says 0, and a C library that keeps what was freed
    for the next tensor. Else each of a step's thousands of tensors costs a page fault for every 4 kB, and leaves holes
    (docs/performance.md). To be called before there is any tensor.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # glibc alone has it
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def memory_line(error: BaseException) -> str | None:
    """One line for an error that means a lack of memory; None for any other error. What to change, the caller says."""
    if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(
        word.lower() in str(error).lower() for word in WORDS
    ):
        return None
    reason = re.sub(r"^\[enforce fail[^]]*\]( err == 0\.)? *", "", (str(error).splitlines() or [""])[0])[:160].rstrip(
        ". "
    )
    return f"out of memory{f' ({reason})' if reason else ''}"
