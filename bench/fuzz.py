"""Damage every file that the program reads, and see that it works or refuses: `python -m bench.fuzz --cases 10000 --seed 0`.

A case takes a small valid folder (bench/fuzz_made.py), changes it in one to three ways (bench/fuzz_mutations.py), and reads it
as the program does (bench/fuzz_kinds.py). It must work, or end with one of the project's own errors, whose lines can be printed, within 10 s and
1 GiB; it must write nothing outside its output folder and run nothing. One in so many cases is a real command line in a process
of its own, which must end with status 0, or 2 and a line for each problem. Anything else is a crash: its number is printed, and
`--case N` with the same seed does it again. Exit status 1 if there was one.

The cases run in forked processes, which a parent starts again where one dies or hangs. Nothing outside a temporary folder is
written, and no network is used.
"""

import argparse
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from bench.fuzz_kinds import Kind, kinds, small_rules
from bench.fuzz_made import build_world
from bench.fuzz_mutations import bytes_at_random, form_of, in_its_place
from errors import AdapterError, CheckpointError, DataError, FlagError, RunError

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEMORY = 10, 2**30  # of a case, and above what the process has before it
COMMAND_SECONDS, COMMAND_MEMORY = 60, 3 * 2**30  # of a whole process, most of which is importing torch
CASES_PER_PROCESS = 400
REFUSALS = (
    FlagError,
    RunError,
    DataError,
    AdapterError,
    CheckpointError,
)  # what cli.flags.run_verb prints and maps to 2, with OSError


class Overtime(BaseException):
    """A case took longer than SECONDS; no `except Exception` can catch it."""


class Outcome(Exception):
    """A case went otherwise than allowed; the message says how."""


# ---- one case -----------------------------------------------------------------------------------


