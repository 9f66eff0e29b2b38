"""Kill a run with SIGKILL, resume it, and compare its end byte by byte with that of a run never broken.

    python -m bench.kill_resume --kills 100                at instants drawn evenly over the run's life
    python -m bench.kill_resume --points 0                 in front of every change of the run folder
    python -m bench.kill_resume --kills 20 --cold          every life a process of its own, imports included
    python -m bench.kill_resume --kills 20 --ranks 2       the same under torchrun; all ranks are killed together

The run is small: the demo model, checkpointing and dropout on, two micro-batches a step. Without --cold or
--ranks its lives are forked from a process that has done the imports; with them the instants are drawn from the time
after config.json is written. Everything in the run folder is compared but config.json (it names the folder),
timings.jsonl (must have a line for every step) and the lock. Exit status 1 if anything differs, is left over, or a
life fails.
"""

import argparse
import collections
import contextlib
import functools
import importlib
import mmap
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import train
from cli.verb import run_verb
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
STEPS = 6
KILLS_OF_A_RUN = 8  # at most; then it comes to its end
FLAGS = [
    "--shots",
    "8",
    "--max-steps",
    str(STEPS),
    "--batch-size",
    "4",
    "--micro-batch-size",
    "2",
    "--eval-every",
    "2",
    "--warmup-steps",
    "1",
    "--kl-weight",
    "0.01",
    "--lora-dropout",
    "0.3",
    "--checkpointing",
    "on",
    "--device",
    "cpu",
]
NOT_COMPARED = {"config.json", "timings.jsonl", ".lock"}
PHASES = {  # of a forked life: what is being done while one of these functions runs
    "scoring the base": [(train, "score_base")],
    "accumulating gradients": [(train, "accumulate_gradients")],
    "updating": [(torch.optim.AdamW, "step")],
    "validating": [(train, "positive_auc")],
    "writing config.json": [(RunFolder, "write_config")],
    "saving the best adapter": [(RunFolder, "save_best")],
    "logging": [(RunFolder, "log")],
    "saving the state": [(RunFolder, "save_state")],
    "restoring the state": [(RunFolder, "restore_state")],
    "scoring the end": [(train, "score_split")],
    "measuring the end": [(train, "evaluate"), (train, "paired_change"), (train, "rules_without_learning")],
    "writing the results": [(train, "write_predictions"), (train, "draw_curves"), (train, "write_json")],
}
NAMES = ["starting", *PHASES]
# What a life would otherwise import again on the way.
ON_THE_WAY = (
    "torch._dynamo",
    "torch._refs",
    "sklearn.metrics",
    "matplotlib.backends.backend_agg",
    "matplotlib.font_manager",
)


# ---- lives --------------------------------------------------------------------------------------


def change_folder(event: str, args: tuple) -> bool:
    """Whether an audit event (sys.addaudithook) is one that changes files."""
    if event == "open":
        return (
            isinstance(args[2], int)
            and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            and str(args[0]) != os.devnull
        )
    return event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def die_at_change(number: int, counter: mmap.mmap) -> None:
    """From now on count the changes of files in bytes 8 to 16 of `counter`; SIGKILL in front of that one, if not 0."""
    found = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal found
        if change_folder(event, args):
            found += 1
            counter[8:16] = found.to_bytes(8, "little")
            if found == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def mark_phases(mark: mmap.mmap) -> None:
    """Keep in byte 0 of `mark` the place in NAMES of what is being done."""
    for number, functions in enumerate(PHASES.values(), 1):
        for owner, name in functions:
            setattr(owner, name, _marked(getattr(owner, name), number, mark))


def _marked(function: Callable, number: int, mark: mmap.mmap) -> Callable:
    @functools.wraps(function)
    def marked(*args, **kwargs):
        before, mark[0] = mark[0], number
        try:
            return function(*args, **kwargs)
        finally:
            mark[0] = before

    return marked


