"""Kill a run with SIGKILL, resume it, and compare its final files byte by byte with those of an uninterrupted run.

    python -m bench.kill_resume --kills 100                at random instants, uniform over the duration of the run
    python -m bench.kill_resume --points 0                 before every change of a file
    python -m bench.kill_resume --kills 20 --cold          every life starts Python, imports included
    python -m bench.kill_resume --kills 20 --ranks 2       the same under torchrun; all ranks are killed together

A life is one process that starts or resumes the run. The run is small: the demo model, checkpointing and dropout on,
two micro-batches per step. Without --cold and --ranks, lives are forked from a process that has done the imports.
With them, the instants are drawn from the time after config.json is written. All files of the run folder are compared
except config.json (it names the folder), timings.jsonl (it must have a line for every step) and the lock. Exit status
1 if a file differs, is missing or is left over, or if a life fails.
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
from run import outcome
from run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
STEPS = 6
KILLS_OF_A_RUN = 8  # at most; after them the run may finish
FLAGS = (
    f"--shots 8 --max-steps {STEPS} --batch-size 4 --micro-batch-size 2 --eval-every 2 --warmup-steps 1 "
    "--kl-weight 0.01 --lora-dropout 0.3 --checkpointing on --device cpu"
).split()
NOT_COMPARED = {"config.json", "timings.jsonl", ".lock"}
PHASES = {  # of a forked life: what it is doing while one of these functions runs
    "scoring the base": [(train, "score_before")],
    "accumulating gradients": [(train, "accumulate_gradients")],
    "updating": [(torch.optim.AdamW, "step")],
    "validating": [(train, "validation_measures")],
    "writing config.json": [(RunFolder, "write_config")],
    "saving the best adapter": [(RunFolder, "save_best")],
    "logging": [(RunFolder, "log")],
    "saving the state": [(RunFolder, "save_state")],
    "restoring the state": [(RunFolder, "restore_state")],
    "scoring the end": [(train, "score_after")],
    "measuring the end": [(outcome, "measure")],
    "writing the results": [(outcome, "write_predictions"), (outcome, "draw_curves"), (outcome, "write_json")],
}
NAMES = ["starting", *PHASES]
# Modules that every life would otherwise import again.
ON_THE_WAY = (
    "torch._dynamo",
    "torch._refs",
    "sklearn.metrics",
    "matplotlib.backends.backend_agg",
    "matplotlib.font_manager",
)


# ---- lives --------------------------------------------------------------------------------------


def changes_files(event: str, args: tuple) -> bool:
    """Whether an audit event (sys.addaudithook) changes files."""
    if event == "open":
        path, _, flags = args
        writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return writes and str(path) != os.devnull
    return event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def die_at_change(number: int, counter: mmap.mmap) -> None:
    """Count all further changes of files in bytes 8 to 16 of `counter`; SIGKILL before the one of that number."""
    changes = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal changes
        if changes_files(event, args):
            changes += 1
            counter[8:16] = changes.to_bytes(8, "little")
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def mark_phases(mark: mmap.mmap) -> None:
    """Keep the index in NAMES of the current phase in byte 0 of `mark`."""
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
    """In a forked process: train.py with these arguments; its output is appended to `log`."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train.py", *argv]
    mark_phases(mark)
    die_at_change(die_at, mark)
    run_verb(train.main)


class Life:
    """One process, or with --ranks a group of processes, that runs train.py."""

    def __init__(self, argv: list[str], log: Path, ranks: int, cold: bool, die_at: int = 0):
        self.mark = mmap.mmap(-1, 16)
        if ranks > 1 or cold:
            launcher = [sys.executable]
            if ranks > 1:
                launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            with open(log, "ab") as file:
                command = [*launcher, str(ROOT / "train.py"), *argv]
                self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        else:
            self.process = multiprocessing.get_context("fork").Process(target=live, args=(argv, log, self.mark, die_at))
            self.process.start()

    def wait(self, seconds: float | None) -> int | None:
        """Exit status (negative: the signal that ended it), or None if it still runs after this many seconds."""
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
        """What it was doing; for other processes, what the run folder shows."""
        if not isinstance(self.process, subprocess.Popen):
            return NAMES[self.mark[0]]
        if not (out / "config.json").exists():
            return "before config.json"
        states = sorted(path.name for path in (out / "last").glob("step-*"))
        return f"after {states[-1]}" if states else "before the first state"


