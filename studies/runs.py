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
from metrics import metric_values
from run.answers import read_answers
from run.base_scores import shared_answers
from run.config import versions
from run.predictions import Predictions, read_predictions
from studies.declared import BASELINE, EVAL, TRAIN, Run, Setting, Study
from studies.results import BASE, Line, read_lines, write_lines

VERBS = {name: Path(__file__).parent.parent / name for name in (TRAIN, BASELINE, EVAL)}
ANSWERS = "consistency.json"  # in the folder of what asks in all wordings
OF_A_QUESTION = ("asks", "kind", "trained_on", "held_out", "same_answer_is_right")
OF_THE_PLACE = (
    *("data_dir", "model", "out", "base_scores", "resume", "json", "config", "merge_out", "plan", "device"),
    *("setting", "bert", "jobs"),
)
OF_A_RUN = (  # of results.json
    *("steps", "best_step", "best_valid_auc", "stopped", "select", "selection"),
    *("setting", "settings", "bert"),
)
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Bench:
    """Where and how the runs of a study are made.

    out: the folder of their run folders; results: the file of their lines; common: what all lines have in common;
    words: {verb: flags for every run of it}; threads: of each process; bert: the folder of a BERT, None for none.
    """

    out: Path
    results: Path
    common: dict
    words: dict[str, tuple[str, ...]]
    jobs: int
    threads: int
    bert: str | None = None


@dataclass(frozen=True)
class Active:
    """A process at work. whole: whether it makes the whole run, so that its time is the run's."""

    run: str
    verb: str
    process: subprocess.Popen
    began: float
    whole: bool


def wanted_runs(study: Study, bench: Bench) -> dict[str, Run]:
    """The runs of a study that can be made here, by name: those that need a BERT only where there is one."""
    return {name: run for name, run in study.runs().items() if bench.bert or not run.setting.needs_bert}


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


def expected(missing: list[Run], lines: dict[str, Line], jobs: int) -> str:
    """How long the missing runs should take, from the median time of those of the same verb that are there."""
    if not missing:
        return "nothing is left to run"
    seconds: dict[str, list[float]] = {}
    for line in lines.values():
        if line.about.get("seconds"):
            seconds.setdefault(line.about.get("verb", TRAIN), []).append(line.about["seconds"])
    if any(run.verb not in seconds for run in missing):
        return f"{len(missing)} to make; how long one takes is known after the first"
    left = sum(statistics.median(seconds[run.verb]) for run in missing) / jobs
    return f"{len(missing)} to make in about {tqdm.format_interval(left)} (h:min:s), {jobs} at a time"


def make_runs(study: Study, bench: Bench) -> dict[str, Line]:
    """Run what is missing; returns all lines. The line of each finished run is written at once.

    Raises RunError at the end if runs failed; Stopped if a signal came, after the processes have saved their states.
    """
    wanted, lines, failed = wanted_runs(study, bench), known_lines(bench), []
    for name, run in wanted.items():  # finished, but ended before its line was written
        if name not in lines and (bench.out / name / "results.json").exists():
            lines = _write_line(name, run, None, bench)
    waiting = missing_runs(wanted, lines, bench)
    notice(f"runs of the study: {len(wanted)}; {expected(list(waiting.values()), lines, bench.jobs)}")
    if left_out := len(study.runs()) - len(wanted):
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
                    failed += [f"{name}: not run, since {run.after} has failed" for name, run in waiting.items()]
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


def missing_runs(wanted: dict[str, Run], lines: dict[str, Line], bench: Bench) -> dict[str, Run]:
    """The runs without a line; and those whose line came from elsewhere, if one of these needs their folder."""
    without = {name: run for name, run in wanted.items() if name not in lines}
    needed = {run.after for run in without.values()}
    return {
        name: run
        for name, run in wanted.items()
        if name in without or (name in needed and not (bench.out / name / "results.json").exists())
    }


def _next(waiting: dict[str, Run], active: list[Active], bench: Bench) -> str | None:
    """The first run that may start now, None for none.

    The first run of train.py scores the base, and the others of that verb wait for its answers.
    """
    if len(active) >= bench.jobs:
        return None
    scoring = any(one.verb == TRAIN for one in active) and shared_answers(bench.out / BASE, "test") is None
    for name, run in waiting.items():
        ready = run.after is None or (bench.out / run.after / "results.json").exists()
        if ready and not (run.verb == TRAIN and scoring):
            return name
    return None