def live(argv: list[str], log: Path, mark: mmap.mmap, die_at: int) -> None:
    """In a forked process: train.py with these arguments, what it says appended to `log`."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train.py", *argv]
    mark_phases(mark)
    die_at_change(die_at, mark)
    run_verb(train.main)


class Life:
    """One process (with --ranks, a group of them) that runs train.py."""

    def __init__(self, argv: list[str], log: Path, ranks: int, cold: bool, die_at: int = 0):
        self.mark = mmap.mmap(-1, 16)
        if ranks > 1 or cold:
            launcher = (
                [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
                if ranks > 1
                else [sys.executable]
            )
            with open(log, "ab") as file:
                command = [*launcher, str(ROOT / "train.py"), *argv]
                self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        else:
            self.process = multiprocessing.get_context("fork").Process(target=live, args=(argv, log, self.mark, die_at))
            self.process.start()

    def wait(self, seconds: float | None) -> int | None:
        """Exit status (negative: the signal that ended it); None if it still runs after so many seconds."""
        if isinstance(self.process, subprocess.Popen):
            try:
                return self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> None:
        if isinstance(self.process, subprocess.Popen):
            kill_all(self.process.pid)
        else:
            self.process.kill()
        self.wait(None)

    def phase(self, out: Path) -> str:
        """What it was doing; where that cannot be seen, what the run folder tells."""
        if not isinstance(self.process, subprocess.Popen):
            return NAMES[self.mark[0]]
        if not (out / "config.json").exists():
            return "before config.json"
        states = sorted(path.name for path in (out / "last").glob("step-*"))
        return f"after {states[-1]}" if states else "before the first state"


def kill_all(pid: int) -> None:
    """SIGKILL to a process and all that it started, each of which torchrun gives a session of its own; waits for their end."""
    os.kill(pid, signal.SIGSTOP)  # or it might start more in the meantime
    family = [pid]
    for parent in family:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            family += [int(child) for child in children.read_text().split()]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    while any(is_alive(member) for member in family[1:]):
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- runs ---------------------------------------------------------------------------------------


def small_data(folder: Path) -> None:
    """8 rows a split, 4 of each label, with histories of two films."""
    data = stand_in()
    for split in ("train", "valid", "test"):
        rows = [
            row for label in (True, False) for row in [row for row in getattr(data, split) if row.label == label][:4]
        ]
        rows = [replace(row, history=row.history[-2:]) for row in rows]
        write_split(folder / f"{split}.json", rows, data)


class Runs:
    """Runs in one folder, the first of them never broken."""

    def __init__(self, folder: Path, ranks: int, cold: bool):
        self.folder, self.ranks, self.cold = folder, ranks, cold
        (folder / "data").mkdir(parents=True)
        small_data(folder / "data")
        started = time.perf_counter()
        life = self.life("unbroken")
        self.startup = 0.0
        if cold or ranks > 1:  # most of such a life goes into imports, in which a kill shows nothing
            while life.wait(0.05) is None and not (folder / "unbroken" / "config.json").exists():
                pass
            self.startup = time.perf_counter() - started
        if life.wait(None):
            raise SystemExit(f"the run without a kill fails:\n{(folder / 'unbroken.log').read_text()}")
        self.seconds = time.perf_counter() - started
        self.changes = int.from_bytes(life.mark[8:16], "little")
        self.wanted = content(folder / "unbroken")

    def life(self, name: str, die_at: int = 0) -> Life:
        """Start the run of that name, or go on with it if there is anything to go on with."""
        out = self.folder / name
        argv = (
            ["--out", str(out), "--resume"]
            if (out / "config.json").exists()
            else ["--data", str(self.folder / "data"), "--out", str(out), *FLAGS]
        )
        return Life(argv, self.folder / f"{name}.log", self.ranks, self.cold, die_at)

    def differences(self, name: str) -> list[str]:
        """What is otherwise in this run's folder than in that of the unbroken one."""
        found = content(self.folder / name)
        return sorted(path for path in found.keys() | self.wanted.keys() if found.get(path) != self.wanted.get(path))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder that is compared, and how many lines timings.jsonl has."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    compared = {name: path.read_bytes() for name, path in files.items() if name not in NOT_COMPARED}
    return compared | {"lines of timings.jsonl": str((folder / "timings.jsonl").read_bytes().count(b"\n")).encode()}


