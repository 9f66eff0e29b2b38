"""What `--base-dtype int8` costs and saves.

    python -m bench.int8 --stories DIR --layers 32 --speed

Flags choose the parts: --data demo (the default) measures the accuracy of the untuned demo model, --stories DIR the
next-token distributions of stories260K or another small checkpoint, --layers N the memory of a random checkpoint with
the shape of LLaMA-7B and N layers (all are 32), --speed the time of one layer, forward and backward. Prints Markdown
tables. Only speed depends on how busy the machine is. After tuning: reproduce.py few-shot -- --base-dtype int8.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cli.data import load_data
from cli.train import TrainFlags
from data.splits import encode_split
from lora.inject import add_lora
from machine.device import BASE_DTYPES, DTYPES
from metrics import evaluate
from model.int8 import Int8Linear
from model.llama import DecoderLayer, Llama, LlamaConfig, rope_tables
from model.weights import load_llama
from model.write import plan_shards, write_checkpoint
from run.base import load_base
from scoring.splits import score_split

# (precision, base dtype); the others are compared with the first.
BASES = (("fp32", "same"), ("bf16", "same"), ("fp32", "int8"), ("bf16", "int8"))
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
}
SMALL = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
}
MB = 1e6


def table(header: tuple[str, ...], rows: list[tuple]) -> None:
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def name_of(precision: str, base_dtype: str) -> str:
    return precision if base_dtype == "same" else f"{base_dtype}, the rest {precision}"


def weight_bytes(module: nn.Module) -> tuple[int, int]:
    """(bytes of the matrices in the decoder layers, bytes of all parameters)."""
    linears = [layer for layer in module.model.layers.modules() if isinstance(layer, nn.Linear)]
    return sum(p.nbytes for layer in linears for p in layer.parameters()), sum(p.nbytes for p in module.parameters())


# ---- accuracy -----------------------------------------------------------------------------------


def demo_accuracy(name: str, data_dir: str | None) -> None:
    """The untuned demo model on a test split, in every base."""
    data, rows, reference = load_data(vars(TrainFlags(data=name, data_dir=data_dir))), [], None
    for precision, base_dtype in BASES:
        model, tokenizer = load_base("demo", precision, torch.device("cpu"), base_dtype)
        split = encode_split(data.test, data, tokenizer, "tallrec", 512)
        scored = score_split(model, split)
        figures, log_odds = evaluate(scored), np.concatenate((scored.z_pos, scored.z_neg))
        reference = log_odds if reference is None else reference
        matrices, everything = weight_bytes(model)
        rows.append(
            (
                name_of(precision, base_dtype),
                f"{matrices / MB:.2f}",
                f"{everything / MB:.2f}",
                f"{figures['auc']:.4f}",
                f"{figures['auc_combined']:.4f}",
                f"{figures['contradiction_rate']:.3f}",
                f"{figures['group_accuracy']:.3f}",
                f"{np.abs(log_odds - reference).mean():.4f}",
                f"{np.abs(log_odds - reference).max():.4f}",
            )
        )
    measured = f"{len(data.test)} test rows of {data.name} ({data.source})"
    spread = f"log-odds in nats, of both prompts, standard deviation {reference.std():.3f}"
    print(f"\nDemo model, untuned, {measured}; {spread}")
    accuracy = ("AUC", "AUC of both", "contradiction", "both right", "mean difference of log-odds from fp32", "largest")
    table(("base", "matrices, MB", "all weights, MB", *accuracy), rows)
    liked = np.mean([row.label for row in data.test])
    print(f'Yes to "like" and No to "dislike", whoever is asked: contradiction 0, both right {liked:.3f}')


@torch.inference_mode()
def continued(model: Llama, rows: int, length: int, sample: bool) -> torch.Tensor:
    """Texts that the model writes, (rows, length): BOS, its most likely first tokens, then greedy or sampled tokens."""
    generator = torch.Generator().manual_seed(0)
    first = model(torch.tensor([[1]]))[0, -1].topk(rows).indices
    ids = torch.stack((torch.ones_like(first), first), dim=1)
    while ids.shape[1] < length:
        logits = model(ids)[:, -1].float()
        if sample:  # at temperature 1
            following = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        else:
            following = logits.argmax(-1, keepdim=True)
        ids = torch.cat((ids, following), dim=1)
    return ids


@torch.inference_mode()
def language_accuracy(folder: Path, rows: int = 16, length: int = 256) -> None:
    """Next-token distributions compared with fp32, on texts that the model wrote in fp32."""
    models = {base: load_llama(folder, DTYPES[base[0]], int8=base[1] == "int8") for base in BASES}
    for kind, sample in (("greedy", False), ("drawn at temperature 1", True)):
        ids, lines, reference = continued(models[BASES[0]], rows, length, sample), [], None
        for base, model in models.items():
            log_p = model(ids[:, :-1]).double().log_softmax(-1)  # (rows, length - 1, V)
            reference = log_p if reference is None else reference
            kl = (reference.exp() * (reference - log_p)).sum(-1)
            same = (log_p.argmax(-1) == reference.argmax(-1)).double().mean()
            perplexity = F.nll_loss(log_p.flatten(0, 1), ids[:, 1:].flatten()).exp()
            matrices, everything = weight_bytes(model)
            lines.append(
                (
                    name_of(*base),
                    f"{matrices / MB:.3f}",
                    f"{everything / MB:.3f}",
                    f"{perplexity:.4f}",
                    f"{kl.mean():.6f}",
                    f"{kl.max():.4f}",
                    f"{same:.4f}",
                )
            )
        print(f"\n{folder.name}, {rows} texts of {length} tokens that it wrote, {kind}; KL(fp32 || base) in nats")
        accuracy = ("perplexity", "mean KL", "largest KL", "same most likely token")
        table(("base", "matrices, MB", "all weights, MB", *accuracy), lines)


# ---- memory -------------------------------------------------------------------------------------


def write_random(folder: Path, config: LlamaConfig) -> None:
    """Write a bf16 checkpoint of random weights, one shard at a time."""
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in Llama(config).named_parameters()}
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}

    def tensors_of(names: list[str]) -> dict[str, torch.Tensor]:
        return {
            name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02).add_(len(shapes[name]) == 1)
            for name in names
        }

    fields = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **asdict(config)}
    write_checkpoint(folder, plan_shards(sizes, 2**30), tensors_of, fields, {})


def memory_status() -> dict[str, int]:
    """Memory of this process in bytes: VmHWM (the peak of resident memory so far), RssAnon and RssFile (now).

    The kernel can drop the pages of RssFile at any time.
    """
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile")}


def load_and_step(folder: Path, base_dtype: str, rows: int, tokens: int) -> None:
    """In a separate process: load, and one step with LoRA on q and v, all layers checkpointed; prints a JSON line."""
    before, started = memory_status(), time.perf_counter()
    model = load_llama(folder, torch.bfloat16, int8=base_dtype == "int8")
    seconds, loaded = time.perf_counter() - started, memory_status()
    matrices, everything = weight_bytes(model)
    add_lora(model)
    model.train().model.checkpointed_layers = len(model.model.layers)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0))
    logits = model(ids, torch.full((rows, 1), tokens - 1))[:, 0].float()
    F.cross_entropy(logits, ids[:, 0]).backward()
    statuses = {"before": before, "loaded": loaded, "stepped": memory_status()}
    print(json.dumps({**statuses, "seconds": seconds, "matrices": matrices, "all": everything}))


def memory(layers: int, rows: int, tokens: int, scratch: str | None) -> None:
    """Loading and one step with each base, each in a separate process."""
    config = LlamaConfig(
        **LLAMA_7B,
        vocab_size=32000,
        num_hidden_layers=layers,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_random(Path(folder), config)
        lines = [memory_line(folder, base_dtype, rows, tokens) for base_dtype in BASE_DTYPES]
    checkpoint = f"shape of LLaMA-7B with {layers} layers, random bf16 checkpoint"
    print(f"\n{checkpoint}; step of {rows} rows of {tokens} tokens, all layers checkpointed; MB")
    weights = ("matrices", "all weights")
    resident = ("process before", "peak resident, loaded", "anonymous, loaded", "peak resident, after a step")
    table(("base", *weights, *resident, "loading, s"), lines)


def memory_line(folder: str, base_dtype: str, rows: int, tokens: int) -> tuple[str, ...]:
    """The figures of load_and_step with one base, in MB and seconds."""
    flags = ["--child", folder, base_dtype, "--rows", str(rows), "--tokens", str(tokens)]
    argv = [sys.executable, "-m", "bench.int8", *flags]
    figures = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    statuses = (("before", "VmHWM"), ("loaded", "VmHWM"), ("loaded", "RssAnon"), ("stepped", "VmHWM"))
    return (
        f"--base-dtype {base_dtype}",
        *(f"{figures[part] / MB:,.0f}" for part in ("matrices", "all")),
        *(f"{figures[when][what] / MB:,.0f}" for when, what in statuses),
        f"{figures['seconds']:.1f}",
    )


# ---- speed --------------------------------------------------------------------------------------


def speed(repeats: int) -> None:
    """One decoder layer in bf16 and int8, alternately: forward only, and forward and backward to its input."""
    lines = []
    for label, shape in (("width 768", SMALL), ("LLaMA-7B", LLAMA_7B)):
        config = LlamaConfig(
            **shape,
            vocab_size=8,
            num_hidden_layers=1,
            max_position_embeddings=2048,
            rms_norm_eps=1e-6,
            rope_theta=1e4,
            tie_word_embeddings=False,
        )
        layers = {
            "bf16": DecoderLayer(config).bfloat16().requires_grad_(False),
            "int8": DecoderLayer(config).bfloat16().requires_grad_(False),
        }
        for part in (layers["int8"].self_attn, layers["int8"].mlp):
            for name, linear in list(part.named_children()):
                setattr(part, name, Int8Linear(linear.weight))
        for rows, tokens in ((1, 32), (1, 256), (8, 256)):
            x = torch.randn(rows, tokens, config.hidden_size).bfloat16()
            times = {name: ([], []) for name in layers}
            for _ in range(repeats + 1):
                for name, layer in layers.items():
                    for at, seconds in enumerate(one_pass(layer, x, rope_tables(config, tokens, like=x))):
                        times[name][at].append(seconds)
            # The first pass is a warm-up.
            medians = {name: [1000 * statistics.median(of[1:]) for of in both] for name, both in times.items()}
            for at, work in enumerate(("forward", "forward and backward")):
                bf16, int8 = medians["bf16"][at], medians["int8"][at]
                lines.append((label, f"{rows} x {tokens}", work, f"{bf16:.1f}", f"{int8:.1f}", f"{int8 / bf16:.2f}"))
    print(f"\nOne decoder layer, {torch.get_num_threads()} threads, median of {repeats}, ms")
    table(("shape", "tokens", "work", "bf16", "int8", "int8 / bf16"), lines)


def one_pass(layer: DecoderLayer, x: torch.Tensor, rotary: tuple) -> tuple[float, float]:
    """Seconds of a forward pass without a graph, and of forward and backward."""
    started = time.perf_counter()
    with torch.no_grad():
        layer(x, *rotary)
    middle = time.perf_counter()
    leaf = x.clone().requires_grad_()
    layer(leaf, *rotary).sum().backward()
    return middle - started, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="demo", help="as for train.py; none: without the demo model")
    parser.add_argument("--data-dir", help="as for train.py")
    parser.add_argument("--stories", type=Path, help="folder of stories260K or another small checkpoint")
    parser.add_argument(
        "--layers", type=int, default=0, help="memory: layers of the LLaMA-7B shape; 32 take 13.5 GB of disk"
    )
    parser.add_argument("--scratch", help="folder for that checkpoint; default: the temporary folder of the system")
    parser.add_argument("--rows", type=int, default=16, help="memory: rows of the step")
    parser.add_argument("--tokens", type=int, default=256, help="memory: tokens of a row")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5, help="speed: timed passes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        load_and_step(Path(args.child[0]), args.child[1], args.rows, args.tokens)
        return
    if args.data != "none":
        demo_accuracy(args.data, args.data_dir)
    if args.stories:
        language_accuracy(args.stories)
    if args.layers:
        memory(args.layers, args.rows, args.tokens, args.scratch)
    if args.speed:
        speed(args.repeats)


if __name__ == "__main__":
    main()
