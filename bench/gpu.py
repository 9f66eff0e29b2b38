"""Everything that a GPU can show about this project, in one command of at most 8 minutes.

    python -m bench.gpu                                  LLaMA-7B's shape; writes gpu.json and gpu.md
    python -m bench.gpu --shape llama-3b --pairs 1,4     for a small GPU

It needs torch 2.11 or newer and the packages of requirements.txt; no checkpoint, no data, no network. First, the GPU is
compared with the CPU and with itself on the demo model (bench/gpu_checks.py). Then a base of the named shape is drawn
on the GPU, in bf16, and LCFT's steps are taken on made pairs, which share beginnings as MovieLens' prompts do: seconds
of the first step and of those after it, tokens and FLOPs per second beside plain products, the peak of memory beside
the plan, and which attention ran. Where it is varlen_attn, steps with masked attention follow; then deterministic ones,
8 pairs of 512 tokens in the memory of a card of 24 GB, the kernels of a step (bench/gpu_kernels.py), and, if asked for,
compiled layers. With transformers and peft installed, the expert peer of bench.peer takes the same steps and scores the
same prompts. What does not fit into the time or the memory, or lacks a package, is listed as skipped, with the reason.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import train
from bench.checkpoints import SHAPES, STANDARD_DEVIATION
from bench.flops import step_flops
from bench.gpu_checks import CHECKS, deterministic
from bench.gpu_kernels import kernels
from bench.measure import Products, seconds_of
from bench.peer import product_rate
from bench.peer_work import ALPHA, EXPERT, PREFIX_BY_HAND, RANK, TARGETS
from cli.train import TrainFlags
from cli.verb import run_verb
from data.interactions import Interaction
from data.pairs import EncodedPair, Row
from data.splits import Split
from errors import RunError, notice
from machine.device import compile_layers, pick_device
from machine.gpu import CUBLAS_WORKSPACE, DETERMINISTIC_WORKSPACES
from machine.memory import memory_line
from model.llama import Llama, LlamaConfig
from model.varlen import has_varlen
from objectives.by_name import make_objective
from run.inputs import adapter_settings, start_adapter
from run.plan import Plan, make_plan
from scoring.forward import score
from tensors import trainable_parameters

SELF_TEST = SHAPES["small"] | {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 500}
COMMON, OF_POLARITY, OWN = 65, 16, 162  # tokens of a prompt: of all, of its polarity, its own; see docs/performance.md
SMALL_CARD, SMALL_CARD_TOKENS = 24 * 10**9, 512  # bytes; tokens of each row that must fit with 8 pairs


def made_pairs(count: int, vocabulary: int, own: int = OWN) -> list[EncodedPair]:
    """Pairs of random tokens, with as much in common as MovieLens' prompts have. own: tokens of a row alone."""
    draw = np.random.default_rng(0)

    def ids(length: int) -> list[int]:
        return draw.integers(3, vocabulary, length).tolist()

    start, sides = ids(COMMON), (ids(OF_POLARITY), ids(OF_POLARITY))
    pairs = []
    for number in range(count):
        tail = ids(own)
        prompts = [[1, *start, *side, *tail] for side in sides]
        answers = [[5, 4, 2], [6, 4, 2]]
        pairs.append(EncodedPair(*(Row(p, a) for p, a in zip(prompts, answers)), f"pair {number}"))
    return pairs


