"""Damage every file that the program reads, and check that it works or refuses.

    python -m bench.fuzz --cases 10000 --seed 0

A case takes a small valid folder (bench/fuzz_made.py, bench/fuzz_made_data.py), changes it in one to three ways
(bench/fuzz_mutations.py), and reads it as the program does (bench/fuzz_kinds.py). The program must work, or end
with one of the project's own errors in printable lines, within 10 s and 1 GiB. It must write nothing outside its
output folder and run no code from a file. One case in --command-share is a real command line in a separate process,
which must end with status 0, or with status 2 and one line for each problem. Anything else is a crash: the command
prints its number, and `--case N` with the same seed repeats it. Exit status 1 if there was a crash.

The cases run in forked processes. The parent starts another one when a process dies or hangs. Nothing is written
outside a temporary folder, and no network is used.
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
SECONDS, MEMORY = 10, 2**30  # of a case; memory above that of the process before it
COMMAND_SECONDS, COMMAND_MEMORY = 60, 3 * 2**30  # of a whole process; most of it is the import of torch
CASES_PER_PROCESS = 400
# Together with OSError, these are the errors that cli.verb.run_verb prints and turns into exit status 2.
REFUSALS = (FlagError, RunError, DataError, AdapterError, CheckpointError)


class Overtime(BaseException):
    """A case took longer than SECONDS; no `except Exception` can catch it."""


class Outcome(Exception):
    """A case had an outcome that is not allowed; the message describes it."""


# ---- one case -----------------------------------------------------------------------------------


def damage(rng: random.Random, kind: Kind, folder: Path) -> list[str]:
    """Change files of the folder; returns a description of each change."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 2, 3))):
        candidates = sorted(
            path
            for path in folder.glob(kind.mutate)
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**24
        )
        if not candidates:
            break
        path = rng.choice(candidates)
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
    """{path below the folder: (mode, size, time of change)}, without the folders in `but`."""
    state = {}
    for entry in os.scandir(folder):
        if Path(entry.path) not in but:
            stat, is_folder = entry.stat(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
            state[entry.path] = (stat.st_mode, stat.st_size, 0 if is_folder else stat.st_mtime_ns)
            if is_folder:
                state |= snapshot(Path(entry.path), but)
    return state


def run_case(number: int, seed: int, names: list[str], root: Path, command: bool) -> tuple[str, str, str]:
    """(kind, outcome, description). outcome: works, refused, or CRASH."""
    rng = random.Random(f"{seed} {number}")
    name = names[number % len(names)]
    kind, outer = kinds()[name], root / "outer"
    folder, out = outer / "inner" / "case", outer / "inner" / "out"
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(root / "valid" / str(names.index(name)), folder, symlinks=True)
    out.mkdir()
    done = "; ".join(damage(rng, kind, folder))
    resumes = name.startswith(("resume", "metrics", "run config.json (resume"))
    written = (folder, out) if resumes else (out,)  # a resumed run writes to its own folder
    before = snapshot(outer, written)
    try:
        refusal = (run_command if command else run_inside)(kind, folder, out)
        changed = set(snapshot(outer, written).items()) ^ set(before.items())
        if changed:
            raise Outcome(f"wrote outside its output folder: {sorted(changed)[:3]}")
    except Outcome as crash:
        return name, "CRASH", f"{done}\n{crash}"
    return name, "refused" if refusal else "works", f"{done} -> {refusal}" if refusal else done


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
    except BaseException:  # MemoryError and Overtime too: every other exception is a crash
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Outcome(traceback.format_exc()[-3000:]) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def refuse_unprintable(lines: list[str], kind: Kind) -> None:
    """Raises Outcome if a message has too many or too long lines, or control characters in them."""
    if not lines or (kind.lines and len(lines) != kind.lines) or not all(lines):
        raise Outcome(f"a refusal of {len(lines)} lines: {lines[:3]}")
    for line in lines:
        if len(line) > 1500 or not line.isprintable():
            raise Outcome(f"a refusal that is too long or not printable ({len(line)} characters): {line[:300]!r}")


def run_command(kind: Kind, folder: Path, out: Path) -> str | None:
    """Like run_inside, but in a separate process, judged by what a user sees."""
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
    """Run cases first to last in a forked process; announce and report each as a line of JSON."""
    data = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(
        resource.RLIMIT_DATA, (data + MEMORY, resource.RLIM_INFINITY)
    )  # a command line has another limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for number in range(first, last):
        os.write(pipe, json.dumps([number]).encode() + b"\n")
        name, outcome, text = run_case(number, args.seed, names, root, command=is_command(number, args))
        os.write(pipe, json.dumps([number, name, outcome, text[:3500]]).encode() + b"\n")


def is_command(number: int, args) -> bool:
    """Whether the case runs a command line. Drawn at random: every n-th case would always be of the same kinds."""
    return args.command_share > 0 and random.Random(f"command {args.seed} {number}").random() < 1 / args.command_share


def run_block(first: int, last: int, args, names: list[str], root: Path):
    """Yields (number, kind, outcome, text) of each case of a forked process, until it ends, dies or hangs."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(writing, first, last, args, names, root)
        except BaseException:  # an error in the fuzzer itself
            os.write(writing, json.dumps([-1, traceback.format_exc()]).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    begun, hung = None, False
    with os.fdopen(reading, "rb", 0) as lines:  # unbuffered, so that select knows whether there is a line
        while True:
            patience = 2 * SECONDS + (COMMAND_SECONDS if begun is not None and is_command(begun, args) else 0)
            if not select.select([lines], [], [], patience)[0]:
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
        seconds = time.monotonic() - started
        progress = f"{number - args.first:,} of {args.cases:,} cases, {len(crashes)} crashes, {seconds:.0f} s"
        print(progress, file=sys.stderr, flush=True)
    return counts, crashes


def prepare(root: Path, names: list[str]) -> None:
    """Make the valid folders, a tree that no case may change, and what all cases share."""
    torch.set_num_threads(1)  # a forked process has no other threads and would wait for them forever
    os.environ["OMP_NUM_THREADS"] = "1"  # the command lines too
    build_world(root / "world")
    small_rules()
    (root / "valid").mkdir()
    (root / "outer" / "inner").mkdir(parents=True)
    for path in ("precious.txt", "sentinel/file", "inner/precious.txt", "inner/sentinel/file"):
        (root / "outer" / path).parent.mkdir(exist_ok=True)
        (root / "outer" / path).write_text("no case may change this")
    os.environ["FUZZ_SENTINEL"] = str(root / "outer" / "sentinel")
    for number, name in enumerate(names):
        kinds()[name].make(root / "valid" / str(number))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.fuzz", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run only this case, and print its outcome")
    parser.add_argument("--only", help="only kinds whose name contains this; changes the numbers of the cases")
    parser.add_argument(
        "--command-share", type=int, default=200, help="one case in so many is a command line; 0 for none"
    )
    parser.add_argument(
        "--undamaged", action="store_true", help="only run every command line on undamaged files, and print the outcome"
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder, and print its path")
    parser.add_argument("--verbose", action="store_true", help="print a line for every case")
    return parser.parse_args()


def check_undamaged(names: list[str], root: Path, commands: bool) -> None:
    """Read every valid folder; raises SystemExit if one is refused. commands: run the command lines and print instead.

    The command lines refuse the few rows of the data sets, which read_data accepts.
    """
    case, out = root / "outer" / "inner" / "case", root / "outer" / "inner" / "out"
    for number, name in enumerate(names):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(root / "valid" / str(number), case, dirs_exist_ok=True)
        out.mkdir()
        refusal = (run_command if commands else run_inside)(kinds()[name], case, out)
        if commands:
            print(f"{name}: {refusal or 'works'}")
        elif refusal:
            raise SystemExit(f"bench.fuzz: {name}: refused although undamaged: {refusal}")
        shutil.rmtree(case)


def main() -> None:
    args = parse_arguments()
    names = [name for name in kinds() if (args.only or "") in name]
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        prepare(root, names)
        check_undamaged(names, root, args.undamaged)
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
    """Print the table of outcomes, then the numbers of the crashes."""
    outcomes = ("works", "refused", "CRASH")
    print(
        f"\nseed {args.seed}, {sum(map(Counter.total, counts.values())):,} cases\n{'':30}"
        + "".join(f"{outcome:>9}" for outcome in outcomes)
    )
    for name, of_kind in counts.items():
        print(f"{name:30}" + "".join(f"{of_kind[outcome]:9,}" for outcome in outcomes))
    total = sum(counts.values(), Counter())
    print(f"{'all':30}" + "".join(f"{total[outcome]:9,}" for outcome in outcomes))
    if crashes:
        print(f"crashes: --seed {args.seed} --case " + ", ".join(str(number) for number, _, _ in crashes))


if __name__ == "__main__":
    main()
