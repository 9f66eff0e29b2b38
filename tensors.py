"""Tensors: which ones are trained, how values are put into them, copies to a device, random Booleans.

Importable from everywhere.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from errors import AdapterError, quoted

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter that requires a gradient, by its name in the model, in module order: A and B of LoRA today.

    The optimizer, clipping, the checks for finite values, saved states, the plan and the sum over ranks take these, and
    know of no LoRA.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What is trained, as it is now, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in trainable_parameters(model).items()}


def put_tensors(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Copy the given tensors into the wanted ones of the same names.

    Raises AdapterError, starting with `where`, naming the tensors that are missing, surplus, misshapen or not finite;
    nothing is copied then.
    """
    problems = [f"missing {name}" for name in wanted if name not in given]
    for name, tensor in given.items():
        if name not in wanted:
            problems.append(f"unexpected {name if name.isprintable() and len(name) <= 200 else quoted(name)}")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{name} is {list(tensor.shape)}, the model asks for {list(wanted[name].shape)}")
        elif not is_plain(tensor):
            problems.append(f"{name} has dtype {tensor.dtype}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} has NaN or infinite values")
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise AdapterError(f"{where}: its tensors do not fit the model: {shown}")
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)


def is_plain(tensor: Tensor) -> bool:
    """Whether it is dense, holds values, and these are floating-point numbers."""
    return tensor.layout == torch.strided and not tensor.is_meta and tensor.dtype in FLOATS


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether all values are finite; on a GPU a few kernels and one wait, not some for each tensor."""
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(tensors, math.inf)))


def on_device(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """These tensors of the CPU, of one dtype, on the device. A GPU gets them in one copy, for which nothing waits."""
    if device.type == "cpu":
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    moved = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    parts = moved.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]


def bernoulli(like: Tensor, probability: float) -> Tensor:
    """Booleans in the shape of `like`, each true with this probability, to within 2^-16.

    On a CPU each random 64-bit number gives four: that takes a third of the time of Tensor.bernoulli_, which takes 6 %
    of a step of LoRA and a quarter of one of SASRec. A GPU draws Booleans in one kernel.
    """
    if like.device.type != "cpu":
        return torch.empty(like.shape, dtype=torch.bool, device=like.device).bernoulli_(probability)
    numbers = torch.empty(math.ceil(like.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    uniform = numbers.view(torch.int16)[: like.numel()]  # in [-2^15, 2^15)
    return (uniform < min(round(probability * 2**16), 2**16 - 1) - 2**15).view(like.shape)
