"""The folder of one run: what was asked for, what happened, what came out."""

import errno
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

from cli.typed import resume_command
from errors import RunError, notice, quoted
from files import (
    PART,
    clear_leftovers,
    flush,
    lock_file,
    missing_advice,
    naming_errors,
    read_whole,
    refuse_unwritable,
    write_bytes,
    write_json,
)
from lora.adapter import CONFIG, WEIGHTS, load_adapter, save_adapter
from machine import ranks
from machine.device import peak_memory
from model.soft_file import VECTORS, load_vectors, save_vectors
from model.soft_tokens import vectors_of
from objectives.base import TERMS
from run.checkpoint import load_state, save_state
from run.events import Events
from run.progress import Progress, Times
from run.validate import refuse_config, step_lines
from tensors import trainable_parameters

LOCK = ".lock"
METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
OUTCOME = ("results.json", "predictions.csv", "curves.png", "README.md", "report.html")


@ranks.first_only
def refuse_unusable(path: Path, resume: bool) -> None:
    """Raises RunError if a run cannot be started, or resumed, in this folder. Changes nothing."""
    refuse_links(path, "--out")
    if (path / LOCK).exists():
        with suppress(OSError):  # reported below
            _lock(path).close()
    _refuse_content(path, resume)


def refuse_links(folder: Path, flag: str) -> None:
    """Raises RunError if a run folder, which somebody may have sent, has a link: what is written would go elsewhere.

    So is a lock that is no plain file: it would be waited for.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink():
            name = quoted(path.name)[1:-1]
            raise RunError(f"{flag} {folder}: {name} is a link, which no run folder has; put a copy in its place")
        if path.name == LOCK and not path.is_file():
            raise RunError(f"{flag} {folder}: {LOCK} is no plain file; delete it")


def _refuse_content(path: Path, resume: bool) -> None:
    if resume and not (path / "config.json").is_file():
        raise RunError(
            f"--resume --out {path}: no run there (config.json is missing); start without --resume"
            + missing_advice(path)
        )
    if not resume and path.exists() and (not path.is_dir() or any(not _is_leftover(file) for file in path.iterdir())):
        raise RunError(f"--out {path}: already exists; choose another folder, or continue that run with --resume")
    refuse_unwritable(path, "--out", RunError)


def _is_leftover(path: Path) -> bool:
    """Whether a run that was killed before its config.json was whole may have left this."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PART))


def _lock(folder: Path) -> TextIO:
    """The folder's lock file, locked until it is closed or this process ends in any way.

    Raises RunError if another process has it. Another RunFolder of this process may have it: runs of one process follow
    each other.
    """
    file = open(folder / LOCK, "a+", encoding="utf-8")
    try:
        lock_file(file)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            notice(
                f"{folder}: this file system has no locks ({error.strerror}); make sure that no two runs share a folder"
            )
            return file
        file.seek(0)
        holder = file.read().strip()
        if holder != _this_process():
            file.close()
            raise RunError(
                f"--out {folder}: another process is working there ({holder}); wait for it, or choose another folder"
            ) from None
    return file


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


