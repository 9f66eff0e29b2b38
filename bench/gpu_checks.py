"""The correctness part of bench/gpu.py: a GPU compared with the CPU, and with itself, on the demo model.

Every check returns its figures and `passed`. Data: stand-in.
"""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import train
from cli.train import TrainFlags
from data.load import load_dataset
from data.pairs import pad_right
from data.splits import Split, encode_split
from errors import notice
from lora.inject import add_lora
from machine.device import BASE_DTYPES, pick_device
from model.llama import Llama
from model.prefix_tree import PrefixTree
from model.varlen import has_varlen
from objectives.by_name import make_objective
from run.base import base_tokenizer, load_base
from scoring.forward import score
from tensors import trainable_parameters

OBJECTIVES = {
    "own": {},
    "shared": {"kl_forcing": "shared"},
    "tallrec": {"objective": "tallrec"},
    "released": {"objective": "released"},
}
PAIRS, PROMPTS = 4, 32  # of the demo's validation rows
HEAD_SIZE = 64
GRADIENT_TOLERANCE = 1e-4  # of the gradient's norm, in fp32
BF16_TOLERANCE = 3.0  # times the error in bf16 of the CPU, or of masked attention
RUN = (
    *("--data", "demo", "--shots", "8", "--valid-rows", "16", "--test-rows", "4", "--lora-dropout", "0.2"),
    *("--batch-size", "4", "--micro-batch-size", "2", "--max-steps", "4", "--eval-every", "2"),
    *("--deterministic", "--checkpointing", "on"),
)


def demo_model(device: torch.device, precision: str, dropout: float, base_dtype: str = "same") -> Llama:
    """The demo model with an adapter whose B is not zero, the same on every device."""
    model, _ = load_base("demo", precision, device, base_dtype)
    torch.manual_seed(0)
    add_lora(model, dropout=dropout)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return model


@functools.cache
def demo_split(rows: int) -> Split:
    """The first validation rows of the stand-in data."""
    data = load_dataset("demo", None, False, notice)
    return encode_split(data.valid[:rows], data, base_tokenizer("demo"), "tallrec", 512)


def gradient(model: Llama, split: Split, objective: dict) -> torch.Tensor:
    """The gradient of a step over these pairs in micro-batches of two, one vector on the CPU, in float64."""
    flags = TrainFlags(kl_weight=0.1, batch_size=len(split.pairs), micro_batch_size=2, **objective)
    train.accumulate_gradients(model.train(), split.pairs, make_objective(vars(flags)), 2).read()
    parameters = list(trainable_parameters(model).values())
    whole = torch.cat([parameter.grad.flatten() for parameter in parameters]).cpu().double()
    for parameter in parameters:
        parameter.grad = None
    return whole


def gradients(device: torch.device, work: Path) -> dict:
    """fp32 gradients of every objective, on the device and on the CPU; relative distance."""
    split = demo_split(PAIRS)
    models = [demo_model(where, "fp32", 0.0) for where in (torch.device("cpu"), device)]
    distances = {}
    for name, objective in OBJECTIVES.items():
        on_cpu, there = (gradient(model, split, objective) for model in models)
        distances[name] = float((there - on_cpu).norm() / on_cpu.norm())
    return {"relative distance": distances, "passed": max(distances.values()) <= GRADIENT_TOLERANCE}


def log_odds(device: torch.device, work: Path) -> dict:
    """bf16 log-odds: how far they are from those of fp32 on the CPU, root mean square, in nats, beside the CPU's own.

    int8, the rest in bf16, is only reported.
    """
    split, found = demo_split(PROMPTS), {}
    cpu = torch.device("cpu")
    for name, (where, precision, base_dtype) in {
        "exact": (cpu, "fp32", "same"),
        "cpu": (cpu, "bf16", "same"),
        "device": (device, "bf16", "same"),
        "device, int8": (device, "bf16", BASE_DTYPES[1]),
    }.items():
        found[name] = score(demo_model(where, precision, 0.0, base_dtype), split).z_pos
    exact = found.pop("exact")
    errors = {name: float(np.sqrt(np.mean((values - exact) ** 2))) for name, values in found.items()}
    return {"rms error, nats": errors, "passed": errors["device"] <= BF16_TOLERANCE * errors["cpu"]}


