"""The folder of one run: what was asked for, what happened, what came out."""

import errno
import fcntl
import json
import os
import shlex
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import RunError, notice
from files import (
    PART,
    clear_leftovers,
    flush,
    naming_errors,
    read_whole,
    refuse_unwritable,
    write_bytes,
    write_json,
)
from lora.adapter import CONFIG, WEIGHTS, load_adapter, save_adapter
from lora.inject import lora_parameters
from machine import ranks
from run.checkpoint import load_state, save_state
from run.validate import TERMS, refuse_config, step_lines

LOCK = ".lock"
METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
OUTCOME = ("results.json", "predictions.csv", "curves.png")


@ranks.first_only
def refuse_unusable(path: Path, resume: bool) -> None:
    """Raises RunError if a run cannot be started, or resumed, in this folder. Changes nothing."""
    if (path / LOCK).exists():
        try:
            _lock(path).close()
        except OSError:
            pass  # said below
    _refuse_content(path, resume)


def _refuse_content(path: Path, resume: bool) -> None:
    if resume and not (path / "config.json").is_file():
        raise RunError(f"--resume --out {path}: no run there (config.json is missing); start without --resume")
    if not resume and path.exists() and (not path.is_dir() or any(not _is_leftover(file) for file in path.iterdir())):
        raise RunError(f"--out {path}: is there already; choose another folder, or continue that run with --resume")
    refuse_unwritable(path, "--out", RunError)


def _is_leftover(path: Path) -> bool:
    """Whether a run that was killed before its config.json was whole may have left this."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PART))


def _lock(folder: Path):
    """The folder's lock file, locked until it is closed or this process ends in any way.

    Raises RunError if another process has it. Another RunFolder of this process may: it is one run after the other.
    """
    file = open(folder / LOCK, "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            notice(
                f"{folder}: this file system knows no locks ({error.strerror}); see to it that no two runs share a folder"
            )
            return file
        file.seek(0)
        holder = file.read().strip()
        if holder != _this_process():
            file.close()
            raise RunError(
                f"--out {folder}: another process is at work there ({holder}); wait for it, or choose another folder"
            ) from None
    return file


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def resume_command(path: Path) -> str:
    return f"{'python' if ranks.count() == 1 else 'torchrun ...'} train.py --out {shlex.quote(str(path))} --resume"


class RunFolder:
    """runs/NAME, created on construction and locked from then on, as long as the object or the process lives.
    Of several ranks the first alone locks it and writes there.

    Raises RunError if it holds another run, another process is at work there, or it cannot be written.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
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
        """Around what writes to the folder. Raises RunError if it fails, or if the folder is not the one that
        this run began in.
        """
        if not ranks.is_first():
            yield  # to what writes nothing here
            return
        try:
            try:
                same = os.path.samestat(os.fstat(self._locked.fileno()), os.stat(self.path / LOCK))
            except FileNotFoundError:
                same = False
            if not same:
                raise RunError(
                    f"{self.path}: the run folder was removed or replaced; nothing more was written. Put it back and go on with: {resume_command(self.path)}"
                )
            yield
        except OSError as error:
            raise RunError(
                f"{error.filename or self.path}: cannot be written ({error.strerror}); what was saved before is whole. "
                f"Mend that, then go on with: {resume_command(self.path)}"
            ) from None

    def config(self) -> dict:
        return read_run_config(self.path)

    @ranks.first_only
    def write_config(self, config: dict) -> None:
        with self.writing():
            write_json(self.path / "config.json", config)

    # ---- what happened --------------------------------------------------------------------------

    @ranks.first_only
    def log(self, record: dict, timing: dict | None = None) -> None:
        """Add a line to metrics.jsonl, which holds what the computation determines, and one to timings.jsonl,
        which holds what the machine made of it. A line at once, so that a reader sees whole ones.
        """
        with self.writing():
            for name, content in ((METRICS, record), (TIMINGS, timing)):
                if content is not None:
                    with naming_errors(self.path / name), open(self.path / name, "ab") as file:
                        file.write(json.dumps(content, allow_nan=False).encode() + b"\n")

    def history(self) -> list[dict]:
        """The lines of metrics.jsonl so far; a line cut off by a crash is left out."""
        return [record for record, _ in step_lines(self.path / METRICS, TERMS)]

    @ranks.first_only
    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        with self.writing():
            for name, terms in ((METRICS, TERMS), (TIMINGS, ())):
                kept = b"".join(line for record, line in step_lines(self.path / name, terms) if record["step"] <= step)
                write_bytes(self.path / name, kept)

    # ---- what came of it ------------------------------------------------------------------------

    def save_state(self, model, optimizer, progress: dict) -> None:
        """All that restore_state needs, the lines of the steps so far and the best adapter included."""
        with self.writing():
            for name in (METRICS, TIMINGS):
                if (self.path / name).exists():
                    flush(self.path / name)
            save_state(self.path / "last", model, optimizer, progress, best=self.path / WEIGHTS)

    def restore_state(self, model, optimizer) -> dict | None:
        """The run as it was when it was last saved; returns its progress, None if it never was.

        Raises RunError if no saved state is whole.
        """
        with self.writing():
            progress = load_state(self.path / "last", model, optimizer, best=self.path / WEIGHTS)
        self.forget_after(progress["step"] if progress else 0)
        return progress

    @ranks.first_only
    def forget_results(self) -> None:
        """Delete the results of an end that is no longer the run's, because it is made longer."""
        with self.writing():
            for name in OUTCOME:
                (self.path / name).unlink(missing_ok=True)

    @ranks.first_only
    def save_best(self, model, settings: dict) -> None:
        """Make the model's adapter the run's result: both files whole, the weights last. The configuration is
        the same throughout a run, so a kill between the two leaves a pair that belongs together.
        """
        with self.writing(), tempfile.TemporaryDirectory(dir=self.path, prefix=".best-", suffix=PART) as aside:
            with naming_errors(self.path / WEIGHTS):
                save_adapter(model, Path(aside), settings)
                for name in (CONFIG, WEIGHTS):
                    flush(Path(aside) / name)
                    os.replace(Path(aside) / name, self.path / name)
                flush(self.path)

    def load_best(self, model) -> None:
        """Put that adapter into the model."""
        if ranks.is_first():
            load_adapter(model, self.path)
        ranks.broadcast_tensors(lora_parameters(model))  # another node's view of the file may be old


def fresh_name(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, ... if that is taken."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def read_run_config(folder: Path) -> dict:
    """config.json of a run. Raises RunError if the folder is not a run."""
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder}: no run there (config.json is missing); give the folder that train.py wrote")
    try:
        config = json.loads(read_whole(path))
    except (ValueError, RecursionError):
        config = None
    refuse_config(config, path)
    return config
