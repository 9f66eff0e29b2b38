"""--search: a method's grid, tried on validation AUC under a budget of trials that is the same for every method."""

import itertools
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch

from baselines.fit import fit, make_optimizer
from errors import RunError, notice, quoted
from files import read_whole, write_json
from machine.bar import Bar
from machine.signals import Stopped, StopRequest
from run.folder import resume_command
from run.progress import Progress
from run.recommender import VERB, Encoded, RecommenderFolder

TRIALS, SETTING = "trials.jsonl", "setting.json"
SUBSET_SEED = 0  # not --seed: runs with different seeds try the same settings
WAIT = 0.2  # seconds between two looks at signals while other processes work
_OF_PROCESS: dict = {}  # what a process of the search was started with


@dataclass(frozen=True)
class Budget:
    """trials: settings to try, at most; jobs: processes."""

    trials: int
    jobs: int


def search(run: RecommenderFolder, task: Encoded, budget: Budget) -> dict:
    """Try the grid and return the best settings, which setting.json of the run has, too.

    trials.jsonl gets a line per trial when it is done; a resumed search does the others. Ties go to the earlier trial,
    so the choice does not depend on the processes. Raises Stopped after a signal, RunError if no trial can be trained.
    """
    wanted = trials_of(task.method.grid, budget.trials)
    done = read_trials(run.path / TRIALS, wanted)
    left = [number for number in range(len(wanted)) if number not in done]
    tasks = {number: replace(task, settings=task.settings | wanted[number]) for number in left}
    with StopRequest() as stop, Bar(len(wanted), "search", "trials", len(done), keep=True) as bar:
        for number, outcome in _outcomes(tasks, budget.jobs, stop):
            done[number] = {"trial": number, "setting": wanted[number], **outcome}
            _log(run, done[number])
            bar.update(1, f"best AUC {max(trial['valid_auc'] or 0 for trial in done.values()):.3f}")
        if stop.signal:
            raise Stopped(
                f"{stop.signal}: {len(done)} of {len(wanted)} trials are done; "
                f"resume with: {resume_command(run.path, VERB)}"
            )
    trained = [done[number] for number in range(len(wanted)) if done[number]["valid_auc"] is not None]
    if not trained:
        raise RunError(f"{run.path / TRIALS}: no trial could be trained; each line says why")
    best = max(trained, key=lambda trial: trial["valid_auc"])  # the first of equals
    settings = task.settings | wanted[best["trial"]]
    with run.writing():
        content = {"method": task.method.name, "settings": settings, "valid_auc": best["valid_auc"]}
        write_json(run.path / SETTING, content | {"trials": len(wanted)})
    shown = ", ".join(f"{name} {value:g}" for name, value in wanted[best["trial"]].items())
    notice(f"Best of {len(wanted)} trials, validation AUC {best['valid_auc']:.4f}: {shown}")
    return settings


def trials_of(grid: dict[str, tuple], count: int) -> list[dict]:
    """The settings to try, {name: value} each: the whole grid, or a seeded choice of it if it has more than count."""
    every = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    chosen = np.random.default_rng(SUBSET_SEED).permutation(len(every))[:count]
    return [every[i] for i in sorted(chosen)]


def try_setting(task: Encoded, stopped: Callable[[], bool]) -> dict | None:
    """Train once: the best validation AUC with its epoch, or why it cannot be trained. None if it was stopped."""
    began, progress = time.monotonic(), Progress()
    try:
        module = task.build()
        optimizer = make_optimizer(module, task.settings)
        for _ in fit(module, optimizer, task.training.rows, task.valid, task.settings, progress):
            if stopped():
                return None
    except RunError as error:
        return {"valid_auc": None, "problem": str(error), "seconds": time.monotonic() - began}
    found = {"valid_auc": progress.best_value, "best_epoch": progress.best_step, "epochs": progress.step}
    return found | {"seconds": time.monotonic() - began}


def _outcomes(tasks: dict[int, Encoded], jobs: int, stop: StopRequest) -> Iterator[tuple[int, dict]]:
    """(the trial's number, what came of it) as they are done, until a signal."""
    if jobs == 1 or len(tasks) < 2:
        for number, task in tasks.items():
            if (outcome := try_setting(task, lambda: stop.signal is not None)) is None:
                return
            yield number, outcome
        return
    # Spawned and not forked: a forked child would inherit torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, _prepare_process, (ended,)) as pool:
        try:
            waiting = {pool.submit(_try_in_process, task): number for number, task in tasks.items()}
            while waiting and not stop.signal:
                for future in wait(waiting, WAIT, FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            raise RunError("--jobs: a process of the search ended; is there enough memory? Resume with fewer") from None
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def _prepare_process(ended: Event) -> None:
    """Signals are for the first process, which ends the others; and each process takes one core."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    _OF_PROCESS["ended"] = ended


def _try_in_process(task: Encoded) -> dict | None:
    return try_setting(task, _OF_PROCESS["ended"].is_set)


def _log(run: RecommenderFolder, trial: dict) -> None:
    with run.writing(), open(run.path / TRIALS, "ab") as file:
        file.write(json.dumps(trial, allow_nan=False).encode() + b"\n")


def read_trials(path: Path, wanted: list[dict]) -> dict[int, dict]:
    """{number: its line} of the trials that are done; a line that a crash cut off is left out, here and in the file.

    Raises RunError naming a line that is not one of these trials.
    """
    done: dict[int, dict] = {}
    content = read_whole(path) if path.exists() else b""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            trial = json.loads(line)
            value = trial["valid_auc"]
            planned = wanted[trial["trial"]] if type(trial["trial"]) is int and trial["trial"] >= 0 else None
            if planned != trial["setting"] or not (value is None or (type(value) is float and 0 <= value <= 1)):
                raise ValueError
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise RunError(
                f"{path} line {number}: not a trial of this search, found {quoted(line[:80])}; start another run"
            ) from None
        done[trial["trial"]] = trial
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return done
