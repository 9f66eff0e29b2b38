"""Files that are whole or absent: written aside, flushed, then renamed."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"  # how the name of a file ends, begun with a dot, until it is whole
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # what file systems say that cannot flush a folder


def write_aside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file next to `path`, then put it there in one step. A kill at any instant
    leaves the previous file whole. Raises OSError naming `path`."""
    aside = aside_of(path)
    try:
        with naming(path):
            write(aside)
            flush(aside)
            os.replace(aside, path)
            flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; for files of a folder that is renamed when whole."""
    with naming(path), open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    """JSON with two spaces; refuses NaN, which is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


# ---- what these are made of ---------------------------------------------------------------------


def aside_of(path: Path) -> Path:
    """Where this process makes what will be at `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError from within name `path`: of a full disk the system does not say which file it was."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Wait until the disk has this file, or the names in this folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_FOLDER_FLUSH):
            raise
    finally:
        os.close(handle)


def discard(folder: Path) -> None:
    """Delete a folder so that a kill never leaves half of it under its name."""
    aside = aside_of(folder.with_name(f"{folder.name}.old"))
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    shutil.rmtree(aside)


def clear_leftovers(folder: Path) -> None:
    """Delete what killed processes left unfinished in this folder; for one that no other process writes to."""
    for path in folder.glob(f".*{PART}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
