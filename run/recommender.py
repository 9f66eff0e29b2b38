"""A run of baseline.py: its rows, its folder, its training, its results."""

import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from baselines.base import Direct, Method, Training, history_form, settings_of
from baselines.fit import fit, make_optimizer, score_rows
from baselines.methods import METHODS
from baselines.rows import Rows, encode_rows, number_ids
from cli.baseline import BaselineFlags, given_settings
from cli.data import load_data
from cli.flags import Resolved, flag_name
from cli.train import shot_count
from data.interactions import Dataset, Interaction, select_shots
from errors import DataError, RunError, notice
from files import read_whole, write_bytes
from machine.bar import Bar
from machine.device import pick_device
from machine.signals import Stopped, StopRequest
from report.recommender_page import recommender_page
from run.config import chosen_flags, run_config
from run.folder import RunFolder, read_config_file, resume_command
from run.inputs import refuse_one_label
from run.page import surroundings_of
from run.progress import Progress
from run.resume import config_of_resumed
from run.settings import BEST, VERB
from tensors import copy_tensors, put_tensors, trainable_parameters

OF_ONE_CALL = ("out", "resume", "json", "jobs", "device", "data_dir", "bert")  # left out of a command to pass on
SAVE_EVERY = 60.0  # seconds; an epoch may take a hundredth of one


@dataclass(frozen=True)
class Task:
    """What is learned: the rows of a data set for one method. shots: the training rows that were drawn."""

    data: Dataset
    method: Method | Direct
    shots: list[Interaction]


@dataclass(frozen=True)
class Encoded:
    """A task as tensors on one device, for a Method with its settings."""

    method: Method
    settings: dict
    training: Training
    valid: Rows
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.valid.items.device

    def build(self) -> nn.Module:
        """A fresh module; its first weights, and all draws that follow, come from the seed."""
        torch.manual_seed(self.seed)
        return self.method.build(self.training, self.settings).to(self.device)


class RecommenderFolder(RunFolder):
    """The folder of a run of baseline.py. It keeps every trained tensor of the best state."""

    verb, terms, best = VERB, ("loss", "valid_auc"), BEST

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, best: dict[str, torch.Tensor]
    ) -> None:
        """Save all that restore_state needs. best: the tensors of the best state since the last call, {} for none."""
        if best:
            with self.writing():
                write_bytes(self.path / self.best, save(best))
        self.save_state(module, optimizer, progress)

    def load_best(self, module: nn.Module) -> None:
        """Put the best state into the module. Raises RunError if the file is damaged."""
        path = self.path / self.best
        try:
            put_tensors(trainable_parameters(module), load(read_whole(path)), str(path))
        except (SafetensorError, FileNotFoundError):
            raise RunError(f"{path}: missing or damaged; do the run again in another folder") from None


# ---- before training ----------------------------------------------------------------------------


def load_task(flags: BaselineFlags) -> Task:
    """The data set and the drawn training rows. Raises DataError if the method cannot learn from them."""
    data, method = load_data({**vars(flags), "model": "demo"}), METHODS[flags.method]
    if method.needs_users and any(row.user is None for row in data.train):
        raise DataError(
            f"--method {method.name}: learns about single users, and --data {flags.data} does not say which user a row "
            "is of (TALLRec's JSON never does); choose a method that reads the history or the item alone"
        )
    refuse_one_label(data.valid, f"--data {flags.data}")
    shots = select_shots(data.train, shot_count(flags.shots), flags.seed)
    if method.needs_users:
        known = {row.user for row in shots}
        strangers = sum(row.user not in known for row in data.test)
        if strangers:
            notice(f"{strangers:,} of {len(data.test):,} test rows are of users without a training row")
    return Task(data, method, shots)


def chosen_settings(flags: BaselineFlags, task: Task, searched: dict) -> dict:
    """Every setting of a run by name: of --setting, changed by flags; {} for a Direct method.

    searched: the settings of --setting FILE, {} without.
    """
    if isinstance(task.method, Direct):
        return {}
    of_method = settings_of(task.method, task.data.name, flags.setting == "published")
    return of_method | searched | given_settings(flags)


