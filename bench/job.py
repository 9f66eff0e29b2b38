"""A whole job, from the first step to the test AUC, in our form, an expert's and the published one: time to result.

    python -m bench.job                                        the demo base and stand-in data: a few minutes
    python -m bench.job --data-dir DIR                         prompts of MovieLens-100K; DIR holds u.data and u.item
    python -m bench.job --model DIR --batch-size 64 --steps 200 --lr 1e-4 ...         the published protocol, a 7B base

The job is the published protocol: few shots, so many optimizer steps with warm-up and linear decay, a validation on up
to 1,000 rows after every --eval-every steps, and a test of the best state. All forms take the same shots, rows, steps
and start, so they come to the same result but for rounding and dropout; nothing stops early. bench/peer_forms.py
describes the two peers. With --case own or shared there is no published form.

Each form has a process of its own. They take turns, one step or one validation each, so that what else the machine does
meets all alike; the time to a result is the sum of a form's turns. Loading is no turn: with a small base it is mostly
the import of packages. Standard output: one JSON line per form, with the seconds of loading; standard error, or
--markdown FILE: a table.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

import train
from bench.measure import seconds_of
from bench.peer import Worker
from bench.peer_work import CLIP, FORMS, OURS, PUBLISHED, WEIGHT_DECAY, Form, Task, load, prepare
from cli.train import DEMO_PRESET
from cli.verb import run_verb
from data.interactions import select_shots
from data.load import load_dataset
from data.pairs import EncodedPair
from data.splits import answers_in_context, encode_split
from errors import FlagError, notice
from machine.device import DTYPES
from metrics import auc
from model.demo import model_folder
from run.base import base_tokenizer

PARTS = {"step": "steps", "valid": "validations", "test": "test"}  # kinds of turns, and their names


@dataclass(frozen=True)
class Job(Task):
    """A task whose batches are optimizer steps, and whose prompts and labels are the validation rows.

    test, test_labels: the test rows. lr: the peak, after `warmup` steps.
    """

    test: tuple[EncodedPair, ...] = ()
    test_labels: tuple[bool, ...] = ()
    micro_batch_size: int = 8
    eval_every: int = 10
    lr: float = 1e-4
    warmup: int = 20

    def turns(self) -> list[tuple[str, int]]:
        """Everything that is done after loading, in order."""
        found = []
        for number in range(len(self.batches)):
            found.append(("step", number))
            if (number + 1) % self.eval_every == 0 or number + 1 == len(self.batches):
                found.append(("valid", number))
        return [*found, ("test", 0)]


def answering(form: Form, job: Job) -> Callable[[tuple[str, int]], dict]:
    """A function that does one turn and returns its figures: loss, or AUC."""
    optimizer = torch.optim.AdamW(form.parameters, lr=job.lr, weight_decay=WEIGHT_DECAY)
    steps = len(job.batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(job.warmup, 1), (steps - step) / max(steps - job.warmup, 1))
    )
    best = [-1.0, []]  # AUC, and the trained tensors that have it

    def step(number: int) -> dict:
        batch, size = job.batches[number], job.micro_batch_size
        if job.form == PUBLISHED:  # it does not sort a step's pairs by their length
            batch = [batch[i] for i in np.random.default_rng(number).permutation(len(batch))]
        losses = [form.gradients(batch[first : first + size]) for first in range(0, len(batch), size)]
        for parameter in form.parameters:
            parameter.grad /= len(losses)
        torch.nn.utils.clip_grad_norm_(form.parameters, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": statistics.mean(losses)}

    def valid(number: int) -> dict:
        found = auc(np.array(job.labels), form.evaluate(job.prompts))
        if found > best[0]:
            best[:] = found, [parameter.detach().clone() for parameter in form.parameters]
        return {"auc": found}

    def test(number: int) -> dict:
        with torch.no_grad():
            for parameter, value in zip(form.parameters, best[1], strict=True):
                parameter.copy_(value)
        return {"auc": auc(np.array(job.test_labels), form.evaluate(list(job.test)))}

    kinds = {"step": step, "valid": valid, "test": test}
    return lambda turn: kinds[turn[0]](turn[1])


def work(job: Job, parent: Connection) -> None:
    """What a child process does: load, send how long it took; then every turn received, until None."""
    started = time.perf_counter()
    device, dtype = prepare(job)
    form = load(job, device, dtype)
    answer = answering(form, job)
    parent.send({"seconds": time.perf_counter() - started})
    while (turn := parent.recv()) is not None:
        seconds, figures = seconds_of(lambda turn=turn: answer(turn), device)
        parent.send({"seconds": seconds, **figures})


def summary(form: str, figures: dict[str, list[dict]]) -> dict:
    """One form's line. figures: of every turn by kind, and of loading."""
    seconds = {f"{kind}_s": sum(turn["seconds"] for turn in figures[kind]) for kind in PARTS}
    return {
        "form": form,
        "to_result_s": sum(seconds.values()),
        **seconds,
        "load_s": figures["load"][0]["seconds"],
        "first_loss": figures["step"][0]["loss"],
        "last_loss": figures["step"][-1]["loss"],
        "best_valid_auc": max(turn["auc"] for turn in figures["valid"]),
        "test_auc": figures["test"][0]["auc"],
    }


