"""How much several runs of a small base get out of one GPU at a time, for the choice of reproduce.py's --jobs.

    python -m bench.gpu_jobs --jobs 1,14,26

Each process draws a base of SmolLM2-135M's shape, takes LCFT's steps of 8 pairs and then scores prompts, on the pairs
of bench.gpu. All begin together; the sums of all processes are printed. NVIDIA's MPS lets kernels of several processes
run at once: `nvidia-cuda-mps-control -d` starts it, `echo quit | nvidia-cuda-mps-control` ends it.
"""

import argparse
import functools
import multiprocessing
import time
from collections.abc import Callable

import torch

from bench.gpu import drawn_model, one_step, scoring
from cli.verb import run_verb
from errors import RunError
from lora.inject import add_lora
from machine.device import pick_device, wait_for

SMOLLM2 = {
    **{"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192},
    **{"tie_word_embeddings": True, "rope_theta": 1e5},
}
PAIRS, PROMPTS, OWN_TOKENS = 8, 64, 162  # of a step; of a scoring, twice; of a prompt alone, as in bench.gpu


def repeated(work: Callable[[], object], seconds: float, device: torch.device) -> float:
    """How often `work` runs in a second, measured over at least so many seconds."""
    wait_for(device)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        work()
        count += 1
    wait_for(device)
    return count / (time.monotonic() - began)


def one_process(rank: int, args: argparse.Namespace, shape: dict, barrier: object, found: object) -> None:
    """Take part in each number of processes that is larger than `rank`."""
    torch.set_num_threads(1)
    device = pick_device(args.device)
    model = drawn_model(shape, device)
    add_lora(model, dropout=0.05)
    settings = argparse.Namespace(own=OWN_TOKENS, checkpointing="auto")
    step, _, _ = one_step(settings, model, PAIRS)
    score = functools.partial(scoring, settings, model, PROMPTS)
    step(), score()  # warm up
    for count in args.jobs:
        barrier.wait()
        if rank < count:
            steps, scorings = (repeated(work, args.seconds, device) for work in (step, score))
            found.put((count, steps, scorings * 2 * PROMPTS))  # scoring runs twice, cold and warm
        barrier.wait()


def measured(args: argparse.Namespace, shape: dict) -> list[tuple[int, float, float]]:
    """(processes, steps a second, prompts a second), summed over the processes. Raises RunError if one of them dies."""
    context = multiprocessing.get_context("spawn")
    found, barrier = context.Queue(), context.Barrier(max(args.jobs))
    started = [
        context.Process(target=one_process, args=(rank, args, shape, barrier, found), daemon=True)
        for rank in range(max(args.jobs))
    ]
    for process in started:
        process.start()
    rows: list[tuple[int, float, float]] = []
    while len(rows) < sum(args.jobs):
        if not found.empty():
            rows.append(found.get())
        elif any(process.exitcode for process in started):
            raise RunError("a process ended before it had measured: its message stands above; try fewer --jobs")
        else:
            time.sleep(0.05)
    for process in started:
        process.join()
    return [
        (count, sum(steps for n, steps, _ in rows if n == count), sum(prompts for n, _, prompts in rows if n == count))
        for count in args.jobs
    ]


def numbers(text: str) -> list[int]:
    """1,14 as a list. Raises ArgumentTypeError if one of them is no whole number from 1."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text}: expected whole numbers from 1, such as 1,14")
    return [int(part) for part in parts]


def main(argv: list[str], shape: dict = SMOLLM2) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_jobs", description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", default="1,14", type=numbers, help="processes at a time, such as 1,14,26")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args(argv)
    pick_device(args.device)  # a device that is not there is said once, and not by every process
    for count, steps, prompts in measured(args, shape):
        print(f"{count} at a time: {steps:.1f} steps of {PAIRS} pairs a second, {prompts:.0f} prompts a second")


if __name__ == "__main__":
    run_verb(main)
