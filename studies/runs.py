"""The runs of a study: which are there, and the others started as processes of their verbs, several at a time."""

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
from studies.declared import BASELINE, EVAL, TRAIN, Run, Study
from studies.parts import Part, own_file, read_all_lines, runs_of_part
from studies.results import BASE, Line, read_lines, write_lines

VERBS = {name: Path(__file__).parent.parent / name for name in (TRAIN, BASELINE, EVAL)}
LAST_FILE = {TRAIN: "results.json", BASELINE: "results.json", EVAL: "report.html"}  # that a verb writes
OTHER_BASES = "other-bases"  # folder of the answers before training that are not those of the table's untuned base
OF_THE_PLACE = (
    *("data_dir", "model", "out", "base_scores", "resume", "json", "config", "merge_out", "plan", "device"),
    *("setting", "bert", "jobs"),
)
OF_A_RUN = (  # of results.json
    *("steps", "best_step", "best_valid_auc", "stopped", "select", "selection"),
    *("setting", "settings", "bert"),
)
OF_EVAL = ("run", "adapter", "demo_model", "model_label", "examples", "examples_seed")  # not figures
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Bench:
    """Where and how the runs of a study are made.

    out: the folder of their run folders; results: the file of their lines; common: what all lines have in common;
    words: {verb: flags for every run of it}; threads: of each process; bert: the folder of a BERT, None for none;
    part: which part of the runs is made, None for all.
    """

    out: Path
    results: Path
    common: dict
    words: dict[str, tuple[str, ...]]
    jobs: int
    threads: int
    bert: str | None = None
    part: Part | None = None


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


def known_lines(bench: Bench) -> dict[str, Line]:
    """The lines of the results file, and of all parts. Raises RunError if one is of another base, data or flags."""
    lines = read_all_lines(bench.results)
    for line in lines.values():
        for name, value in bench.common.items():
            if line.about.get(name) != value:
                raise RunError(
                    f"{bench.results}: {line.run} was made with {name} {quoted(line.about.get(name))}, "
                    f"and this command says {quoted(value)}; give another --results and --out"
                )
    return lines


def expected(missing: list[Run], lines: dict[str, Line], jobs: int) -> str:
    """How long the missing runs should take, from the median time of those of the same verb that are there."""
    if not missing:
        return "nothing is left to run"
    seconds: dict[str, list[float]] = {}
    for line in lines.values():
        if line.about.get("seconds"):
            seconds.setdefault(line.about.get("verb", TRAIN), []).append(line.about["seconds"])
    if any(run.setting.verb not in seconds for run in missing):
        return f"{len(missing)} to make; how long one takes is known after the first"
    left = sum(statistics.median(seconds[run.setting.verb]) for run in missing) / jobs
    return f"{len(missing)} to make in about {tqdm.format_interval(left)} (h:min:s), {jobs} at a time"


def make_runs(study: Study, bench: Bench) -> dict[str, Line]:
    """Run what is missing; returns all lines. The line of each finished run is written at once.

    Raises RunError at the end if runs failed; Stopped if a signal came, after the processes have saved their states.
    """
    wanted, lines, failed = wanted_runs(study, bench), known_lines(bench), []
    for name, run in wanted.items():  # finished, but ended before its line was written
        if name not in lines and _is_finished(name, run, bench):
            lines = _write_line(name, run, None, bench)
    waiting = {name: run for name, run in wanted.items() if name not in lines}
    notice(f"runs of the study: {len(wanted)}; {expected(list(waiting.values()), lines, bench.jobs)}")
    if left_out := sum(run.setting.needs_bert for run in study.runs().values()) if not bench.bert else 0:
        notice(f"left out: {left_out} runs that read titles with a BERT; name its folder with --bert DIR")
    wait_for = {name: study.runs()[name] for run in waiting.values() for name in run.after}
    active: list[Active] = []
    told = False  # whether the processes were asked to save their states and end
    try:
        with StopRequest() as stop:
            while active or (waiting and not stop.signal):
                if not stop.signal and (name := _next(waiting, wait_for, active, bench)):
                    active.append(_start(name, waiting.pop(name), bench))
                    continue
                if not active:  # what they wait for has failed, or its folder is elsewhere
                    failed += [_not_run(name, run, wait_for, lines, bench) for name, run in waiting.items()]
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
                        lines = _write_line(one.run, wanted[one.run], seconds, bench)
                        left = [*waiting.values(), *(wanted[other.run] for other in active)]
                        notice(f"{one.run}: {_in_words(lines[one.run])}; {expected(left, lines, bench.jobs)}")
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


def _is_finished(name: str, run: Run, bench: Bench) -> bool:
    return (bench.out / name / LAST_FILE[run.setting.verb]).exists()


