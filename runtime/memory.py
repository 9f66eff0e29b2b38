"""What to say when memory runs out."""

import re

import torch

# How torch, its CPU allocator, CUDA's libraries and C++ say it.
WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")
IN_TRAINING = "Lower --micro-batch-size or set --checkpointing on, both also when a run is resumed; or lower --max-len in another run"
ELSEWHERE = "Free some, or lower --max-len"


def memory_line(error: BaseException) -> str | None:
    """One line for an error that means a lack of memory; None for any other error. What to change, the caller says."""
    if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(word.lower() in str(error).lower() for word in WORDS):
        return None
    reason = re.sub(r"^\[enforce fail[^]]*\]( err == 0\.)? *", "", (str(error).splitlines() or [""])[0])[:160].rstrip(". ")
    return f"out of memory{f' ({reason})' if reason else ''}"
