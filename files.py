"""Files that are whole or absent when written, and read within bounds.

Importable from everywhere. What is written is made under a temporary name, flushed, then renamed: a kill at any instant
leaves the previous file whole. What is read may come from anywhere: a FIFO would be waited for without end, a device
read without end, and a few kilobytes of gzip can hold gigabytes.
"""

import errno
import gzip
import importlib
import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, BinaryIO

from errors import DataError, quoted

WINDOWS = os.name == "nt"
BEYOND = 2**30  # of a lock file: Windows lets nobody read the byte that is locked
PART = ".part"  # how a temporary name ends; it begins with a dot
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # what file systems answer that cannot flush a folder
LARGEST = 2**30  # bytes of a file that is read whole; the largest prepared one, Amazon's rows, has less than half
LONGEST_LINE = 2**24  # bytes; the longest review of Amazon's has 33,000
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


# ---- writing ------------------------------------------------------------------------------------


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file next to `path`, then put it there in one step. Raises OSError naming `path`."""
    temporary = temporary_path(path)
    try:
        with naming_errors(path):
            write(temporary)
            temporary.chmod(0o666 & ~_umask())  # some libraries make files that only their owner can read
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """The content, in one step."""
    write_file(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """The text as UTF-8, in one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: dict) -> None:
    """JSON with two spaces, in one step; refuses NaN, which is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it is put at `path` in one step when the block ends, and removed if the block raises.

    Write its files with write_flushed. Raises OSError naming `path`, also if a folder with content is already there.
    """
    temporary = temporary_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming_errors(path):
            temporary.mkdir()
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; for files of a folder that is renamed when whole."""
    with naming_errors(path), open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def temporary_path(path: Path) -> Path:
    """The name under which this process makes what will be at `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART}")


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Let an OSError from within name `path`: of a full disk the system does not say which file it was."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Wait until the disk has this file, or the names in this folder. Windows opens no folder, and flushes only what
    may be written.
    """
    if WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_FOLDER_FLUSH):
            raise
    finally:
        os.close(handle)


def discard(folder: Path) -> None:
    """Delete a folder so that a kill never leaves half of it under its name."""
    temporary = temporary_path(folder.with_name(f"{folder.name}.old"))
    shutil.rmtree(temporary, ignore_errors=True)
    os.replace(folder, temporary)
    shutil.rmtree(temporary)


def clear_leftovers(folder: Path) -> None:
    """Delete what killed processes left unfinished in this folder; for one that no other process writes to."""
    for path in folder.glob(f".*{PART}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_unwritable(path: Path, flag: str, error: type[Exception]) -> None:
    """Raises `error`, naming `flag`, if nothing can be made at `path`. Changes nothing."""
    above = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise error(
            f"{flag} {path}: cannot be written ({above} is {'not writable' if above.is_dir() else 'not a folder'})"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- locks --------------------------------------------------------------------------------------


def optional_module(name: str) -> ModuleType | None:
    """A module that some systems lack, such as fcntl on Windows, or torch.utils.tensorboard; None there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def lock_file(file: IO) -> None:
    """Lock an open file until it is closed or this process ends in any way.

    Raises OSError: EAGAIN or EACCES if another process has it, another number if there are no locks here.
    """
    if fcntl := optional_module("fcntl"):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt := optional_module("msvcrt"):  # Windows
        os.lseek(file.fileno(), BEYOND, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


# ---- names that are no files --------------------------------------------------------------------

HUB_NAME = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf:/+)?(datasets/)?([\w.-]+/[\w.-]+)(?:/tree/[\w.-]+)?/?"
)


def hub_advice(name: str, is_data: bool = False) -> str:
    """What to add to "no such folder" if the name may be one on the Hugging Face Hub: how to download it; or ""."""
    name = re.sub(r"^(https?):/+", r"\1://", name)  # a Path has one slash there
    found = HUB_NAME.fullmatch(name)
    if not found or name.startswith((".", "-")) or Path(name).parent.exists():
        return ""
    owner_and_name = found[2]
    folder = owner_and_name.split("/")[1]
    kind = " --repo-type dataset" * (is_data or found[1] is not None)
    return (
        "; if this is its name on the Hugging Face Hub, which is not asked here, download it first: "
        f"hf download {owner_and_name}{kind} --local-dir {folder}, "
        f"and pass {folder}"
    )


def missing_advice(name: str | Path, is_data: bool = False) -> str:
    """What to add to a message that nothing is at `name`: where it was looked for, and what it may be instead.

    Empty if something is there. is_data: rather a data set than a model.
    """
    if Path(name).exists() or Path(name).is_absolute():
        return ""
    where = "" if ":/" in str(name) else f"; it was looked for in {Path.cwd()}"
    return where + hub_advice(str(name), is_data)


# ---- reading ------------------------------------------------------------------------------------


def read_whole(path: Path, largest: int = LARGEST) -> bytes:
    """The content. Raises DataError if it is larger or no plain file (a link to one is); OSError if it is missing."""
    refuse_larger(path, largest)
    return path.read_bytes()


class NamedTwice(ValueError):
    """An object of JSON that has a key twice: one of its values would be lost without a word."""


def plain_number(text: str) -> str:
    """The text itself. Raises ValueError if Python alone would read a number: 1_0, or digits of another script."""
    if "_" in text or not text.strip().isascii():
        raise ValueError(f"{text!r} is no plain number")
    return text


def parse_json(content: str | bytes) -> object:
    """What JSON that somebody wrote says. Raises ValueError if it is none, NamedTwice if an object has a key twice."""

    def without_repeats(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise NamedTwice(f"{quoted(twice)} stands twice in one object; keep one of them")
        return found

    return json.loads(content, object_pairs_hook=without_repeats)


def refuse_larger(path: Path, largest: int = LARGEST) -> None:
    """Raises DataError if it is no plain file, or larger; OSError if it is not there."""
    refuse_special(path)
    size = path.stat().st_size
    if size > largest:
        raise DataError(f"{path}: has {size:,} bytes; more than {largest:,} are not read. Is it the right file?")


def refuse_special(path: Path) -> None:
    """Raises DataError if there is something else than a plain file; OSError if there is nothing."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no plain file (a FIFO, a socket or a device)"
        raise DataError(f"{path}: is {what}; put a plain file there")


def read_gzip(path: Path, largest: int) -> bytes:
    """What is packed in a gzip file. Raises DataError if it is not whole or holds more than `largest` bytes."""
    refuse_larger(path, largest)
    blocks, size = [], 0
    try:
        with gzip.open(path) as file:
            while block := file.read(2**20):
                blocks.append(block)
                size += len(block)
                if size > largest:
                    raise DataError(f"{path}: holds more than {largest:,} bytes when unpacked; is it the right file?")
    except GZIP_ERRORS as error:
        raise DataError(f"{path}: not a whole gzip file ({str(error)[:60]}); fetch it again") from None
    return b"".join(blocks)


def lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of an open file, each with its line break. Raises DataError for one of more than LONGEST_LINE bytes."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path} line {number}: has more than {LONGEST_LINE:,} bytes; is it the right file?")
        yield line


def refuse_unencodable(text: str, where: str) -> None:
    """Raises DataError, starting with `where`, for an unpaired surrogate, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {text[:40]!r} has an unpaired surrogate ({text[error.start]!r}) in it; write the whole character"
        ) from None