def _start(name: str, run: Run, bench: Bench) -> Active:
    resumed = (bench.out / name / "config.json").exists()
    words = _words_to_ask(name, run, bench) if run.asks else _words_to_train(name, run, bench, resumed)
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(bench.threads))
    notice(f"{name}: {'resumed' if resumed else 'started'}")
    with open(_log_of(name, bench), "a") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            [sys.executable, str(VERBS[run.verb]), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    return Active(name, run.verb, process, time.monotonic(), not resumed)


def _words_to_train(name: str, run: Run, bench: Bench, resumed: bool) -> list[str]:
    setting, words = run.setting, ["--out", str(bench.out / name)]
    words += ["--base-scores", str(bench.out / BASE)] if setting.verb == TRAIN else []
    if resumed:
        return [*words, "--resume"]
    words += [*bench.words[setting.verb], "--shots", setting.shots, "--seed", str(run.seed)]
    words += [word for flag, value in setting.flags.items() for word in (f"--{flag}", value) if word]
    words += ["--bert", bench.bert] if setting.needs_bert else []
    if setting.trials:
        words += ["--setting", str(bench.out / run.after)] if run.after else _search(setting)
    return words


def _words_to_ask(name: str, run: Run, bench: Bench) -> list[str]:
    """Of eval.py, which keeps no states: what an interrupted one left is written anew."""
    folder = bench.out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ANSWERS).unlink(missing_ok=True)
    asked = ["--run", str(bench.out / run.after)] if run.after else []
    return [
        *(*asked, *bench.words[EVAL], "--wordings"),
        *("--out", str(folder), "--predictions-out", str(folder / ANSWERS)),
    ]


def _search(setting: Setting) -> list[str]:
    return ["--search", "--trials", str(setting.trials)]


def _log_of(name: str, bench: Bench) -> Path:
    bench.out.mkdir(parents=True, exist_ok=True)
    return bench.out / f"{name}.log"


def _last_line(log: Path) -> str:
    lines = read_whole(log).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word") + f" (all of it: {log})"


def _write_line(name: str, run: Run, seconds: int | None, bench: Bench) -> dict[str, Line]:
    """Add the line of a finished run, and the base's, to the results file; returns all lines."""
    lines = known_lines(bench)
    if run.asks:
        lines[name] = _line_of_asked(name, seconds, bench)
    else:
        lines[name] = _line_of_run(name, run, seconds, bench)
        if run.setting.verb == TRAIN and BASE not in lines:
            lines[BASE] = _line_of_base(name, bench)
    write_lines(bench.results, lines)
    return known_lines(bench)  # with the digits that a later table has


def _left_by(name: str, bench: Bench) -> tuple[dict, dict, Predictions, dict]:
    """What a finished run of train.py or baseline.py left.

    Its results.json, its flags, its predictions, and what its line and the base's have in common.
    """
    folder = bench.out / name
    results, config = (json.loads(read_whole(folder / file)) for file in ("results.json", "config.json"))
    predictions = read_predictions(folder / "predictions.csv")
    flags = {flag: entry["value"] for flag, entry in config["flags"].items() if flag not in OF_THE_PLACE}
    about = bench.common | {"versions": config["versions"], "threads": bench.threads}
    return results, flags, predictions, about | _rows(results["test"], predictions)


def _rows(results: dict, predictions: Predictions) -> dict:
    """{"rows": their numbers in the whole split} if these are results of a part of it."""
    return {"rows": [int(number) for number in predictions.numbers]} if results.get("chosen") else {}


def _line_of_run(name: str, run: Run, seconds: int | None, bench: Bench) -> Line:
    results, flags, predictions, about = _left_by(name, bench)
    of_run = {key: results[key] for key in OF_A_RUN if key in results} | {"seconds": seconds, "flags": flags}
    of_run |= {"verb": run.setting.verb} if run.setting.verb != TRAIN else {}
    scored = predictions.scored
    answers = (scored.z_pos, scored.z_neg) if scored.has_answers else (scored.z_pos,)
    return Line(name, about | of_run | _metrics(results["test"]["after"]), *answers)


def _line_of_base(name: str, bench: Bench) -> Line:
    """The answers before training, which the runs share. name: of a run that was compared with them."""
    results, _, _, about = _left_by(name, bench)
    answers = shared_answers(bench.out / BASE, "test")
    z = [answers[f"log_yes_{side}"] - answers[f"log_no_{side}"] for side in ("pos", "neg")]
    return Line(BASE, about | _metrics(results["test"]["before"]), *z)


def _line_of_asked(name: str, seconds: int | None, bench: Bench) -> Line:
    """The line of what eval.py --wordings left: the answers to all questions, and which questions these are."""
    folder = bench.out / name
    results, answers = json.loads(read_whole(folder / "results.json")), read_answers(folder / ANSWERS)
    of_question = {row["asks"]: {key: row[key] for key in OF_A_QUESTION} for row in results["wordings"]["rows"]}
    about = bench.common | {"versions": versions(), "threads": bench.threads}
    about |= _rows(results, read_predictions(folder / "predictions.csv"))
    about |= {"seconds": seconds, "verb": EVAL, "questions": [of_question[words] for words in answers.questions]}
    measured = {key: results[key] for key in metric_values(answers.scored) if key in results}
    z = answers.odds.T
    return Line(name, about | _metrics(measured), z[0], z[1], z[2:])


def _metrics(values: dict) -> dict:
    """The test figures of results.json without their intervals."""
    return {"test": {name: value for name, value in values.items() if name not in ("interval_95", "counts")}}


def _in_words(line: Line) -> str:
    values = line.about["test"]
    shown = (("AUC", "auc"), ("contradiction", "contradiction_rate"), ("both right", "group_accuracy"))
    return ", ".join(f"{label} {values[name]:.3f}" for label, name in shown if values.get(name) is not None)
