"""Download an archive of raw data: resume an interrupted download, and keep only the published archive."""

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from errors import DataError
from files import optional_module

TIMEOUT = 10  # seconds without an answer
ATTEMPTS = 3  # connections; each resumes where the one before was cut
LARGEST_ARCHIVE = 20 * 2**20  # bytes; MovieLens-1M has 5.9 MB
LARGEST_MEMBER = 40 * 2**20  # bytes; ratings.dat has 24.6 MB


class NoNetwork(OSError):
    """The server could not be reached, or stopped sending."""


@dataclass(frozen=True)
class Archive:
    """A zip file that can be downloaded.

    md5: of the archive, as its publisher states it; members: {path in the archive: file name}. The last one is
    put in place last, so that its presence means that all are there.
    """

    title: str
    url: str
    md5: str
    members: dict[str, str]


def fetch(archive: Archive, folder: Path) -> None:
    """Put the members of the archive into `folder`, all or none.

    An incomplete download is kept beside the folder, and the next call resumes it. Of two processes the second
    waits for the first. Raises NoNetwork if the server cannot be reached or stops sending, DataError if it sends
    something else than the published archive.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    last = folder / list(archive.members.values())[-1]
    with _locked(folder.parent / f".{folder.name}.zip.part") as part:
        if last.exists():  # another process was first
            part.unlink()
            return
        resumed = _receive(archive, part)
        if _md5(part) != archive.md5 and resumed:
            part.write_bytes(b"")  # the kept part was of another archive: start again
            _receive(archive, part)
        try:
            if (md5 := _md5(part)) != archive.md5:
                raise DataError(
                    f"{archive.url}: not the {archive.title} archive (md5 {md5}, published {archive.md5}); "
                    "download it by hand"
                )
            _unpack(archive, part, folder)
        finally:
            part.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """The file, created if it is not there, locked for this process; removed at the end if it is empty.

    Windows has no such lock, nor does it remove a file that is open: there the file is not locked.
    """
    fcntl = optional_module("fcntl")
    while True:
        with path.open("ab") as file:
            if fcntl is None:
                file.close()
            else:
                fcntl.flock(file, fcntl.LOCK_EX)
            # The process that had the lock before may have removed the file: then nobody else can find this one.
            if fcntl and (not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno()))):
                continue
            try:
                yield path
            finally:
                if path.exists() and path.stat().st_size == 0:
                    path.unlink()
            return


def _receive(archive: Archive, part: Path) -> bool:
    """Append to `part` until the server has sent everything; returns whether an earlier call had begun."""
    resumed = part.stat().st_size > 0
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size
        try:
            return _receive_once(archive, part) and resumed
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # nothing is left to send
                return resumed
            received = part.stat().st_size
            if received == before or attempt == ATTEMPTS:
                so_far = f"; {received:,} bytes are kept, and the next attempt resumes there" if received else ""
                raise NoNetwork(f"{archive.url}: {getattr(error, 'reason', error)}{so_far}") from None
    raise AssertionError("unreachable")


def _receive_once(archive: Archive, part: Path) -> bool:
    """One connection. Returns whether the earlier part was kept; raises OSError if the connection is cut."""
    start = part.stat().st_size
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if start and response.status != 206:  # the server does not support ranges and sends everything
            start = 0
        with (
            part.open("r+b") as file,
            tqdm(
                total=start + response.length if response.length else None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=archive.title,
                disable=None,
            ) as bar,
        ):
            file.truncate(start)
            file.seek(start)
            expected = response.length  # bytes; None if the server does not say
            received = 0
            while block := response.read(2**16):
                received += len(block)
                if start + received > LARGEST_ARCHIVE:
                    file.truncate(0)
                    raise DataError(
                        f"{archive.url}: sends more than {LARGEST_ARCHIVE:,} bytes; not the {archive.title} archive"
                    )
                bar.update(file.write(block))
            if expected is not None and received != expected:
                raise ConnectionError(f"connection cut after {start + received:,} of {start + expected:,} bytes")
    return start > 0


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()  # at most LARGEST_ARCHIVE bytes


def _unpack(archive: Archive, path: Path, folder: Path) -> None:
    """Unpack the members, by exact name and with a size limit: no path from within the archive is used on disk."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        try:
            with zipfile.ZipFile(path) as file:
                for member, name in archive.members.items():
                    # Bounded here, since the size that the archive states may be wrong.
                    content = file.open(member).read(LARGEST_MEMBER + 1)
                    if len(content) > LARGEST_MEMBER:
                        raise ValueError(f"{member} has more than {LARGEST_MEMBER:,} bytes")
                    (Path(temporary) / name).write_bytes(content)
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{archive.url}: its archive cannot be unpacked ({str(error)[:60]}); download it by hand"
            ) from None
        folder.mkdir(exist_ok=True)
        for name in archive.members.values():
            os.replace(Path(temporary) / name, folder / name)
