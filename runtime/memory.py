"""What to say when memory runs out."""

import torch

# How torch, its CPU allocator, CUDA's libraries and C++ say it.
WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")


def memory_line(error: BaseException) -> str | None:
    """One line for an error that means a lack of memory, with what to change; None for any other error."""
    if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(word.lower() in str(error).lower() for word in WORDS):
        return None
    reason = (str(error).splitlines() or [""])[0][:160].rstrip(". ")
    return (
        f"out of memory{f' ({reason})' if reason else ''}. Lower --micro-batch-size or set --checkpointing on, both also when a run "
        "is resumed; or lower --max-len"
    )