def drawn_model(shape: dict, device: torch.device) -> Llama:
    """A frozen bf16 base of this shape, its weights drawn on the device."""
    fields = {name: shape[name] for name in LlamaConfig.__dataclass_fields__ if name in shape}
    with torch.device("meta"):
        model = Llama(LlamaConfig(head_dim=shape["hidden_size"] // shape["num_attention_heads"], **fields))
    model = model.to(torch.bfloat16).to_empty(device=device).requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0) if "norm" in name else parameter.normal_(0, STANDARD_DEVIATION)
    return model.eval()


class Bench:
    """The parts that ran, and those that did not. lines: {part: figures}; skipped: {part: why}."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.began = args, time.monotonic()
        self.lines: dict[str, dict] = {}
        self.skipped: dict[str, str] = {}

    def part(self, name: str, work: Callable[[], dict]) -> None:
        """Run a part unless the time is over. A lack of memory, or an error, skips it and is said."""
        passed = time.monotonic() - self.began
        if passed > self.args.seconds:
            self.skipped[name] = f"{passed:.0f} s had passed"
            return
        try:
            figures = work()
        except Exception as error:  # of one part; the others may still show something
            why = memory_line(error) or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self.skipped[name] = why[:300]
        else:
            self.lines[name] = figures | {"part_s": round(time.monotonic() - self.began - passed, 1)}
        notice(f"{name}: {self.skipped.get(name) or self.lines[name]}")


# ---- speed and memory ---------------------------------------------------------------------------


def one_step(
    args: argparse.Namespace, model: Llama, size: int, own: int = 0
) -> tuple[Callable[[], dict], Plan, list[EncodedPair]]:
    """(a whole step of one micro-batch of `size` pairs, its plan, the pairs). own: instead of --own."""
    pairs = made_pairs(size, model.config.vocab_size, own or args.own)
    flags = TrainFlags(batch_size=size, micro_batch_size=size, checkpointing=args.checkpointing)
    objective = make_objective(vars(flags))
    plan = make_plan(model, objective, pairs, pairs, flags)
    model.model.checkpointed_layers = plan.checkpointed
    parameters = list(trainable_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> dict[str, float]:
        sums = train.accumulate_gradients(model.train(), pairs, objective, size)
        record = sums.read(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return record

    return step, plan, pairs


def training(args: argparse.Namespace, model: Llama, size: int, rates: dict[str, float], own: int = 0) -> dict:
    """Seconds, rates and memory of steps of `size` pairs. rates: of plain products; own: instead of --own."""
    device = model.lm_head.weight.device
    step, plan, pairs = one_step(args, model, size, own)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    cold, record = seconds_of(step, device)
    warm = statistics.median(seconds_of(step, device)[0] for _ in range(args.steps))
    flops = {kind: step_flops(model.config, "own", pairs, kind == "distinct") for kind in ("distinct", "all")}
    return {
        "pairs": size,
        "distinct_tokens": plan.tokens,
        "recomputed_layers": plan.checkpointed,
        "attention": attention_of(model),
        "first_step_s": cold,
        "step_s": warm,
        "planned_step_s": plan.step_s,
        "tokens_per_s": record["tokens"] / warm,
        "distinct_tokens_per_s": plan.tokens / warm,
        **{f"mfu_{kind}": count / warm / product_rate(rates, True) for kind, count in flops.items()},
        **memory_of(device),
        "planned_bytes": plan.training,
    }


@contextlib.contextmanager
def small_card(device: torch.device) -> Iterator[None]:
    """Meanwhile, tensors get no more memory than on a card of 24 GB. Raises RunError without a GPU of that size."""
    if device.type != "cuda":
        raise RunError("a CPU has no card")
    total = torch.cuda.get_device_properties(device).total_memory
    if total < SMALL_CARD:
        raise RunError("this GPU has less")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(SMALL_CARD / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextlib.contextmanager
def compiled(model: Llama) -> Iterator[None]:
    """Meanwhile, the decoder layers run as --compile makes them. Raises RunError on a CPU, where it takes minutes."""
    if model.lm_head.weight.device.type != "cuda":
        raise RunError("it takes minutes on a CPU")
    compile_layers(model)
    try:
        yield
    finally:
        for layer in model.model.layers:
            layer._compiled_call_impl = None  # PyTorch has no call that undoes it


def attention_of(model: Llama) -> str:
    """The form in which a tree's tokens attend."""
    weight = model.lm_head.weight
    return "varlen_attn" if has_varlen(weight.dtype, weight.device, model.config.head_dim) else "masked"


@contextlib.contextmanager
def masked(model: Llama) -> Iterator[None]:
    """Meanwhile, the tree's tokens attend in groups with masks. Raises RunError if they do that anyway."""
    if attention_of(model) == "masked":
        raise RunError("varlen_attn is not used here")
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(True)


def memory_of(device: torch.device) -> dict:
    """Bytes at most: allocated by tensors, reserved by the allocator, and taken of the device by everything."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "peak_allocated": torch.cuda.max_memory_allocated(device),
        "peak_reserved": torch.cuda.max_memory_reserved(device),
        "device_used": total - free,
    }


def scoring(args: argparse.Namespace, model: Llama, prompts: int) -> dict:
    """Prompts per second, as validation scores them: the first time, and after it."""
    pairs = made_pairs(prompts, model.config.vocab_size, args.own)
    rows = [Interaction(None, (), 0, number % 2 == 0) for number in range(prompts)]
    split = Split(rows, pairs, 0, {True: [5, 4], False: [6, 4]})
    device = model.lm_head.weight.device
    cold, warm = (seconds_of(lambda: score(model, split, negatives=False), device)[0] for _ in range(2))
    return {"prompts": prompts, "first_prompts_per_s": prompts / cold, "prompts_per_s": prompts / warm}


def expert(args: argparse.Namespace, shape: dict, device: torch.device, size: int) -> dict:
    """The expert peer of bench.peer on the same pairs, prompts and a base of the same shape, in bf16."""
    for package in ("transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            raise RunError(f"{package} is not installed")
    from bench import peer_forms  # it imports both

    model = peer_forms.drawn_peer(shape, device, (TARGETS, RANK, ALPHA, 0.005))
    pairs = made_pairs(size, shape["vocab_size"], args.own)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        peer_forms.LOSSES["expert"](model.train(), pairs, "own", 1e-4).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    cold = seconds_of(step, device)[0]
    warm = statistics.median(seconds_of(step, device)[0] for _ in range(args.steps))
    figures = {"pairs": size, "first_step_s": cold, "step_s": warm, **memory_of(device)}
    prompts = [pair.positive.prompt for pair in made_pairs(args.prompts, shape["vocab_size"], args.own)]
    for name in (EXPERT, PREFIX_BY_HAND):
        scored = functools.partial(peer_forms.SCORES[name], model.eval(), prompts, 5, 6)
        _, warm = (seconds_of(scored, device)[0] for _ in range(2))
        figures[f"prompts_per_s, {name}"] = args.prompts / warm
    return figures


# ---- all of it ----------------------------------------------------------------------------------


def environment(device: torch.device) -> dict:
    """What ran."""
    found = {"torch": torch.__version__, "python": sys.version.split()[0], "device": str(device)}
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return found | {
        "gpu": properties.name,
        "memory": properties.total_memory,
        "capability": capability,
        "cuda": torch.version.cuda,
    }


def report(bench: Bench) -> str:
    """One Markdown table: part, figure, value; then what was skipped."""
    rows = ["| part | figure | value |", "|---|---|---|"]
    for part, figures in bench.lines.items():
        for name, value in figures.items():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append(f"| {part} | {name} | {shown} |")
    return "\n".join(rows + ["", *(f"Skipped: {name}: {why}" for name, why in bench.skipped.items())])


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=(*SHAPES, "self-test"), default="llama-7b")
    parser.add_argument("--pairs", default="8,1,4,16", help="of a micro-batch, most important first")
    parser.add_argument("--own", type=int, default=OWN, help="tokens of a row that no other shares")
    parser.add_argument("--prompts", type=int, default=512, help="to score")
    parser.add_argument("--steps", type=int, default=5, help="timed, after the first")
    parser.add_argument("--compiled", action="store_true", help="time compiled layers too; they take a minute")
    parser.add_argument("--checkpointing", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--seconds", type=float, default=420, help="no part begins after so many")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="name of the two files, without .json and .md")
    return parser.parse_args(argv)


def ours(bench: Bench, args: argparse.Namespace, shape: dict, device: torch.device) -> None:
    """The parts with a base of the shape; its memory is free again afterwards."""
    if "products" not in bench.lines:
        bench.skipped["training and scoring"] = "no plain products to compare with"
        return
    rates = {name: bench.lines["products"][name] for name in ("forward", "backward")}
    model = drawn_model(shape, device)
    start_adapter(model, adapter_settings(TrainFlags()), 0)
    sizes = [int(size) for size in args.pairs.split(",")]
    for size in sizes:
        bench.part(f"training, {size} pairs", lambda size=size: training(args, model, size, rates))
    bench.part("scoring", lambda: scoring(args, model, args.prompts))

    most = sizes[0]

    def trained_within(context: contextlib.AbstractContextManager, own: int = 0) -> dict:
        with context:
            return training(args, model, most, rates, own)

    bench.part(f"training, {most} pairs, masked attention", lambda: trained_within(masked(model)))
    bench.part(f"training, {most} pairs, deterministic", lambda: trained_within(deterministic(device)))
    whole_rows = SMALL_CARD_TOKENS - len(made_pairs(1, shape["vocab_size"], 0)[0].positive.ids)
    name = f"training, {most} pairs of {SMALL_CARD_TOKENS} tokens, 24 GB"
    bench.part(name, lambda: trained_within(small_card(device), whole_rows))
    bench.part(f"kernels, {most} pairs", lambda: kernels(one_step(args, model, most)[0], device))
    if args.compiled:
        bench.part(f"training, {most} pairs, compiled", lambda: trained_within(compiled(model)))


def main(argv: list[str]) -> None:
    args = arguments(argv)
    os.environ.setdefault(CUBLAS_WORKSPACE, DETERMINISTIC_WORKSPACES[0])  # read once, and one check needs it
    device, bench = pick_device(args.device), Bench(args)
    shape = SELF_TEST if args.shape == "self-test" else SHAPES[args.shape]
    bench.part("environment", lambda: environment(device))
    with tempfile.TemporaryDirectory() as folder:
        for name, check in CHECKS.items():
            bench.part(name, lambda check=check: check(device, Path(folder)))
    bench.part("products", lambda: Products(device, torch.bfloat16).rates())
    ours(bench, args, shape, device)
    size = int(args.pairs.split(",")[0])
    bench.part(f"expert peer, {size} pairs", lambda: expert(args, shape, device, size))
    content = {"shape": args.shape, "lines": bench.lines, "skipped": bench.skipped}
    args.out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    args.out.with_suffix(".md").write_text(report(bench) + "\n")
    print(report(bench))
    failed = [name for name, figures in bench.lines.items() if figures.get("passed") is False]
    if failed:
        raise RunError(f"not as it should be: {', '.join(failed)}")


if __name__ == "__main__":
    run_verb(main)
