"""Memory: how a CPU's is asked for, how much there is, and what to say when it runs out."""

import ctypes
import os
import re
import sys
from pathlib import Path

import torch
from torch import nn

from files import optional_module
from machine import cgroups, macos, ranks, windows

# How torch, its CPU allocator, CUDA's libraries and C++ report a lack of memory.
WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "ALLOC_FAILED",
)
IN_TRAINING = (
    "Lower --micro-batch-size or set --checkpointing on, also when resuming a run; or lower --max-len in another run"
)
ELSEWHERE = "Free some, or lower --max-len"
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it when it makes its first tensor
GPU_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the new name and the old, which every version reads
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT = 2**26  # bytes; a larger tensor goes back to the system when it is freed


def keep_freed_memory() -> None:
    """Make it cheap to allocate tensors again, on Linux.

    torch uses pages of 2 MB, unless the environment says 0, and the C library keeps freed memory for the next tensor.
    Otherwise each of a step's thousands of tensors costs a page fault for every 4 kB, and leaves holes
    (docs/performance.md). On a GPU, segments can grow: micro-batches differ in length, and the freed blocks of one
    would leave holes that fit no other. To be called before the first tensor is made.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    if sys.platform == "linux" and not any(name in os.environ for name in GPU_ALLOCATOR):
        os.environ[GPU_ALLOCATOR[1]] = "expandable_segments:True"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # only glibc has it
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def give_back_freed_memory() -> None:
    """Give the pages of freed tensors back to the system, which keep_freed_memory kept.

    To be called between two phases: what one of them freed has holes that do not fit the tensors of the next. After
    each step it would keep a process a quarter smaller, and make the steps of the demo model a quarter longer.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:  # only glibc has it
        trim(0)


def memory_line(error: BaseException) -> str | None:
    """One line for an error that means a lack of memory; None for any other error. The caller adds what to change."""
    says_so = any(word.lower() in str(error).lower() for word in WORDS)
    if not says_so and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return None
    first_line = (str(error).splitlines() or [""])[0]
    reason = re.sub(r"^\[enforce fail[^]]*\]( err == 0\.)? *", "", first_line)[:160].rstrip(". ")
    return f"out of memory{f' ({reason})' if reason else ''}"


# ---- how much there is --------------------------------------------------------------------------


def bytes_of(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each counted once; of those cut over ranks, this rank's part."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum((tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes for tensor in tensors.values())


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take. On a GPU, torch.cuda.set_per_process_memory_fraction may limit it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
        return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)
    free = _kilobytes("/proc/meminfo", "MemAvailable") or windows.free_memory() or macos.free_memory()
    allowed = cgroups.free_memory()  # of a container or a batch system, whose machine may have far more
    free = free or _physical_memory()
    return (free if allowed is None else min(free, allowed)) // ranks.count_on_node()


def resident_memory() -> int:
    """Bytes of this process that are in memory; where no system tells, the most so far."""
    known = _kilobytes("/proc/self/status", "VmRSS") or windows.process_memory()[0] or macos.resident_memory()
    return known or peak_resident_memory()


def mapped_memory() -> int:
    """Bytes of this process in memory that are pages of files, such as a mapped checkpoint's; 0 where no system tells.

    Linux gives them back when memory is short, so free_memory counts them, too.
    """
    return _kilobytes("/proc/self/status", "RssFile")


def peak_resident_memory() -> int:
    """Bytes of this process that were in memory, at most so far."""
    resource = optional_module("resource")
    if resource is None:  # Windows
        return windows.process_memory()[1]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _physical_memory() -> int:
    """Bytes of the machine, whoever has them."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def _kilobytes(path: str, name: str) -> int:
    """The value of a line of one of Linux' files, in bytes; 0 without that file or line."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)
