"""Time, peak memory, and the rate of plain matrix products, which the other benchmarks use."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from machine.device import wait_for

PRODUCT_TOKENS, PRODUCT_IN, PRODUCT_OUT = 2048, 4096, 11_008  # a batch of tokens and LLaMA-7B's gate_proj


def seconds_of(call: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """(seconds until all work of the call is done, what it returned)."""
    wait_for(device)
    started = time.perf_counter()
    result = call()
    wait_for(device)
    return time.perf_counter() - started, result


class PeakMemory:
    """The peak of memory in use since `restart`, in bytes above what was in use when the object was made.

    On a GPU: what torch has allocated. On a CPU: the resident memory of the process as Linux counts it, which
    includes the pages of a mapped checkpoint once they have been read.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()
        self.before = self._in_use()

    def restart(self) -> None:
        """Forget the peak so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM; see proc(5)

    def above(self) -> int:
        """Bytes of the peak above the start."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")
        return peak - self.before

    def _in_use(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


class Products:
    """The two products of a frozen linear layer at the shapes of LLaMA-7B: x W^T forward and g W backward."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device = device
        self.x = torch.randn(PRODUCT_TOKENS, PRODUCT_IN, device=device, dtype=dtype)
        self.weight = torch.randn(PRODUCT_OUT, PRODUCT_IN, device=device, dtype=dtype)
        self.grad = torch.randn(PRODUCT_TOKENS, PRODUCT_OUT, device=device, dtype=dtype)

    def rates(self) -> dict[str, float]:
        """FLOP/s of each product: one call on a CPU, many on a GPU, where one is too short to time."""
        flops, calls = 2 * PRODUCT_TOKENS * PRODUCT_IN * PRODUCT_OUT, 50 if self.device.type == "cuda" else 1

        def repeated(product: Callable[[], torch.Tensor]) -> float:
            product()  # the first one of a shape looks for its kernel
            return calls * flops / seconds_of(lambda: [product() for _ in range(calls)], self.device)[0]

        with torch.inference_mode():
            return {
                "forward": repeated(lambda: self.x @ self.weight.T),
                "backward": repeated(lambda: self.grad @ self.weight),
            }
