"""This project compared with transformers + peft: same weights, prompts, objective, dtype and threads.

    python -m bench.peer --tokenizer DIR --work DIR --data-dir DIR       movie; DIR holds u.data and u.item
    python -m bench.peer --tokenizer DIR --work DIR --cases own,eval     simulated viewers instead
    python -m bench.peer --tokenizer DIR --work DIR --before DIR         and an older checkout of this project

--tokenizer is a folder with LLaMA's tokenizer.model; --work, outside the repository, holds the random checkpoint
(2.7e8 bytes for the small shape). bench/peer_forms.py describes the peers. A case is one objective and forcing,
trained with or without checkpointing, or the evaluation. Each form of a case has a separate process, so that its peak
memory can be measured; the forms take turns round by round, and only one works at a time. Every round of training
takes another batch: pairs drawn from the training split, sorted by length and cut, as train.py does. Peak memory is
counted above the weights. First of all, losses, gradients and AUC of all forms are compared in float32. A shape that
does not fit in float32 needs --check-pairs 0; a shape that fits only once needs --serial.
Standard output: one JSON line per check, case and form; standard error, or --markdown FILE: a table.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from bench.checkpoints import SHAPES, make_checkpoint
from bench.flops import rows_of, step_flops
from bench.peer_work import FORMS, OURS, PRODUCTS, ROOT, Task, work
from cli.verb import run_verb
from data.interactions import select_shots
from data.load import load_dataset
from data.prompts import RENAMED, TEMPLATES
from data.splits import answers_in_context, encode_split
from errors import DataError, FlagError, RunError, notice
from machine.device import DTYPES, pick_device
from model.tokenizer import load_tokenizer
from model.weights import read_llama_config

BEFORE = f"{OURS}, before"  # the form of another checkout
TOLERANCE = 1e-4  # in float32: relative for losses and gradient norms, absolute for AUC


@contextlib.contextmanager
def importing_from(root: Path) -> Iterator[None]:
    """Child processes that are started meanwhile import this project from `root`."""
    before = sys.path
    sys.path = [str(root), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    try:
        yield
    finally:
        sys.path = before


class Worker:
    """A child process that takes one step when asked, and does nothing in between.

    cpu_time: its steps are timed in seconds of CPU time, which other programs on the machine take nothing of.
    """

    def __init__(self, task: Task, cpu_time: bool = False, target: Callable[[Task, Connection], None] = work):
        """target: what the child does; it answers everything that it is sent, until None."""
        self.task, self.cpu_time = task, cpu_time
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        asked = replace(task, form=OURS) if task.form == BEFORE else task
        self.process = context.Process(target=target, args=(asked, theirs), daemon=True)
        with importing_from(task.root):
            self.process.start()
        theirs.close()
        self.first = self._receive()  # figures of the warm-up step

    def turn(self, number: object) -> dict:
        """Take the step of that number, or what else `target` knows; returns its figures when it is done."""
        before = cpu_seconds(self.process.pid) if self.cpu_time else 0.0
        self.connection.send(number)
        figures = self._receive()
        return figures | {"seconds": cpu_seconds(self.process.pid) - before} if self.cpu_time else figures

    def end(self) -> None:
        self.connection.send(None)
        self.process.join()

    def _receive(self) -> dict:
        try:
            return self.connection.recv()
        except EOFError:
            process = f"the process of {self.task.form} on {self.task.case}"
            raise RunError(f"{process} ended early; its output is above") from None


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, as Linux counts it, in steps of 0.01 s."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def run_case(tasks: list[Task], args: argparse.Namespace) -> dict[str, list[dict]]:
    """The figures of every round by form. --serial: one process after the other, if only one fits into memory."""
    figures: dict[str, list[dict]] = {task.form: [] for task in tasks}
    for group in [[task] for task in tasks] if args.serial else [tasks]:
        workers = [Worker(task, args.clock == "cpu") for task in group]
        for number in range(args.rounds):
            for worker in workers:
                figures[worker.task.form].append(worker.turn(number))
        for worker in workers:
            worker.end()
    return figures


def compared(tasks: list[Task]) -> list[dict]:
    """The first step or evaluation of each peer, compared with ours."""
    first = {}
    for task in tasks:
        worker = Worker(task)
        first[task.form] = worker.first
        worker.end()
    ours, lines = first.pop(OURS), []
    our_scores = np.array(ours.pop("scores", []))
    for form, theirs in first.items():
        scores = np.array(theirs.pop("scores", []))
        line = {"check": tasks[0].case, "form": form, "ours": ours, "theirs": theirs}
        if len(scores):
            line |= {"difference": abs(ours["auc"] - theirs["auc"]), "scores_spread": float(our_scores.std())}
            line["scores_differ_by"] = float(abs(our_scores - scores).max())
        else:
            line["difference"] = max(abs(ours[name] - theirs[name]) / abs(ours[name]) for name in theirs)
        lines.append(line)
    return lines


def summary(task: Task, by_form: dict[str, list[dict]], config, forms: list[str]) -> list[dict]:
    """One dict per form: medians over the rounds, and their ranges."""
    training, lines = task.case != "eval", []
    work_of = task.batches if training else [task.prompts] * len(by_form[OURS])
    units = len(work_of[0])
    tokens = [sum(len(ids) for rows in rows_of(task.case, pairs) for ids, _ in rows) for pairs in work_of]
    for form in forms:
        seconds = [of_round["seconds"] for of_round in by_form[form]]
        line = {
            "case": task.case,
            "checkpointing": task.checkpointing,
            "form": form,
            "unit": "pairs" if training else "prompts",
        }
        line |= ranged("per_s", [units / s for s in seconds])
        line |= ranged("tokens_per_s", [count / s for count, s in zip(tokens, seconds)])
        line |= ranged("ours_times_as_fast", [s / of_round["seconds"] for s, of_round in zip(seconds, by_form[OURS])])
        line["peak_bytes_above_weights"] = max(of_round["peak_bytes"] for of_round in by_form[form])
        if form == OURS and PRODUCTS in by_form:
            for name, distinct in (("mfu_of_distinct_tokens", True), ("mfu_of_all_tokens", False)):
                flops = [step_flops(config, task.case, pairs, distinct) for pairs in work_of]
                rates = [product_rate(of_round, training) for of_round in by_form[PRODUCTS]]
                line |= ranged(name, [count / s / rate for count, s, rate in zip(flops, seconds, rates)])
        lines.append(line)
    return lines


def product_rate(rates: dict[str, float], training: bool) -> float:
    """FLOP/s of plain matrix products; half the products of a training step have the form g W."""
    return statistics.harmonic_mean(list(rates.values())) if training else rates["forward"]


def ranged(name: str, values: list[float]) -> dict:
    """{name: median, name_min, name_max}."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def table(lines: list[dict], heading: str) -> str:
    """The lines of `summary` in Markdown."""
    columns = ("case", "form", "per second", "tokens/s", "ours, times as fast", "peak above the weights, MB")
    columns += ("ours: MFU by distinct / all tokens",)
    rows = [heading, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for line in lines:
        case = line["case"] + (", checkpointed" if line["checkpointing"] else "")
        speed = f"{line['per_s']:.2f} {line['unit']} ({line['per_s_min']:.2f} to {line['per_s_max']:.2f})"
        ratio, use = "", ""
        if line["form"] != OURS:
            ratio = "{:.2f} ({:.2f} to {:.2f})".format(
                *(line[f"ours_times_as_fast{end}"] for end in ("", "_min", "_max"))
            )
        if "mfu_of_all_tokens" in line:
            use = f"{line['mfu_of_distinct_tokens']:.0%} / {line['mfu_of_all_tokens']:.0%}"
        peak = f"{line['peak_bytes_above_weights'] / 1e6:,.0f}"
        rows.append(f"| {case} | {line['form']} | {speed} | {line['tokens_per_s']:,.0f} | {ratio} | {peak} | {use} |")
    return "\n".join(rows) + "\n"


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with LLaMA's tokenizer.model")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the random checkpoint, outside the repository"
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--data-dir", help="folder with u.data and u.item; without it, simulated viewers")
    parser.add_argument("--template", type=lambda name: RENAMED.get(name, name), choices=TEMPLATES, default="tallrec")
    parser.add_argument("--max-len", type=int, default=512)
    parser.add_argument("--cases", default=",".join(FORMS))
    parser.add_argument("--checkpointing", default="off,on", help="off, on or both; for the training cases")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of a training step")
    parser.add_argument(
        "--prompts", type=int, default=128, help="for eval: so many prompts from the start of the test split"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn pairs")
    parser.add_argument(
        "--serial", action="store_true", help="one form after the other instead of in turns, if not all fit at once"
    )
    parser.add_argument(
        "--peers-merged", action="store_true", help="the peers merge their adapter before they evaluate"
    )
    parser.add_argument(
        "--keep-memory",
        choices=("ours", "all", "none"),
        default="ours",
        help="which processes keep freed memory, as train.py does (machine/memory.py)",
    )
    parser.add_argument(
        "--check-pairs", type=int, default=2, help="pairs of the comparison in float32; 0: no comparison"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: time steps in CPU time, on a machine that others use too (Linux); no MFU then",
    )
    parser.add_argument("--before", type=Path, help=f"another checkout of this project, as the form '{BEFORE}'")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    args = flags().parse_args(argv)
    for name, allowed in (("cases", FORMS), ("checkpointing", ("off", "on"))):
        chosen = getattr(args, name).split(",")
        if unknown := set(chosen) - set(allowed):
            raise FlagError(f"--{name}: unknown: {', '.join(sorted(unknown))}; choose from {', '.join(allowed)}")
        setattr(args, name, chosen)
    if args.before and not (args.before / "bench" / "peer_work.py").is_file():
        raise FlagError(f"--before {args.before}: no checkout of this project: it has no bench/peer_work.py")
    if min(args.pairs, args.prompts, args.rounds, args.threads) < 1:
        raise FlagError("--pairs, --prompts, --rounds and --threads: must be at least 1")
    return args


def shared_settings(args: argparse.Namespace) -> tuple[dict, str]:
    """(the settings that all tasks share, the source of the data)."""
    data = load_dataset("movie" if args.data_dir else "demo", args.data_dir, bool(args.data_dir), notice)
    tokenizer = load_tokenizer(args.tokenizer, SHAPES[args.shape]["vocab_size"])
    drawn = select_shots(data.train, args.pairs * args.rounds, args.seed)
    pairs = encode_split(drawn, data, tokenizer, args.template, args.max_len).pairs
    pairs.sort(key=lambda pair: pair.length)
    asked = data.test[: args.prompts]
    if len({row.label for row in asked}) < 2:
        raise DataError(f"--prompts {args.prompts}: all have the same label, so AUC is undefined; use more prompts")
    settings = {
        "folder": make_checkpoint(SHAPES[args.shape], args.tokenizer, args.work / args.shape),
        "device": args.device,
        "threads": args.threads,
        "batches": [pairs[i : i + args.pairs] for i in range(0, len(pairs), args.pairs)],
        "prompts": encode_split(asked, data, tokenizer, args.template, args.max_len).pairs,
        "labels": [row.label for row in asked],
        "answers": answers_in_context(data, tokenizer, args.template),
    }
    return settings, data.source if args.data_dir else f"{data.source}: SIMULATED viewers"


def check(args: argparse.Namespace, settings: dict) -> None:
    """Raises RunError if the forms do not compute the same values in float32."""
    pairs = [pair for batch in settings["batches"] for pair in batch]
    spread = [pairs[i] for i in np.linspace(0, len(pairs) - 1, args.check_pairs).astype(int)]  # of all lengths
    few = settings | {"batches": [spread], "precision": "fp32", "dropout": 0.0, "checkpointing": False}
    for case in args.cases:
        for line in compared([Task(case=case, form=form, **few) for form in FORMS[case]]):
            print(json.dumps(line), flush=True)
            if not line["difference"] <= TOLERANCE:
                both = f"{line['form']} and ours differ by {line['difference']:.2g} in {case}"
                raise RunError(f"{both}: they do not compute the same values")


def tasks_of(case: str, checkpointing: bool, args: argparse.Namespace, settings: dict) -> list[Task]:
    """One task for each form of the case; last, the plain products, unless their rate would be one of CPU time."""
    forms = [OURS, *([BEFORE] if args.before else []), *FORMS[case][1:]]
    keeping = {"ours": (OURS, BEFORE), "all": forms, "none": ()}[args.keep_memory]
    common = settings | {"case": case, "precision": args.precision, "dropout": 0.05, "checkpointing": checkpointing}
    common["peers_merged"] = args.peers_merged and case == "eval"
    timed = (*forms, PRODUCTS) if args.clock == "wall" else forms
    tasks = [Task(form=form, keeps_freed_memory=form in keeping, **common) for form in timed]
    return [replace(task, root=args.before.resolve()) if task.form == BEFORE else task for task in tasks]


def main(argv: list[str]) -> None:
    args = parse(argv)
    device = pick_device(args.device)
    settings, source = shared_settings(args)
    config = read_llama_config(settings["folder"])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} threads"
    heading = {
        "shape": args.shape,
        "precision": args.precision,
        "device": where,
        "data": source,
        "template": args.template,
        "pairs": args.pairs,
        "prompts": len(settings["labels"]),
        "rounds": args.rounds,
        "peers_merged": args.peers_merged,
        "keep_memory": args.keep_memory,
        "clock": args.clock,
        "torch": torch.__version__,
    }
    if args.check_pairs:
        check(args, settings)
    lines, rates = [], []
    for case in args.cases:
        for checkpointing in ("off",) if case == "eval" else args.checkpointing:
            notice(f"{case}, checkpointing {checkpointing}")
            tasks = tasks_of(case, checkpointing == "on", args, settings)
            by_form = run_case(tasks, args)
            rates += by_form.get(PRODUCTS, [])
            for line in summary(tasks[0], by_form, config, [form for form in by_form if form != PRODUCTS]):
                print(json.dumps(heading | line), flush=True)
                lines.append(line)
    title = "; ".join(f"{name} {value}" for name, value in heading.items())
    if rates:
        products = {f"{name}_flops_per_s": statistics.median(rate[name] for rate in rates) for name in rates[0]}
        print(json.dumps(heading | {"case": PRODUCTS, **products}), flush=True)
        of_products = (f"{name[:-12]} {rate / 1e9:,.0f} GFLOP/s" for name, rate in products.items())
        title += f"; matrix products at the shapes of LLaMA-7B: {', '.join(of_products)}"
    text = table(lines, title)
    notice(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    run_verb(main)