def encode_task(task: Task, settings: dict, seed: int, device: torch.device) -> Encoded:
    """The training and validation rows as tensors."""
    ids, form = number_ids(task.data, task.shots), history_form(task.method, settings)
    train, valid = (encode_rows(rows, ids, form).to(device) for rows in (task.shots, task.data.valid))
    return Encoded(task.method, settings, Training(ids, train), valid, seed)


def open_run(
    out: Path, flags: BaselineFlags, resolved: Resolved, task: Task, settings: dict
) -> tuple[RecommenderFolder, torch.device]:
    """(the run folder, new or resumed, with its config.json written; the device)."""
    data, device = task.data, pick_device(flags.device)
    rows = " + ".join(f"{len(split):,}" for split in (data.train, data.valid, data.test))
    fingerprints = {
        "data": f"{data.fingerprint()} ({data.source}, {rows} rows)",
        "settings": json.dumps(settings, sort_keys=True),
    }
    if isinstance(task.method, Method):
        fingerprints |= task.method.inputs(settings)
    config = run_config(resolved, data, device, fingerprints) | {"verb": VERB, "settings": settings}
    run = RecommenderFolder(out, flags.resume)
    run.write_config(config_of_resumed(out, config) if flags.resume else config)
    notice(f"{run.path}: {data.name} from {data.source}; {flags.method} on {device}; {len(task.shots):,} training rows")
    notice(chosen_flags(resolved))
    return run, device


def page_of_run(run: RecommenderFolder, results: dict) -> str:
    """report.html of a run. results: of results.json."""
    config = read_config_file(run.path / "config.json", VERB)
    given = {name: entry["value"] for name, entry in config["flags"].items() if entry["source"] == "flag"}
    words = [VERB]
    for name, value in given.items():
        if name not in OF_ONE_CALL:
            words += [flag_name(name)] if value is True else [flag_name(name), str(value)]
    facts = {name: text for name, text in config["fingerprints"].items() if name != "settings"}
    return recommender_page(results, run.history(), shlex.join(["python", *words]), facts | surroundings_of(config))


# ---- training -----------------------------------------------------------------------------------


def train(run: RecommenderFolder, task: Encoded) -> tuple[nn.Module, Progress]:
    """(the module in its best state, how the training went). Raises Stopped after a signal, when all is saved."""
    module = task.build()
    optimizer = make_optimizer(module, task.settings)
    progress = run.restore_state(module, optimizer)
    if run.resume:
        notice(f"Resuming after epoch {progress.step:,}")
    best: dict[str, torch.Tensor] = {}
    saved = started = time.monotonic()
    rows, most, patience = task.training.rows, task.settings["epochs"], task.settings["patience"]
    with StopRequest() as stop, Bar(most, "training", "epochs at most", progress.step, keep=True) as bar:
        for record, is_best in fit(module, optimizer, rows, task.valid, task.settings, progress):
            seconds, started = time.monotonic() - started, time.monotonic()
            timing = {"step": progress.step, "time": time.time(), "seconds": seconds}
            run.log(record, timing | {"rows_per_s": len(rows) / max(seconds, 1e-9)})
            best = copy_tensors(module) if is_best else best
            if stop.signal or time.monotonic() - saved > SAVE_EVERY:
                run.save(module, optimizer, progress, best)
                best, saved = {}, time.monotonic()
            if stop.signal:
                command = resume_command(run.path, VERB)
                raise Stopped(f"{stop.signal}: saved after epoch {progress.step}; resume with: {command}")
            left = min(most - progress.step, patience - progress.since_best)
            note = f"loss {record['loss']:.3f}, AUC {progress.best_value:.3f}"
            bar.update(1, note, left * seconds, "validation improves")
    run.save(module, optimizer, progress, best)
    run.load_best(module)
    return module, progress


def scores_of(module: nn.Module, task: Encoded, rows: list[Interaction]) -> np.ndarray:
    """The trained module's score for each row, (N,) float64."""
    form = history_form(task.method, task.settings)
    return score_rows(module, encode_rows(rows, task.training.ids, form).to(task.device))