def _next(waiting: dict[str, Run], wait_for: dict[str, Run], active: list[Active], bench: Bench) -> str | None:
    """The first run that may start now, None for none. wait_for: the runs that others need, by name.

    The first run that scores the untuned base goes ahead, and the others that need its answers wait for them.
    """
    if len(active) >= bench.jobs:
        return None
    scoring = any(one.scores_base for one in active) and shared_answers(bench.out / BASE, "test") is None
    for name, run in waiting.items():
        ready = all(_is_finished(other, wait_for[other], bench) for other in run.after)
        if ready and not (_scores_base(run) and scoring):
            return name
    return None


def _scores_base(run: Run) -> bool:
    return run.setting.verb == TRAIN and run.setting.plain


def _not_run(name: str, run: Run, wait_for: dict[str, Run], lines: dict[str, Line], bench: Bench) -> str:
    """Why a run could not start, in a line."""
    missing = next(other for other in run.after if not _is_finished(other, wait_for[other], bench))
    if missing in lines:
        return f"{name}: not run, since it needs the folder of {missing}, which has a line here and no folder"
    return f"{name}: not run, since {missing} has failed"


def _start(name: str, run: Run, bench: Bench) -> Active:
    folder, setting = bench.out / name, run.setting
    words = ["--out", str(folder)]
    if setting.verb == TRAIN:
        words += ["--base-scores", str(bench.out / (BASE if setting.plain else OTHER_BASES))]
    resumed = (folder / "config.json").exists()  # eval.py begins anew, and writes none
    words += ["--resume"] if resumed else _words_of(run, bench)
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(bench.threads))
    notice(f"{name}: {'resumed' if resumed else 'started'}")
    with open(_log_of(name, bench), "a") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            [sys.executable, str(VERBS[setting.verb]), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    return Active(name, _scores_base(run), process, time.monotonic(), not resumed)


def _words_of(run: Run, bench: Bench) -> list[str]:
    """The flags of a run that begins, but for where it is written."""
    setting, seed = run.setting, str(run.seed)
    words = [*bench.words[setting.verb]]
    words += ["--examples-seed", seed] if setting.verb == EVAL else ["--shots", setting.shots, "--seed", seed]
    words += [word for flag, value in setting.flags.items() for word in (f"--{flag}", value) if word]
    for flag, need in setting.needs.items():
        words += [f"--{flag}", need.form.format(bench.out / need.setting.run_name(run.seed))]
    words += ["--bert", bench.bert] if setting.needs_bert else []
    if setting.trials and run.seed:
        return [*words, "--setting", str(bench.out / setting.run_name(0))]
    return words + (["--search", "--trials", str(setting.trials)] if setting.trials else [])


def _log_of(name: str, bench: Bench) -> Path:
    bench.out.mkdir(parents=True, exist_ok=True)
    return bench.out / f"{name}.log"


def _last_line(log: Path) -> str:
    lines = read_whole(log).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word") + f" (all of it: {log})"


def _write_line(name: str, run: Run, seconds: int | None, bench: Bench) -> dict[str, Line]:
    """Add the line of a finished run, and the base's, to the results file; returns all lines."""
    folder, setting = bench.out / name, run.setting
    results = json.loads(read_whole(folder / "results.json"))
    about = bench.common | {"threads": bench.threads}
    if setting.verb == EVAL:
        flags, test, after = setting.flags, results, results
    else:
        config = json.loads(read_whole(folder / "config.json"))
        flags = {flag: entry["value"] for flag, entry in config["flags"].items() if flag not in OF_THE_PLACE}
        about |= {"versions": config["versions"]}
        test, after = results["test"], results["test"]["after"]
    predictions = read_predictions(folder / "predictions.csv")
    if test.get("chosen"):
        about["rows"] = [int(number) for number in predictions.numbers]
    lines, mine = known_lines(bench), {}
    of_run = {key: results[key] for key in OF_A_RUN if key in results} | {"seconds": seconds, "flags": flags}
    of_run |= {"verb": setting.verb} if setting.verb != TRAIN else {}
    scored = predictions.scored
    answers = (scored.z_pos, scored.z_neg) if scored.has_answers else (scored.z_pos,)
    mine[name] = Line(name, about | of_run | _metrics(after), *answers)
    if _scores_base(run) and BASE not in lines:
        answers = shared_answers(bench.out / BASE, "test")
        z = [answers[f"log_yes_{side}"] - answers[f"log_no_{side}"] for side in ("pos", "neg")]
        mine[BASE] = Line(BASE, about | _metrics(test["before"]), *z)
    own = own_file(bench.results, bench.part)
    write_lines(own, (read_lines(own) if bench.part else lines) | mine)
    return known_lines(bench)  # with the digits that a later table has


def _metrics(values: dict) -> dict:
    """The test figures of results.json without their intervals, and nothing else that eval.py has beside them."""
    numbers = {name: value for name, value in values.items() if value is None or isinstance(value, (int, float))}
    return {"test": {name: value for name, value in numbers.items() if name not in OF_EVAL}}


def _in_words(line: Line) -> str:
    values = line.about["test"]
    shown = (("AUC", "auc"), ("contradiction", "contradiction_rate"), ("both right", "group_accuracy"))
    return ", ".join(f"{label} {values[name]:.3f}" for label, name in shown if values.get(name) is not None)
