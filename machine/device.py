"""Which device computes, in which precision, compiled or not."""

import contextlib
import importlib.util
import os
import shutil
import statistics
import time

import torch

from errors import FlagError, notice
from machine import ranks
from machine.gpu import prepare_gpu
from machine.memory import peak_resident_memory
from model.llama import Llama

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BASE_DTYPES = ("same", "int8")  # of the matrices in the decoder layers; same: as the rest of the base


REFUSED = {
    "mps": "PyTorch does not restore its random generator when a layer is recomputed, so gradients would be wrong"
}


def pick_device(name: str, deterministic: bool = False) -> torch.device:
    """The device that computes, made ready; `auto` is the GPU if there is one. A GPU has its number.

    deterministic: two runs on this GPU have the same bytes, as on a CPU. Raises FlagError if the named device is not
    there, or cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = ranks.own_device(name)
    try:
        device = torch.device(name)
        if device.type in REFUSED:
            raise FlagError(f"--device {name}: {REFUSED[device.type]}; say cpu")
        if device.type == "cuda" and torch.cuda.is_available():
            device = torch.device("cuda", device.index or 0)
            prepare_gpu(device, deterministic)
        torch.empty(1, device=device).item()  # "meta" is a device that holds no values
    except (RuntimeError, AssertionError):
        raise FlagError(f"--device {name}: not available here; leave it out, or say cpu") from None
    if device.type == "cpu":
        say_if_busy(os.cpu_count() or 1, torch.get_num_threads())
    return device


def say_if_busy(cores: int, threads: int) -> None:
    """Say it if other programs need cores that the threads of this run want.

    The threads wait for each other at every product, so a run goes at the pace of the thread without a core. Beside two
    other programs on two cores, two threads took 3.5 times (the demo) and 15 times (SASRec) as long as one.
    """
    busy = min(busy_cores(), cores)
    free = max(1, cores - busy)
    if threads > free:
        notice(
            f"Other programs keep {busy} of {cores} cores busy. {threads} threads, which wait for each other, may then "
            f"take several times as long as {free}: put OMP_NUM_THREADS={free} before the command."
        )


def busy_cores() -> int:
    """How many threads of other programs run now: the median of some looks in a tenth of a second. 0 if unknown.

    Only Linux tells. Its load average would not do: it counts what has ended in the last minute.
    """
    try:
        running = []
        for _ in range(9):
            with open("/proc/loadavg", encoding="ascii") as file:
                running.append(int(file.read().split()[3].split("/")[0]))
            time.sleep(0.012)
    except (OSError, ValueError, IndexError):
        return 0
    return max(0, int(statistics.median(running)) - 1)  # this thread runs, too


def forked_rng(device: torch.device) -> contextlib.AbstractContextManager:
    """A context after which the random generators of the CPU and of this device are as before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def native_precision(device: str) -> str:
    """bf16; fp32 on a CPU without instructions for bf16 products, where these take some forty times as long."""
    if device not in ("auto", "cpu") or (device == "auto" and torch.cuda.is_available()):
        return "bf16"
    return "bf16" if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def compile_layers(model: Llama, backend: str = "inductor") -> None:
    """Let torch.compile compile each decoder layer when it first runs, for rows of any length and number.

    Raises FlagError if the compiler lacks something that it needs.
    """
    on_cpu = model.lm_head.weight.device.type == "cpu"
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise FlagError("--compile: needs a C++ compiler (g++); install one, or leave it out")
    if not on_cpu and importlib.util.find_spec("triton") is None:
        raise FlagError("--compile: needs the package triton; install it, or leave it out")
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend=backend)


def threads_each(processes: int) -> int:
    """Threads for each of so many processes: what OMP_NUM_THREADS says, else its share of the cores that it may use."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // processes)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory() -> int:
    """Bytes: the most so far that was allocated on the current GPU, or that was resident if the GPU is not used."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return on_gpu or peak_resident_memory()