class RunFolder:
    """runs/NAME, created on construction and locked for as long as the object or the process lives.

    adapter: what lora.adapter.save_adapter writes about the adapter. Only the first of several ranks locks the folder
    and writes there. Raises RunError if it holds another run, another process works there, or it cannot be written.
    """

    verb, terms, best = "train.py", TERMS, WEIGHTS  # who resumes it, what its steps record, the file of the best state

    def __init__(self, path: Path, resume: bool, adapter: dict | None = None):
        self.path, self.resume, self.adapter = path, resume, adapter
        self.times: Times | None = None  # that the plan expects
        self.events: Events | None = None  # of --tensorboard, on the first rank
        if not ranks.is_first():
            return
        refuse_unusable(path, resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._locked = _lock(path)
            _refuse_content(path, resume)  # again: another process may have been quicker
            self._locked.truncate(0)
            self._locked.write(_this_process() + "\n")
            self._locked.flush()
            clear_leftovers(path)
            clear_leftovers(path / "last")
        except OSError as error:
            raise RunError(f"--out {path}: cannot be written ({error.strerror})") from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around what writes to the folder.

        Raises RunError if writing fails, or if the folder is not the one in which this run began.
        """
        if not ranks.is_first():
            yield
            return
        try:
            try:
                same = os.path.samestat(os.fstat(self._locked.fileno()), os.stat(self.path / LOCK))
            except FileNotFoundError:
                same = False
            if not same:
                raise RunError(
                    f"{self.path}: the run folder was removed or replaced; nothing more was written. "
                    f"Put it back and resume with: {resume_command(self.path, self.verb)}"
                )
            yield
        except OSError as error:
            raise RunError(
                f"{error.filename or self.path}: cannot be written ({error.strerror}); what was saved before is whole. "
                f"Mend that, then resume with: {resume_command(self.path, self.verb)}"
            ) from None

    @ranks.first_only
    def write_config(self, config: dict) -> None:
        """Write config.json."""
        with self.writing():
            write_json(self.path / "config.json", config)

    # ---- what happened --------------------------------------------------------------------------

    @ranks.first_only
    def log(self, record: dict, timing: dict | None = None) -> None:
        """Add a line to metrics.jsonl and one to timings.jsonl.

        The first holds what the computation determines, the second what depends on the machine. A line is written at
        once, so that a reader sees whole lines.
        """
        with self.writing():
            timing = timing and {**timing, "peak_memory_bytes": peak_memory()}
            for name, content in ((METRICS, record), (TIMINGS, timing)):
                if content is not None:
                    with naming_errors(self.path / name), open(self.path / name, "ab") as file:
                        file.write(json.dumps(content, allow_nan=False).encode() + b"\n")
            if self.events:
                self.events.log(record, self.history)
        if self.times and timing:
            self.times.measured(timing["seconds"])

    def history(self) -> list[dict]:
        """The lines of metrics.jsonl so far; a line cut off by a crash is left out."""
        return [record for record, _ in step_lines(self.path / METRICS, self.terms)]

    @ranks.first_only
    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        with self.writing():
            for name, terms in ((METRICS, self.terms), (TIMINGS, ())):
                kept = b"".join(line for record, line in step_lines(self.path / name, terms) if record["step"] <= step)
                write_bytes(self.path / name, kept)

    # ---- what came of it ------------------------------------------------------------------------

    def save_state(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Save all that restore_state needs, with the lines of the steps so far and the best adapter."""
        with self.writing():
            for name in (METRICS, TIMINGS):
                if (self.path / name).exists():
                    flush(self.path / name)
            if self.events:
                self.events.flush()
            save_state(self.path / "last", model, optimizer, progress, best=self.path / self.best)

    def restore_state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Put a resumed run back to where it was last saved; returns its progress, which for a new run is none yet.

        Raises RunError if no saved state is whole.
        """
        if not self.resume:
            return Progress()
        with self.writing():
            progress = load_state(self.path / "last", model, optimizer, best=self.path / self.best) or Progress()
        self.forget_after(progress.step)
        return progress

    @ranks.first_only
    def forget_results(self) -> None:
        """Delete the results of a finished run that is made longer."""
        with self.writing():
            for name in OUTCOME:
                (self.path / name).unlink(missing_ok=True)

    @ranks.first_only
    def save_best(self, model: nn.Module) -> None:
        """Make the model's adapter the run's result: all files whole, the weights last.

        The configuration is the same throughout a run, so a kill between the two leaves files that belong together.
        Vectors say which adapter they belong to.
        """
        with (
            self.writing(),
            tempfile.TemporaryDirectory(dir=self.path, prefix=".best-", suffix=PART) as temporary,
            naming_errors(self.path / WEIGHTS),
        ):
            save_adapter(model, Path(temporary), self.adapter)
            if vectors_of(model) is not None:
                save_vectors(model, Path(temporary), Path(temporary) / WEIGHTS)
            for name in (CONFIG, *([VECTORS] if vectors_of(model) is not None else []), WEIGHTS):
                flush(Path(temporary) / name)
                os.replace(Path(temporary) / name, self.path / name)
            flush(self.path)

    def load_best(self, model: nn.Module) -> None:
        """Put the best adapter into the model."""
        if ranks.is_first():
            load_adapter(model, self.path)
            if vectors_of(model) is not None:
                load_vectors(model, self.path, self.path / WEIGHTS)
        # Another node may still see an older file.
        ranks.broadcast_tensors(list(trainable_parameters(model).values()))


def fresh_name(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, ... if that is taken."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def read_run_config(folder: Path, flag: str, verb: str = "train.py") -> dict:
    """config.json of a verb's run. Raises RunError, naming the flag that named it, if the folder is no such run."""
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(
            f"{flag} {folder}: no run there (config.json is missing); give the folder that {verb} wrote"
            + missing_advice(folder)
        )
    return read_config_file(path, verb)


def read_config_file(path: Path, verb: str = "train.py") -> dict:
    """The content of the config.json of a verb's run, under any name. Raises RunError if it is something else."""
    try:
        config = json.loads(read_whole(path))
    except (ValueError, RecursionError):
        config = None
    refuse_config(config, path, verb)
    of = config.get("verb", "train.py")
    if of != verb:
        raise RunError(f"{path}: is of a run of {quoted(of)}, not of {verb}; give the folder of a run of {verb}")
    return config