def run_job(jobs: list[Job], cpu_time: bool) -> list[dict]:
    """One line per form. All have the same turns."""
    workers = [Worker(job, cpu_time, work) for job in jobs]
    figures = [{"load": [worker.first]} for worker in workers]
    for turn in jobs[0].turns():
        for worker, found in zip(workers, figures):
            found.setdefault(turn[0], []).append(worker.turn(turn))
    for worker in workers:
        worker.end()
    return [summary(job.form, found) for job, found in zip(jobs, figures)]


def table(lines: list[dict], heading: str) -> str:
    """The lines in Markdown."""
    columns = ("form", "time to result, s", *(f"{name}, s" for name in PARTS.values()), "ours, times as fast")
    rows = [heading, "", f"| {' | '.join((*columns, 'test AUC'))} |", "|---" * (len(columns) + 1) + "|"]
    ours = lines[0]["to_result_s"]
    for line in lines:
        ratio = "" if line is lines[0] else f"{line['to_result_s'] / ours:.2f}"
        parts = (f"{line[f'{kind}_s']:.1f}" for kind in PARTS)
        cells = (line["form"], f"{line['to_result_s']:.0f}", *parts, ratio, f"{line['test_auc']:.3f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="checkpoint folder, or demo")
    parser.add_argument("--data-dir", help="folder with u.data and u.item; without it, simulated viewers")
    parser.add_argument("--case", choices=[case for case in FORMS if case != "eval"], default="released")
    parser.add_argument("--shots", type=int, default=64)
    parser.add_argument("--steps", type=int, default=DEMO_PRESET["max_steps"])
    parser.add_argument("--batch-size", type=int, default=DEMO_PRESET["batch_size"], help="pairs of a step")
    parser.add_argument("--micro-batch-size", type=int, default=DEMO_PRESET["micro_batch_size"])
    parser.add_argument("--lr", type=float, default=DEMO_PRESET["lr"])
    parser.add_argument("--warmup-steps", type=int, default=DEMO_PRESET["warmup_steps"])
    parser.add_argument("--eval-every", type=int, default=10)
    parser.add_argument("--valid-rows", type=int, default=1000, help="at most")
    parser.add_argument("--test-rows", type=int, default=1000, help="at most")
    parser.add_argument("--max-len", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time, as in bench.peer")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    args = parser.parse_args(argv)
    names = ("shots", "steps", "batch_size", "micro_batch_size", "eval_every", "valid_rows", "test_rows", "threads")
    for name in names:
        if getattr(args, name) < 1:
            raise FlagError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if args.batch_size % args.micro_batch_size:
        raise FlagError(f"--micro-batch-size {args.micro_batch_size}: must divide --batch-size {args.batch_size}")
    if args.shots % args.batch_size:
        raise FlagError(f"--batch-size {args.batch_size}: must divide --shots {args.shots}")
    return args


def jobs_of(args: argparse.Namespace) -> tuple[list[Job], str]:
    """(the same job for every form, the source of the data)."""
    data = load_dataset("movie" if args.data_dir else "demo", args.data_dir, bool(args.data_dir), notice)
    tokenizer = base_tokenizer(args.model)

    def encoded(rows: list) -> list[EncodedPair]:
        return encode_split(rows, data, tokenizer, "tallrec", args.max_len).pairs

    shots = encoded(select_shots(data.train, args.shots, args.seed))
    valid, test = (
        select_shots(rows, min(count, len(rows)), args.seed)
        for rows, count in ((data.valid, args.valid_rows), (data.test, args.test_rows))
    )
    per_epoch = len(shots) // args.batch_size
    settings = {
        "case": args.case,
        "checkpointing": False,
        "folder": model_folder(args.model),
        "precision": args.precision,
        "device": args.device,
        "threads": args.threads,
        "dropout": 0.05,
        "batches": [
            train.batch_of_step(shots, step, per_epoch, args.batch_size, args.seed) for step in range(args.steps)
        ],
        "prompts": encoded(valid),
        "labels": [row.label for row in valid],
        "answers": answers_in_context(data, tokenizer, "tallrec"),
        "test": tuple(encoded(test)),
        "test_labels": tuple(row.label for row in test),
        "micro_batch_size": args.micro_batch_size,
        "eval_every": args.eval_every,
        "lr": args.lr,
        "warmup": args.warmup_steps,
    }
    jobs = [Job(form=form, keeps_freed_memory=form == OURS, **settings) for form in FORMS[args.case]]
    return jobs, data.source if args.data_dir else f"{data.source}: SIMULATED viewers"


def main(argv: list[str]) -> None:
    args = parse(argv)
    jobs, source = jobs_of(args)
    rows = {"valid_rows": len(jobs[0].labels), "test_rows": len(jobs[0].test_labels)}
    heading = {name: value for name, value in vars(args).items() if name not in ("markdown", "data_dir")}
    heading |= rows | {"data": source, "torch": torch.__version__}
    lines = run_job(jobs, args.clock == "cpu")
    for line in lines:
        print(json.dumps(heading | line), flush=True)
    text = table(lines, "; ".join(f"{name} {value}" for name, value in heading.items()))
    notice(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    run_verb(main)
