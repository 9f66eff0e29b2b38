"""Files whose content nobody vouches for: read whole or by lines, within bounds, and only if they are plain files.

A FIFO would be waited for without end, a device read without end, and a few kilobytes of gzip can hold gigabytes.
"""

import gzip
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.interactions import DataError

LARGEST = 2**30  # bytes of a file that is read whole; the largest prepared one, Amazon's rows, has less than half
LONGEST_LINE = 2**24  # bytes; the longest review of Amazon's has 33,000
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


def read_whole(path: Path, largest: int = LARGEST) -> bytes:
    """The content. Raises DataError if it is no plain file (a link to one is), or larger; OSError if it is not there."""
    refuse_larger(path, largest)
    return path.read_bytes()


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
    """Raises DataError, starting with `where`, for half a character, which JSON can hold and no other text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {text[:40]!r} has half a character ({text[error.start]!r}) in it; write the character whole") from None
