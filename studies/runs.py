"""The runs of a study: which are there, and the others started as processes of train.py, several at a time."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from errors import RunError, notice, quoted
from files import read_whole
from machine.signals import Stopped, StopRequest
from run.base_scores import shared_answers
from run.predictions import read_predictions
from studies.declared import Setting, Study
from studies.results import BASE, Line, read_lines, write_lines

TRAIN = Path(__file__).parent.parent / "train.py"
OF_THE_PLACE = ("data_dir", "model", "out", "base_scores", "resume", "json", "config", "merge_out", "plan", "device")
OF_A_RUN = ("steps", "best_step", "best_valid_auc", "stopped")  # of results.json
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Bench:
    """Where and how the runs of a study are made.

    out: the folder of their run folders; results: the file of their lines; common: what all lines have in common;
    train_flags: for every run; threads: of each process.
    """

    out: Path
    results: Path
    common: dict
    train_flags: tuple[str, ...]
    jobs: int
    threads: int


@dataclass(frozen=True)
class Active:
    """A process of train.py at work. whole: whether it makes the whole run, so that its time is the run's."""

    run: str
    process: subprocess.Popen
    began: float
    whole: bool


def wanted_runs(study: Study) -> dict[str, tuple[Setting, int]]:
    """{run: (setting, seed)}: all settings with seed 0, then all with seed 1, ..., so that a part of it is balanced."""
    named = [(seed, name, setting) for setting in study.settings for seed, name in enumerate(setting.run_names())]
    return {name: (setting, seed) for seed, name, setting in sorted(named, key=lambda one: one[0])}


def known_lines(bench: Bench) -> dict[str, Line]:
    """The lines of the results file. Raises RunError if one is of another base, other data or other flags."""
    lines = read_lines(bench.results)
    for line in lines.values():
        for name, value in bench.common.items():
            if line.about.get(name) != value:
                raise RunError(
                    f"{bench.results}: {line.run} was made with {name} {quoted(line.about.get(name))}, "
                    f"and this command says {quoted(value)}; give another --results and --out"
                )
    return lines


def expected(missing: int, lines: dict[str, Line], jobs: int) -> str:
    """How long the missing runs should take, from the time of those that are there."""
    seconds = [line.about["seconds"] for line in lines.values() if line.about.get("seconds")]
    if not missing:
        return "nothing is left to run"
    if not seconds:
        return f"{missing} to make; how long one takes is known after the first"
    left = tqdm.format_interval(statistics.median(seconds) * missing / jobs)
    return f"{missing} to make in about {left} (h:min:s), {jobs} at a time"


def make_runs(study: Study, bench: Bench) -> dict[str, Line]:
    """Run what is missing; returns all lines. The line of each finished run is written at once.

    Raises RunError at the end if runs failed; Stopped if a signal came, after the processes have saved their states.
    """
    wanted, lines, failed = wanted_runs(study), known_lines(bench), []
    for name in wanted:  # finished, but ended before its line was written
        if name not in lines and (bench.out / name / "results.json").exists():
            lines = _write_line(name, None, bench)
    waiting = [name for name in wanted if name not in lines]
    notice(f"runs of the study: {len(wanted)}; {expected(len(waiting), lines, bench.jobs)}")
    active: list[Active] = []
    told = False  # whether the processes were asked to save their states and end
    try:
        with StopRequest() as stop:
            while active or (waiting and not stop.signal):
                if waiting and not stop.signal and _may_start(active, bench):
                    active.append(_start(waiting[0], *wanted[waiting.pop(0)], bench))
                    continue
                time.sleep(POLL)
                if stop.signal and not told:
                    told = True  # once: a second signal would end them at once
                    for one in active:
                        one.process.terminate()
                for one in [one for one in active if one.process.poll() is not None]:
                    active.remove(one)
                    if one.process.returncode == 0:
                        lines = _write_line(one.run, round(time.monotonic() - one.began) if one.whole else None, bench)
                        left = expected(len(waiting) + len(active), lines, bench.jobs)
                        notice(f"{one.run}: {_in_words(lines[one.run])}; {left}")
                    elif not told:
                        failed.append(f"{one.run}: {_last_line(_log_of(one.run, bench))}")
                        notice(f"FAILED {failed[-1]}")
    finally:  # whatever happened, no process is left behind
        for one in active:
            one.process.terminate()
            one.process.wait()
    if stop.signal:
        raise Stopped(f"{stop.signal}: the runs are saved; the same command resumes the study")
    if failed:
        raise RunError("\n".join(failed))
    return lines


def _may_start(active: list[Active], bench: Bench) -> bool:
    """Whether another process may start. The first one scores the base; the others wait for its answers."""
    return not active or (len(active) < bench.jobs and shared_answers(bench.out / "base", "test") is not None)


def _start(name: str, setting: Setting, seed: int, bench: Bench) -> Active:
    folder = bench.out / name
    words = ["--out", str(folder), "--base-scores", str(bench.out / "base")]
    resumed = (folder / "config.json").exists()
    if resumed:
        words.append("--resume")
    else:
        words += [*bench.train_flags, "--shots", setting.shots, "--seed", str(seed)]
        words += [word for flag, value in setting.flags.items() for word in (f"--{flag}", value)]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(bench.threads))
    notice(f"{name}: {'resumed' if resumed else 'started'}")
    with open(_log_of(name, bench), "a") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    return Active(name, process, time.monotonic(), not resumed)


def _log_of(name: str, bench: Bench) -> Path:
    bench.out.mkdir(parents=True, exist_ok=True)
    return bench.out / f"{name}.log"


def _last_line(log: Path) -> str:
    lines = read_whole(log).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word") + f" (all of it: {log})"


def _write_line(name: str, seconds: int | None, bench: Bench) -> dict[str, Line]:
    """Add the line of a finished run, and the base's, to the results file; returns all lines."""
    folder = bench.out / name
    results, config = (json.loads(read_whole(folder / file)) for file in ("results.json", "config.json"))
    predictions = read_predictions(folder / "predictions.csv")
    flags = {flag: entry["value"] for flag, entry in config["flags"].items() if flag not in OF_THE_PLACE}
    about = bench.common | {"versions": config["versions"], "threads": bench.threads}
    if results["test"].get("chosen"):
        about["rows"] = [int(number) for number in predictions.numbers]
    lines = known_lines(bench)
    of_run = {key: results[key] for key in OF_A_RUN} | {"seconds": seconds, "flags": flags}
    scored = predictions.scored
    lines[name] = Line(name, about | of_run | _metrics(results["test"]["after"]), scored.z_pos, scored.z_neg)
    if BASE not in lines:
        answers = shared_answers(bench.out / "base", "test")
        z = [answers[f"log_yes_{side}"] - answers[f"log_no_{side}"] for side in ("pos", "neg")]
        lines[BASE] = Line(BASE, about | _metrics(results["test"]["before"]), *z)
    write_lines(bench.results, lines)
    return known_lines(bench)  # with the digits that a later table has


def _metrics(values: dict) -> dict:
    """The test figures of results.json without their intervals."""
    return {"test": {name: value for name, value in values.items() if name not in ("interval_95", "counts")}}


def _in_words(line: Line) -> str:
    values = line.about["test"]
    shown = (("AUC", "auc"), ("contradiction", "contradiction_rate"), ("both right", "group_accuracy"))
    return ", ".join(f"{label} {values[name]:.3f}" for label, name in shown if values.get(name) is not None)
