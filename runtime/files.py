"""Files that are whole or absent: written aside, flushed, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path


def write_aside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file next to `path`, then put it there in one step. A kill at any instant
    leaves the previous file whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; for files of a folder that is renamed when whole."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    """JSON with two spaces; refuses NaN, which is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