def kill_all(pid: int) -> None:
    """SIGKILL to a process and all its descendants, which torchrun puts into separate sessions; waits for their end."""
    os.kill(pid, signal.SIGSTOP)  # so that it starts no more processes
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
    """Write splits of 8 rows, 4 of each label, with histories of two films."""
    data = stand_in()
    for split in ("train", "valid", "test"):
        by_label = ([row for row in getattr(data, split) if row.label == label] for label in (True, False))
        rows = [row for rows_of_label in by_label for row in rows_of_label[:4]]
        rows = [replace(row, history=row.history[-2:]) for row in rows]
        write_split(folder / f"{split}.json", rows, data)


class Runs:
    """Runs in one folder; the first is not interrupted."""

    def __init__(self, folder: Path, ranks: int, cold: bool):
        self.folder, self.ranks, self.cold = folder, ranks, cold
        (folder / "data").mkdir(parents=True)
        small_data(folder / "data")
        started = time.perf_counter()
        life = self.life("uninterrupted")
        self.startup = 0.0
        if cold or ranks > 1:  # most of such a life is imports, where a kill proves nothing
            while life.wait(0.05) is None and not (folder / "uninterrupted" / "config.json").exists():
                pass
            self.startup = time.perf_counter() - started
        if life.wait(None):
            raise SystemExit(f"the run without a kill failed:\n{(folder / 'uninterrupted.log').read_text()}")
        self.seconds = time.perf_counter() - started
        self.changes = int.from_bytes(life.mark[8:16], "little")
        self.wanted = content(folder / "uninterrupted")

    def life(self, name: str, die_at: int = 0) -> Life:
        """Start the run of that name, or resume it if there is something to resume."""
        out = self.folder / name
        argv = ["--data", str(self.folder / "data"), "--out", str(out), *FLAGS]
        if (out / "config.json").exists():
            argv = ["--out", str(out), "--resume"]
        return Life(argv, self.folder / f"{name}.log", self.ranks, self.cold, die_at)

    def differences(self, name: str) -> list[str]:
        """The files of this run that differ from those of the uninterrupted run."""
        files = content(self.folder / name)
        return sorted(path for path in files.keys() | self.wanted.keys() if files.get(path) != self.wanted.get(path))


def content(folder: Path) -> dict[str, bytes]:
    """Every compared file of a run folder, and the number of lines of timings.jsonl."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    compared = {name: path.read_bytes() for name, path in files.items() if name not in NOT_COMPARED}
    return compared | {"lines of timings.jsonl": str((folder / "timings.jsonl").read_bytes().count(b"\n")).encode()}


def kill_at_random(runs: Runs, kills: int, seed: int) -> tuple[collections.Counter, list[str]]:
    """(number of kills in each phase, what went wrong)."""
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
    """Like kill_at_random, but before every change of a file, or before this many changes, evenly spread."""
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
    """What is wrong with a run that has finished."""
    if status:
        return [f"{name}: exit status {status}; {(runs.folder / f'{name}.log').read_text().splitlines()[-1:]}"]
    return [f"{name}: {path} differs" for path in runs.differences(name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="number of kills at random instants")
    parser.add_argument("--points", type=int, help="kill before this many changes of files; 0: before all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    parser.add_argument("--ranks", type=int, default=1, help="processes of each life, started by torchrun")
    parser.add_argument("--cold", action="store_true", help="start Python for every life")
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
        changes = f", {runs.changes} changes of files" if runs.changes else ""
        print(f"A run of {STEPS} steps without a kill: {runs.seconds:.1f} s{changes}\n", flush=True)
        phases, wrong = kill_at_random(runs, args.kills, args.seed)
        if args.points is not None:
            more, also_wrong = kill_at_points(runs, args.points)
            phases, wrong = phases + more, wrong + also_wrong
    print("| killed while | times |\n|---|---|")
    for phase in sorted(phases, key=lambda name: (NAMES.index(name) if name in NAMES else 0, name)):
        print(f"| {phase} | {phases[phase]} |")
    print(f"\n{phases.total()} kills, {len(wrong)} differences from the uninterrupted run")
    print("\n".join(wrong))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