def attention(device: torch.device, work: Path) -> dict:
    """varlen_attn and masked attention in bf16, values and gradients of one call with grouped queries: how far each is
    from masked attention in float64 on the CPU, relative.
    """
    if not has_varlen(torch.bfloat16, device, HEAD_SIZE):
        return {"varlen_attn": "not used here"}
    rows = [row.ids for pair in demo_split(PAIRS).pairs for row in (pair.positive, pair.negative)]
    lengths, generator = torch.tensor([len(row) for row in rows]), torch.Generator().manual_seed(0)

    def tree(like: torch.Tensor, by_runs: bool) -> PrefixTree:
        return PrefixTree(pad_right(rows), lengths, None, like, by_runs)

    tokens = len(tree(torch.empty(0), False))
    drawn = [torch.randn(tokens, heads, HEAD_SIZE, generator=generator).bfloat16() for heads in (4, 2, 2, 4)]

    def values(like: torch.Tensor, by_runs: bool) -> torch.Tensor:
        *parts, weights = (part.to(like.dtype).to(like.device) for part in drawn)
        parts = [part.requires_grad_() for part in parts]
        y = tree(like, by_runs).all_tokens.attention.attend(*parts)
        found = (y, *torch.autograd.grad(y, parts, weights))
        return torch.cat([tensor.detach().cpu().double().flatten() for tensor in found])

    exact, there = (
        values(torch.empty(0, dtype=torch.float64), False),
        torch.empty(0, dtype=torch.bfloat16, device=device),
    )
    ways = {"varlen_attn": values(there, True), "masked": values(there, False)}
    errors = {name: float((found - exact).norm() / exact.norm()) for name, found in ways.items()}
    return {"relative distance": errors, "passed": errors["varlen_attn"] <= BF16_TOLERANCE * errors["masked"]}


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """As --deterministic; afterwards as before."""
    pick_device(str(device), deterministic=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def checkpointing(device: torch.device, work: Path) -> dict:
    """Whether recomputing every layer changes a bit of the gradient: deterministic, and as it is by default."""
    split, model, figures = demo_split(PAIRS), demo_model(device, "bf16", 0.2), {}
    for name, context in (("deterministic", deterministic(device)), ("default", contextlib.nullcontext())):
        found = []
        with context:
            for layers in (0, len(model.model.layers)):
                model.model.checkpointed_layers = layers
                torch.manual_seed(2)
                found.append(gradient(model, split, {}))
        figures[f"{name}: the same bytes"] = torch.equal(*found)
    return figures | {"passed": figures["deterministic: the same bytes"]}


def resuming(device: torch.device, work: Path) -> dict:
    """Whether a run with --deterministic, and one that was broken and resumed, end with the same bytes."""
    found = []
    with deterministic(device):
        for name, break_at in (("whole", 0), ("broken", 4)):
            out = work / name
            _run([*RUN, "--device", str(device), "--out", str(out)], break_at)
            if break_at:
                _run(["--resume", "--out", str(out)], 0)
            found.append((out / "last/step-00000004/trained.safetensors").read_bytes())
    return {"the same bytes": found[0] == found[1], "passed": found[0] == found[1]}


def _run(argv: list[str], break_at: int) -> None:
    """train.main(argv) without its output, broken off at this call of accumulate_gradients, of which one rehearses."""
    real, calls = train.accumulate_gradients, []

    def counted(*args: object) -> object:
        calls.append(None)
        if len(calls) == break_at:
            raise KeyboardInterrupt
        return real(*args)

    train.accumulate_gradients = counted
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train.main(argv)
    except KeyboardInterrupt:
        if not break_at:
            raise
    finally:
        train.accumulate_gradients = real


CHECKS = {
    "gradients in fp32": gradients,
    "log-odds in bf16": log_odds,
    "attention in bf16": attention,
    "checkpointing": checkpointing,
    "repeating and resuming": resuming,
}
