"""A long run of small steps: does memory grow, do files stay open, can metrics.jsonl be read at any time?

    python -m bench.long_run --steps 20000

train.py trains the demo model on one short pair per step, in a separate process. Measured are its resident memory as
a straight line over the steps (least squares, without the first tenth), its open file descriptors, and every line of
metrics.jsonl as soon as it is written. Exit status 1 if the run fails, a line cannot be read, a step is missing, the
number of descriptors grows, or memory grows by more than --allowed bytes per step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.kill_resume import ROOT, small_data

PAGE = os.sysconf("SC_PAGE_SIZE")
FLAGS = ["--shots", "8", "--batch-size", "1", "--micro-batch-size", "1", "--warmup-steps", "10", "--device", "cpu"]
FLAGS += ["--epochs", "1000000", "--patience", "1000000"]


def resident(pid: int) -> int:
    """Bytes of resident memory of the process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Reader:
    """Reads metrics.jsonl while it grows; a line without a newline waits for the next call."""

    def __init__(self, path: Path):
        self.path, self.place, self.steps, self.unfinished, self.wrong = path, 0, 0, 0, []

    def read(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.place)
            content = file.read()
        lines = content.split(b"\n")
        self.unfinished += bool(lines[-1])
        self.place += len(content) - len(lines[-1])
        for line in lines[:-1]:
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError):
                self.wrong.append(f"not a record: {line[:80]!r}")
                continue
            if step != self.steps + 1:
                self.wrong.append(f"step {step} after step {self.steps}")
            self.steps = step


def watch(process: subprocess.Popen, reader: Reader, every: float) -> np.ndarray:
    """(samples, 3): step, resident bytes and open files, sampled until the process ends."""
    samples = []
    while process.poll() is None:
        reader.read()
        try:
            samples.append((reader.steps, resident(process.pid), open_files(process.pid)))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break  # it has just ended
        time.sleep(every)
    process.wait()
    reader.read()
    return np.array(samples, dtype=float).reshape(-1, 3)


def report(samples: np.ndarray, steps: int) -> tuple[float, float]:
    """Print the figures of the loop after its first tenth; returns (bytes per step, growth of open files)."""
    inside = samples[(samples[:, 0] > steps / 10) & (samples[:, 0] < steps)]
    if len(inside) < 10:
        raise SystemExit(f"only {len(inside)} samples of the loop: use more --steps or a shorter --every")
    slope, start = np.polyfit(inside[:, 0], inside[:, 1], 1)
    half = len(inside) // 2
    files = np.median(inside[half:, 2]) - np.median(inside[:half, 2])
    print(f"{len(inside)} samples from step {inside[0, 0]:,.0f} to {inside[-1, 0]:,.0f}")
    least, most = inside[:, 1].min() / 2**20, inside[:, 1].max() / 2**20
    growth = f"{slope:+.1f} bytes per step ({slope * steps / 2**20:+.2f} MiB over the run)"
    print(f"resident memory: {least:.1f} to {most:.1f} MiB, {growth}")
    print(f"open files: {inside[:, 2].min():.0f} to {inside[:, 2].max():.0f}")
    return float(slope), float(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between samples")
    parser.add_argument("--allowed", type=float, default=500.0, help="bytes per step that memory may grow")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small_data(folder)
        command = [sys.executable, str(ROOT / "train.py"), "--data", scratch, "--out", str(folder / "run")]
        command += ["--max-steps", str(args.steps), "--eval-every", str(max(1, args.steps // 20)), *FLAGS]
        started = time.perf_counter()
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        reader = Reader(folder / "run" / "metrics.jsonl")
        samples = watch(process, reader, args.every)
        if process.returncode:
            raise SystemExit(f"the run ended with status {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
    print(f"{reader.steps:,} steps in {time.perf_counter() - started:.0f} s")
    slope, files = report(samples, args.steps)
    lines = f"{reader.steps:,} lines read while it grew, {len(reader.wrong)} of them wrong"
    print(f"metrics.jsonl: {lines}; {reader.unfinished} times the last line had no newline yet")
    print("\n".join(reader.wrong[:20]))
    raise SystemExit(1 if reader.wrong or reader.steps != args.steps or slope > args.allowed or files > 0 else 0)


if __name__ == "__main__":
    main()
