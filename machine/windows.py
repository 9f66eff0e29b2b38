"""How much memory Windows has free, and how much this process takes; elsewhere every figure is 0."""

import ctypes


class _Machine(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("total", ctypes.c_ulonglong)] + [
        (name, ctypes.c_ulonglong) for name in ("free", "pages", "free_pages", "virtual", "free_virtual", "extended")
    ]


class _Process(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = [("length", ctypes.c_ulong), ("faults", ctypes.c_ulong)] + [
        (name, ctypes.c_size_t) for name in ("peak", "resident", "a", "b", "c", "d", "pages", "peak_pages")
    ]


def free_memory() -> int:
    """Bytes that are free on this machine."""
    status = _Machine()
    status.length = ctypes.sizeof(status)
    if hasattr(ctypes, "windll"):
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.free


def process_memory() -> tuple[int, int]:
    """Bytes of this process that are in memory: (now, at most so far)."""
    counters = _Process()
    counters.length = ctypes.sizeof(counters)
    if hasattr(ctypes, "windll"):
        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
        kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length)
    return counters.resident, counters.peak