def damage(rng: random.Random, kind: Kind, folder: Path) -> list[str]:
    """Change the files of the folder; returns what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 2, 3))):
        found = sorted(
            path
            for path in folder.glob(kind.mutate)
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**24
        )
        if not found:
            break
        path = rng.choice(found)
        how = rng.random()
        if how < 0.06:
            done.append(f"{path.name}: {in_its_place(rng, path)}")
        else:
            mutation = bytes_at_random if how < 0.3 else form_of(path)
            path.write_bytes(mutation(rng, path.read_bytes()))
            done.append(f"{path.name}: {mutation.__name__}")
    if rng.random() < 0.8:
        kind.repair(folder)
    return done


def snapshot(folder: Path, but: tuple[Path, ...] = ()) -> dict:
    """Every path below, with what tells whether it was changed."""
    found = {}
    for entry in os.scandir(folder):
        if Path(entry.path) not in but:
            stat = entry.stat(follow_symlinks=False)
            found[entry.path] = (
                stat.st_mode,
                stat.st_size,
                stat.st_mtime_ns if not entry.is_dir(follow_symlinks=False) else 0,
            )
            if entry.is_dir(follow_symlinks=False):
                found |= snapshot(Path(entry.path), but)
    return found


def run_case(number: int, seed: int, names: list[str], root: Path, command: bool) -> tuple[str, str, str]:
    """(kind, outcome, what was done or said). outcome: works, refused, or CRASH."""
    rng = random.Random(f"{seed} {number}")
    name = names[number % len(names)]
    kind, outer = kinds()[name], root / "outer"
    folder, out = outer / "inner" / "case", outer / "inner" / "out"
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(root / "valid" / str(names.index(name)), folder, symlinks=True)
    out.mkdir()
    done = "; ".join(damage(rng, kind, folder))
    written = (
        (folder, out) if name.startswith(("resume", "metrics", "run config.json (resume")) else (out,)
    )  # --out is the run folder itself
    before = snapshot(outer, written)
    try:
        said = (run_command if command else run_inside)(kind, folder, out)
        if snapshot(outer, written) != before:
            raise Outcome(
                f"wrote outside its output folder: {sorted(set(snapshot(outer, written).items()) ^ set(before.items()))[:3]}"
            )
    except Outcome as crash:
        return name, "CRASH", f"{done}\n{crash}"
    return name, "refused" if said else "works", f"{done} -> {said}" if said else done


def run_inside(kind: Kind, folder: Path, out: Path) -> str | None:
    """The message of a refusal, None if it works. Raises Outcome for anything else."""

    def overtime(*_):
        raise Overtime

    signal.signal(signal.SIGALRM, overtime)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    os.environ["LCFT_DATA"] = str(out / "cache")
    try:
        kind.read(folder, out)
    except REFUSALS as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        refuse_unprintable(str(error).splitlines(), kind)
        return str(error)
    except OSError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not error.filename or not error.strerror:
            raise Outcome(traceback.format_exc()) from None
        return f"{error.filename}: {error.strerror}"
    except BaseException:  # MemoryError and Overtime too: whatever it is, it is what is looked for
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Outcome(traceback.format_exc()[-3000:]) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def refuse_unprintable(lines: list[str], kind: Kind) -> None:
    """Raises Outcome if a message is no line for a terminal: too many or too long lines, or control characters in them."""
    if not lines or (kind.lines and len(lines) != kind.lines) or not all(lines):
        raise Outcome(f"a refusal of {len(lines)} lines: {lines[:3]}")
    for line in lines:
        if len(line) > 1500 or not line.isprintable():
            raise Outcome(f"a refusal that is no line for a terminal ({len(line)} characters): {line[:300]!r}")


def run_command(kind: Kind, folder: Path, out: Path) -> str | None:
    """As run_inside, in a process of its own, judged by what a user sees."""
    environment = os.environ | {
        "LCFT_DATA": str(out / "cache"),
        "no_proxy": "",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    words = [str(word) for word in kind.command(folder, out)]
    words[0:1] = [str(ROOT / words[0])] if words[0].endswith(".py") else words[:1]

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (COMMAND_MEMORY, resource.RLIM_INFINITY))

    try:
        ended = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            preexec_fn=limit,
        )
    except subprocess.TimeoutExpired:
        raise Outcome(f"no end within {COMMAND_SECONDS} s: {' '.join(words)}") from None
    error = ended.stderr.decode(errors="replace")
    problems = [line.split(": error: ", 1)[1] for line in error.splitlines() if ": error: " in line]
    if "Traceback" in error or ended.returncode not in (0, 2) or (ended.returncode == 2 and not problems):
        raise Outcome(f"status {ended.returncode}: {' '.join(words)}\n{error[-3000:]}")
    if ended.returncode == 2:
        refuse_unprintable(problems, kind)
    return "\n".join(problems) if ended.returncode else None


# ---- processes ----------------------------------------------------------------------------------


def work(pipe: int, first: int, last: int, args, names: list[str], root: Path) -> None:
    """In a forked process: cases first to last, each announced and reported as a line of JSON."""
    data = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY, resource.RLIM_INFINITY))  # a command line has its own
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for number in range(first, last):
        os.write(pipe, json.dumps([number]).encode() + b"\n")
        found = run_case(number, args.seed, names, root, command=is_command(number, args))
        os.write(pipe, json.dumps([number, found[0], found[1], found[2][:3500]]).encode() + b"\n")


def is_command(number: int, args) -> bool:
    # Drawn, not every n-th: kinds come round with the numbers too.
    return args.command_share > 0 and random.Random(f"command {args.seed} {number}").random() < 1 / args.command_share


def run_block(first: int, last: int, args, names: list[str], root: Path):
    """The results (number, kind, outcome, text) of a forked process, until it is done, dies or hangs."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(writing, first, last, args, names, root)
        except BaseException:  # a fault of the fuzzer's own
            os.write(writing, json.dumps([-1, traceback.format_exc()]).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    begun, hung = None, False
    with os.fdopen(reading, "rb", 0) as lines:  # unbuffered, so that select tells whether there is a line
        while True:
            if not select.select(
                [lines], [], [], 2 * SECONDS + (COMMAND_SECONDS if begun is not None and is_command(begun, args) else 0)
            )[0]:
                hung = True
                os.kill(child, signal.SIGKILL)
            line = lines.readline()
            if not line:
                break
            entry = json.loads(line)
            if entry[0] == -1:
                raise SystemExit(f"bench.fuzz: case {begun}: {entry[1]}")
            begun = entry[0] if len(entry) == 1 else None
            if len(entry) > 1:
                yield entry
    _, status = os.waitpid(child, 0)
    if begun is not None:
        how = f"no answer within {2 * SECONDS} s" if hung else f"the process died (status {status})"
        yield [begun, names[begun % len(names)], "CRASH", how]


def fuzz(args, names: list[str], root: Path) -> tuple[dict, list]:
    """({kind: Counter of outcomes}, [crashes])."""
    counts, crashes, number, started = {name: Counter() for name in names}, [], args.first, time.monotonic()
    while number < args.first + args.cases:
        last = min(number + CASES_PER_PROCESS, args.first + args.cases)
        for number_done, name, outcome, text in run_block(number, last, args, names, root):
            counts[name][outcome] += 1
            number = number_done + 1
            if outcome == "CRASH":
                crashes.append((number_done, name, text))
                print(f"CRASH in case {number_done} ({name}): {text}\n", flush=True)
            elif args.verbose:
                print(f"{number_done} {name} {outcome}: {text}", flush=True)
        print(
            f"{number - args.first:,} of {args.cases:,} cases, {len(crashes)} crashes, {time.monotonic() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return counts, crashes


def prepare(root: Path, names: list[str]) -> None:
    """The valid folders, a tree that nobody may touch, and what all cases share."""
    torch.set_num_threads(1)  # threads do not live on in a forked process, which would wait for them without end
    os.environ["OMP_NUM_THREADS"] = "1"  # the command lines too
    build_world(root / "world")
    small_rules()
    (root / "valid").mkdir()
    (root / "outer" / "inner").mkdir(parents=True)
    for path in ("precious.txt", "sentinel/file", "inner/precious.txt", "inner/sentinel/file"):
        (root / "outer" / path).parent.mkdir(exist_ok=True)
        (root / "outer" / path).write_text("nobody may touch this")
    os.environ["FUZZ_SENTINEL"] = str(root / "outer" / "sentinel")
    for number, name in enumerate(names):
        kinds()[name].make(root / "valid" / str(number))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fuzz", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="do this one alone, and say what came of it")
    parser.add_argument("--only", help="kinds whose name has this in it; changes which case has which number")
    parser.add_argument(
        "--command-share", type=int, default=200, help="one case in so many is a command line; 0 for none"
    )
    parser.add_argument(
        "--undamaged",
        action="store_true",
        help="only show what every command line says to files that nothing was done to",
    )
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder, and say where it is")
    parser.add_argument("--verbose", action="store_true", help="a line for every case")
    args = parser.parse_args()
    names = [name for name in kinds() if (args.only or "") in name]
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        prepare(root, names)
        for name in names:  # what is not damaged must work
            folder, out = root / "valid" / str(names.index(name)), root / "outer" / "inner" / "out"
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(folder, root / "outer" / "inner" / "case", dirs_exist_ok=True)
            out.mkdir()
            said = (run_command if args.undamaged else run_inside)(
                kinds()[name], root / "outer" / "inner" / "case", out
            )
            if args.undamaged:  # the command lines of data sets refuse these few rows, which read_data does not
                print(f"{name}: {said or 'works'}")
            elif said:
                raise SystemExit(f"bench.fuzz: {name}: undamaged, it is refused: {said}")
            shutil.rmtree(root / "outer" / "inner" / "case")
        if args.undamaged:
            return
        if args.case is not None:
            print(*run_case(args.case, args.seed, names, root, is_command(args.case, args)), sep="\n")
            return
        counts, crashes = fuzz(args, names, root)
    finally:
        if args.keep:
            print(root)
        else:
            shutil.rmtree(root, ignore_errors=True)
    report(counts, crashes, args)
    raise SystemExit(1 if crashes else 0)


def report(counts: dict, crashes: list, args) -> None:
    """The table of outcomes, then the crashes by number."""
    outcomes = ("works", "refused", "CRASH")
    print(
        f"\nseed {args.seed}, {sum(map(Counter.total, counts.values())):,} cases\n{'':30}"
        + "".join(f"{outcome:>9}" for outcome in outcomes)
    )
    for name, found in counts.items():
        print(f"{name:30}" + "".join(f"{found[outcome]:9,}" for outcome in outcomes))
    print(f"{'all':30}" + "".join(f"{sum(found[outcome] for found in counts.values()):9,}" for outcome in outcomes))
    if crashes:
        print(f"crashes: --seed {args.seed} --case " + ", ".join(str(number) for number, _, _ in crashes))


if __name__ == "__main__":
    main()
