"""The kernels part of bench/gpu.py: how many a step has, the share of its time without one, and which take the time."""

import collections
from collections.abc import Callable

import torch

from errors import RunError
from machine.device import wait_for

ATTENTION_KERNELS = {"cudnn": "cuDNN", "flash": "flash", "fmha": "memory-efficient", "softmax": "products and softmax"}
# Words in a kernel's name, by what it does; the first that fits counts.
KINDS = {
    "attention": ("flash", "fmha"),
    "products": ("gemm", "nvjet", "xmma", "cutlass", "gemv", "splitk"),
    "norms": ("norm",),
    "gathering and summing rows": ("index", "gather", "scatter"),
    "random numbers": ("distribution", "random", "philox"),
    "copies and casts": ("copy", "memcpy", "memset", "catarray", "fill"),
    "optimizer": ("multi_tensor",),
    "softmax": ("softmax",),
    "roll": ("roll",),
    "silu": ("silu",),
    "sums": ("reduce",),
}
OTHER = "other, elementwise"
LONGEST = 12  # kernels that are named


def kernels(step: Callable[[], object], device: torch.device) -> dict:
    """Figures of one step after a first one. Raises RunError on a CPU."""
    if device.type != "cuda":
        raise RunError("a CPU has no kernels to count")
    step()
    wait_for(device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        wait_for(device)
    on_gpu = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    spans = [(event.name, event.time_range.start, event.time_range.end) for event in on_gpu]
    names = " ".join({name.lower() for name, *_ in spans})
    return {
        "kernels": len(spans),
        "idle_share": idle_share([span for _, *span in spans]),
        "attention": [backend for word, backend in ATTENTION_KERNELS.items() if word in names],
        "milliseconds": milliseconds(spans, kind_of),
        "longest": dict(list(milliseconds(spans, lambda name: name[:90]).items())[:LONGEST]),
    }


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)


def milliseconds(spans: list[tuple[str, float, float]], of: Callable[[str], str]) -> dict[str, str]:
    """{of(name): "milliseconds of all its kernels (how many)"}, longest first. spans: (name, start, end) in us."""
    total: dict[str, float] = collections.Counter()
    counts: dict[str, int] = collections.Counter()
    for name, start, end in spans:
        total[of(name)] += (end - start) / 1000
        counts[of(name)] += 1
    return {name: f"{total[name]:.2f} ({counts[name]})" for name in sorted(total, key=total.get, reverse=True)}


def idle_share(spans: list[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end that no span covers."""
    spans = sorted(spans)
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])