def kill_at_random(runs: Runs, kills: int, seed: int) -> tuple[collections.Counter, list[str]]:
    """(how many kills fell into each phase, what went wrong)."""
    draw, phases, wrong, number = random.Random(seed), collections.Counter(), [], 0
    while phases.total() < kills:
        number += 1
        name, status, before = f"run-{number}", None, phases.total()
        while status is None:
            life = runs.life(name)
            more = phases.total() < min(kills, before + KILLS_OF_A_RUN)
            status = life.wait(draw.uniform(runs.startup, runs.seconds) if more else None)
            if status is None:
                phases[life.phase(runs.folder / name)] += 1
                life.kill()
        wrong += judge(runs, name, status)
        print(f"\r{phases.total()} kills in {number} runs, {len(wrong)} wrong", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return phases, wrong


def kill_at_points(runs: Runs, points: int) -> tuple[collections.Counter, list[str]]:
    """As kill_at_random, in front of every change of a file, or of so many of them evenly spread."""
    phases, wrong = collections.Counter(), []
    for i in range(points or runs.changes):
        point = 1 + i * runs.changes // (points or runs.changes)
        name = f"change-{point}"
        life = runs.life(name, die_at=point)
        if (status := life.wait(None)) == -signal.SIGKILL:
            phases[life.phase(runs.folder / name)] += 1
            status = runs.life(name).wait(None)
        wrong += judge(runs, name, status)
        print(f"\r{i + 1} of {points or runs.changes} points, {len(wrong)} wrong", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return phases, wrong


def judge(runs: Runs, name: str, status: int) -> list[str]:
    """What is wrong with a run that came to its end."""
    if status:
        return [f"{name}: exit status {status}; {(runs.folder / f'{name}.log').read_text().splitlines()[-1:]}"]
    return [f"{name}: {path} differs" for path in runs.differences(name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="how many, at random instants")
    parser.add_argument("--points", type=int, help="kill in front of so many changes of files; 0: of all")
    parser.add_argument("--seed", type=int, default=0, help="draws the instants")
    parser.add_argument("--ranks", type=int, default=1, help="processes of each life, by torchrun")
    parser.add_argument("--cold", action="store_true", help="start Python anew for every life")
    parser.add_argument("--out", type=Path, help="an empty folder to keep the runs in")
    args = parser.parse_args()
    if args.points is not None and (args.ranks > 1 or args.cold):
        parser.error("--points: needs forked lives; leave out --ranks and --cold")
    torch.set_num_threads(1)  # no thread may exist when a life is forked
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ON_THE_WAY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch:
        runs = Runs(Path(args.out or scratch), args.ranks, args.cold)
        print(
            f"A run of {STEPS} steps without a kill: {runs.seconds:.1f} s{f', {runs.changes} changes of files' if runs.changes else ''}\n",
            flush=True,
        )
        phases, wrong = kill_at_random(runs, args.kills, args.seed)
        if args.points is not None:
            more, also_wrong = kill_at_points(runs, args.points)
            phases, wrong = phases + more, wrong + also_wrong
    print("| killed while | times |\n|---|---|")
    print(
        "\n".join(
            f"| {phase} | {phases[phase]} |"
            for phase in sorted(phases, key=lambda name: (NAMES.index(name) if name in NAMES else 0, name))
        )
    )
    print(f"\n{phases.total()} kills, {len(wrong)} differences from the unbroken run")
    print("\n".join(wrong))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
