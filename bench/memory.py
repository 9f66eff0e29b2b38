"""One step of LCFT at the exact shape of a real model.

    python -m bench.memory --shape llama-7b --tokenizer DIR --work DIR --data-dir DIR

--work, outside the repository, holds the random checkpoint (13.5 GB for llama-7b; written once). A case is a number of
pairs and a choice of --checkpointing, in a separate process: it loads the checkpoint, plans as train.py does, takes
the longest pairs of the movie data as the micro-batch, and makes whole optimizer steps with it. The table shows the
rate of loading, the peak of memory while loading and while training next to the planned one, the time of the last
step, and model FLOPs utilisation (bench/flops.py), relative to plain bf16 matrix products in the same process. On a
CPU, memory means resident memory, which contains the whole mapped checkpoint. Standard output: one JSON line per
case; standard error: a table.

The peer at the same shape:

    python -m bench.peer --shape llama-7b --serial --check-pairs 0 --cases own --tokenizer DIR --work DIR
"""

import argparse
import json
import multiprocessing
import os
from pathlib import Path

import torch

import train
from bench.checkpoints import SHAPES, make_checkpoint
from bench.flops import step_flops
from bench.measure import PeakMemory, Products, seconds_of
from bench.peer import product_rate
from cli.train import TrainFlags
from cli.verb import run_verb
from data.load import load_dataset
from data.splits import encode_split
from errors import RunError, notice
from machine.device import BASE_DTYPES, pick_device
from model.tokenizer import load_tokenizer
from objectives.by_name import make_objective
from run.base import load_base
from run.inputs import adapter_settings, start_adapter
from run.plan import Plan, longest_pairs, make_plan
from tensors import trainable_parameters


