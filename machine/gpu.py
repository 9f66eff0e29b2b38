"""What a GPU is told before it computes, and what is known of it."""

import os
import warnings

import torch

from errors import notice

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")  # with these, cuBLAS sums in the same order every time
# Bytes beside all tensors, from the documentation of the libraries; not measured. cuBLAS and cuBLASLt have a workspace
# of 32 MiB each on Hopper, and kernels are loaded when they are first used. NCCL has 4 MiB for each of up to 32
# channels to each neighbour in its ring.
LIBRARIES, NCCL = 200_000_000, 300_000_000


def prepare_gpu(device: torch.device, deterministic: bool) -> None:
    """Make `device`, which has a number, the current GPU, and set how it computes.

    deterministic: sum in a fixed order, at a cost that docs/performance.md names. To be called before
    the first product: cuBLAS reads its setting once.
    """
    if deterministic:
        if os.environ.get(CUBLAS_WORKSPACE) not in DETERMINISTIC_WORKSPACES:
            os.environ[CUBLAS_WORKSPACE] = DETERMINISTIC_WORKSPACES[0]
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it takes time, and none is read here
    # Dropout draws from the current GPU's generator, and only that one is saved.
    torch.cuda.set_device(device)
    # Partial sums of a product in bf16 would have 8 bits.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # Autograd's own thread has no CUDA context before its first product; PyTorch makes one, and warns.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    # On Hopper, cuDNN's attention is the first choice and makes a plan for every new shape, which takes 0.4 s. Rows
    # here have many lengths.
    torch.backends.cuda.enable_cudnn_sdp(False)


def has_bf16(device: torch.device) -> bool:
    """Whether it computes in bf16 itself; a GPU older than Ampere (Turing, Volta) emulates it."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def warn_of_emulation(device: torch.device, precision: str) -> None:
    """Say so if the GPU emulates the precision that was asked for."""
    if precision == "bf16" and not has_bf16(device):
        notice(
            f"WARNING: {torch.cuda.get_device_name(device)} has no arithmetic in bf16 and emulates it slowly; "
            "--precision fp32 is faster, with --base-dtype int8 if memory does not suffice"
        )


def bytes_of_libraries(processes: int) -> int:
    """What libraries will take of a GPU's memory, beside all tensors, when they are first used."""
    return LIBRARIES + (NCCL if processes > 1 else 0)
