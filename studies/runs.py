"""The runs of a study: which are there, and the others started as processes of their verbs, several at a time."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from errors import RunError, notice
from files import read_whole
from machine.signals import Stopped, StopRequest
from run.base_scores import shared_answers
from studies.bench import Bench, known_lines
from studies.calls import call_of, environment
from studies.expected import expected
from studies.lines import ANSWERS, write_line
from studies.parts import runs_of_part
from studies.results import BASE, Line
from studies.study import Run, Study

POLL = 0.2  # seconds


@dataclass(frozen=True)
class Active:
    """A process at work. whole: whether it makes the whole run, so that its time is the run's.

    scores_base: whether it leaves the answers of the untuned base for other runs.
    """

    run: str
    scores_base: bool
    process: subprocess.Popen
    began: float
    whole: bool


def wanted_runs(study: Study, bench: Bench) -> dict[str, Run]:
    """The runs of a study, or of its part, that can be made here, by name: with a BERT only where there is one."""
    possible = {name: run for name, run in study.runs().items() if bench.bert or not run.setting.needs_bert}
    return runs_of_part(possible, bench.part)


def make_runs(study: Study, bench: Bench) -> dict[str, Line]:
    """Run what is missing; returns all lines. The line of each finished run is written at once.

    Raises RunError at the end if runs failed; Stopped if a signal came, after the processes have saved their states.
    """
    wanted, lines, failed = wanted_runs(study, bench), known_lines(bench), []
    for name, run in wanted.items():  # finished, but ended before its line was written
        if name not in lines and bench.is_finished(name):
            lines = write_line(name, run, None, bench)
    waiting = missing_runs(wanted, lines, bench)
    notice(f"runs of the study: {len(wanted)}; {expected(waiting, lines, bench, first=True)}")
    if left_out := sum(run.setting.needs_bert for run in study.runs().values()) if not bench.bert else 0:
        notice(f"left out: {left_out} runs that read titles with a BERT; name its folder with --bert DIR")
    active: list[Active] = []
    told = False  # whether the processes were asked to save their states and end
    try:
        with StopRequest() as stop:
            while active or (waiting and not stop.signal):
                if not stop.signal and (name := _next(waiting, active, bench)):
                    active.append(_start(name, waiting.pop(name), bench))
                    continue
                if not active:  # what they wait for has failed
                    failed += [_not_run(name, run, bench) for name, run in waiting.items()]
                    break
                time.sleep(POLL)
                if stop.signal and not told:
                    told = True  # once: a second signal would end them at once
                    for one in active:
                        one.process.terminate()
                for one in [one for one in active if one.process.poll() is not None]:
                    active.remove(one)
                    if one.process.returncode == 0:
                        seconds = round(time.monotonic() - one.began) if one.whole else None
                        lines = write_line(one.run, wanted[one.run], seconds, bench)
                        left = waiting | {other.run: wanted[other.run] for other in active}
                        notice(f"{one.run}: {_in_words(lines[one.run])}; {expected(left, lines, bench)}")
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


def missing_runs(wanted: dict[str, Run], lines: dict[str, Line], bench: Bench) -> dict[str, Run]:
    """The runs without a line; and those whose line came from elsewhere, if one of these needs their folder."""
    missing = {name for name in wanted if name not in lines}
    for name in reversed(wanted):  # what a run needs stands before it
        if name in missing:
            missing |= {other for other in wanted[name].after if not bench.is_finished(other)}
    return {name: run for name, run in wanted.items() if name in missing}


def _next(waiting: dict[str, Run], active: list[Active], bench: Bench) -> str | None:
    """The first run that may start now, None for none.

    The first run that scores the untuned base goes ahead, and the others that need its answers wait for them.
    """
    if len(active) >= bench.jobs:
        return None
    scoring = any(one.scores_base for one in active) and not shared_answers(bench.out / BASE, "test")
    for name, run in waiting.items():
        ready = all(bench.is_finished(other) for other in run.after)
        if ready and not (run.scores_base and scoring):
            return name
    return None


def _not_run(name: str, run: Run, bench: Bench) -> str:
    missing = next(other for other in run.after if not bench.is_finished(other))
    return f"{name}: not run, since {missing} has failed"


def _start(name: str, run: Run, bench: Bench) -> Active:
    resumed = (bench.out / name / "config.json").exists()  # eval.py writes none, and begins anew
    if run.asks:  # what an interrupted one left is written anew
        (bench.out / name).mkdir(parents=True, exist_ok=True)
        (bench.out / name / ANSWERS).unlink(missing_ok=True)
    notice(f"{name}: {'resumed' if resumed else 'started'}")
    with open(_log_of(name, bench), "a") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            call_of(name, run, bench, resumed),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(bench),
            start_new_session=True,
        )
    return Active(name, run.scores_base, process, time.monotonic(), not resumed)


def _log_of(name: str, bench: Bench) -> Path:
    bench.out.mkdir(parents=True, exist_ok=True)
    log = bench.out / f"{name}.log"
    if log.is_symlink():  # in a folder that somebody sent, which would be written to elsewhere
        raise RunError(f"--out {bench.out}: {log.name} is a link; delete it")
    return log


def _last_line(log: Path) -> str:
    lines = read_whole(log).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word") + f" (all of it: {log})"


def _in_words(line: Line) -> str:
    values = line.about["test"]
    shown = (("AUC", "auc"), ("contradiction", "contradiction_rate"), ("both right", "group_accuracy"))
    return ", ".join(f"{label} {values[name]:.3f}" for label, name in shown if values.get(name) is not None)