def measure(args: argparse.Namespace, pairs: list, valid: list, size: int, checkpointing: str) -> dict:
    """The figures of one case, in bytes and seconds. size: pairs of the micro-batch."""
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    flags = TrainFlags(
        model=str(args.folder),
        kl_forcing=args.forcing,
        checkpointing=checkpointing,
        micro_batch_size=size,
        batch_size=size,
        base_dtype=args.base_dtype,
    )
    products = Products(device, torch.bfloat16)
    rates = [products.rates() for _ in range(3)][-1]
    del products
    memory = PeakMemory(device)
    load_s, (model, _) = seconds_of(lambda: load_base(str(args.folder), "bf16", device, flags.base_dtype), device)
    loading = memory.above() + memory.before
    start_adapter(model, adapter_settings(flags), flags.seed)
    objective = make_objective(vars(flags))
    plan = make_plan(model, objective, pairs, valid, flags)
    model.model.checkpointed_layers = plan.checkpointed
    parameters, batch = list(trainable_parameters(model).values()), longest_pairs(pairs, size)
    optimizer = torch.optim.AdamW(parameters, lr=flags.lr)

    def step() -> None:
        train.accumulate_gradients(model.train(), batch, objective, size)
        torch.nn.utils.clip_grad_norm_(parameters, flags.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    memory.restart()
    seconds = [seconds_of(step, device)[0] for _ in range(args.steps)][-1]
    training = memory.above() + memory.before
    flops = {
        name: step_flops(model.config, args.forcing, batch, distinct)
        for name, distinct in (("distinct", True), ("all", False))
    }
    case = {"pairs": size, "checkpointing": checkpointing, "base_dtype": flags.base_dtype}
    stored = sum(path.stat().st_size for path in args.folder.glob("*.safetensors"))
    peaks = {"peak_loading": loading, "peak_training": training}
    loaded = {"load_s": load_s, "load_bytes_per_s": stored / load_s}
    return case | figures(plan, loaded | peaks, seconds, size, flops, rates)


def figures(plan: Plan, measured: dict, seconds: float, size: int, flops: dict, rates: dict) -> dict:
    """What is printed of a case after its name. measured: bytes and seconds of loading, and the peaks of memory."""
    return {
        "recomputed_layers": plan.checkpointed,
        "layers": plan.layers,
        **measured,
        "planned_training": plan.training,
        "plan_over_measured": plan.training / measured["peak_training"],
        "weights": plan.weights,
        "step_s": seconds,
        "planned_step_s": plan.step_s,
        "pairs_per_s": size / seconds,
        "distinct_tokens": plan.tokens,
        "distinct_tokens_per_s": plan.tokens / seconds,
        **{f"mfu_of_{name}_tokens": count / seconds / product_rate(rates, True) for name, count in flops.items()},
        **{f"products_{name}_flops_per_s": rate for name, rate in rates.items()},
        "plan": plan.as_dict(),
    }


COLUMNS = (
    "pairs per micro-batch",
    "layers recomputed",
    "loading, GB (GB/s)",
    "training, GB",
    "planned, GB",
    "s per step (planned)",
    "distinct tokens/s",
    "MFU by distinct / all tokens",
)


def table(lines: list[dict], heading: str) -> str:
    """The lines in Markdown; memory in GB of 10^9 bytes."""
    rows = [heading, "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    rows += [f"| {' | '.join(cells(line))} |" for line in lines]
    return "\n".join(rows)


def cells(line: dict) -> list[str]:
    """One row of the table."""
    return [
        str(line["pairs"]),
        f"{line['recomputed_layers']} of {line['layers']}",
        f"{line['peak_loading'] / 1e9:.1f} ({line['load_bytes_per_s'] / 1e9:.2f})",
        f"{line['peak_training'] / 1e9:.2f}",
        f"{line['planned_training'] / 1e9:.2f} ({line['plan_over_measured'] - 1:+.1%})",
        f"{line['step_s']:.1f} ({line['planned_step_s']:.1f})",
        f"{line['distinct_tokens_per_s']:,.0f}",
        f"{line['mfu_of_distinct_tokens']:.0%} / {line['mfu_of_all_tokens']:.0%}",
    ]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with LLaMA's tokenizer.model")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the random checkpoint, outside the repository"
    )
    parser.add_argument("--data-dir", help="folder with u.data and u.item; without it, simulated viewers")
    parser.add_argument("--pairs", default="1", help="pairs of a micro-batch, or several numbers with commas")
    parser.add_argument("--checkpointing", default="on", help="on, off or auto, or several with commas")
    parser.add_argument("--forcing", choices=("own", "shared"), default="own")
    parser.add_argument("--base-dtype", choices=BASE_DTYPES, default="same")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps per case; the last one is timed")
    parser.add_argument("--max-len", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    args.folder = make_checkpoint(SHAPES[args.shape], args.tokenizer, args.work / args.shape)
    data = load_dataset("movie" if args.data_dir else "demo", args.data_dir, bool(args.data_dir), notice)
    tokenizer = load_tokenizer(args.tokenizer, SHAPES[args.shape]["vocab_size"])
    pairs, valid = (
        encode_split(rows, data, tokenizer, "tallrec", args.max_len).pairs for rows in (data.train, data.valid)
    )
    lines = []
    for size in map(int, args.pairs.split(",")):
        for checkpointing in args.checkpointing.split(","):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                try:
                    line = pool.apply(measure, (args, longest_pairs(pairs, size), valid, size, checkpointing))
                except torch.OutOfMemoryError as error:
                    reason = str(error).splitlines()[0]
                    raise RunError(f"--pairs {size} --checkpointing {checkpointing}: {reason}") from None
            where = {"shape": args.shape, "device": args.device, "threads": args.threads, "data": data.source}
            print(json.dumps(where | line), flush=True)
            lines.append(line)
    heading = f"{args.shape}, bf16, {args.device} with {args.threads} threads, {data.source}"
    notice(table(lines, f"{heading}, forcing {args.forcing}, base dtype {args.base_dtype}"))


if __name__ == "__main__":
    run_verb(main)
